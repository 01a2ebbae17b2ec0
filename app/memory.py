"""What malloc does with freed memory: it keeps it for the next pass, until it is told to give it back.

Both functions do nothing where the C library is not glibc.
"""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Let malloc keep up to 64 MB of freed memory, and take blocks of up to 32 MB from it.

    A pass of the engine needs about 5 MB for a millisecond. By default malloc may return this memory to
    the kernel after each pass and get it back page by page. That takes up to twice the time of a pass.
    """
    with contextlib.suppress(AttributeError):  # the C library is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)


def release_freed_memory() -> None:
    """Give the kernel back what is free: after a large picture that is most of its memory. Takes milliseconds."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
