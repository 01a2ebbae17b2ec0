"""``digits serve`` with 200 file descriptors and 3 followers at most, where nothing may rest for more than a second.

python -m tests.app.limited serve
"""

import resource

from app import cli, events
from app.processes import protocol, serving

FILES = 200
FOLLOWERS = 3

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    protocol.IDLE_SECONDS = serving.READ_SECONDS = 1
    events.MAX_FOLLOWERS = FOLLOWERS
    cli.main()
