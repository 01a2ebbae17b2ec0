"""``digits serve`` with 200 file descriptors, where a connection may be idle for one second.

python -m tests.app.limited serve
"""

import resource

from app import cli
from app.processes import protocol

FILES = 200

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    protocol.IDLE_SECONDS = 1
    cli.main()
