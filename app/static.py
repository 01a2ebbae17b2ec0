"""The page's own files: scripts, style, icon. They are in memory, plain and packed.

Their address has the name of the build, which changes with any of them. So a browser keeps them for ever.
"""

import gzip
import hashlib
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "web" / "static"


@cache
def load() -> dict[str, tuple[bytes, bytes]]:
    """Name → content of every file, plain and packed by gzip."""
    contents = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir())}
    return {name: (content, gzip.compress(content, mtime=0)) for name, content in contents.items()}


@cache
def find_build() -> str:
    """The name of the content of all files."""
    return hashlib.sha256(repr(load()).encode()).hexdigest()[:12]
