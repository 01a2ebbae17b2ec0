"""What a worker needs before it takes a job. One that lacks it would fail job after job.

Must not import torch: the worker's parent process uses this.
"""

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

from redis.exceptions import RedisError

from models import files, mnist
from worker.connections import connect, explain, is_permanent
from worker.jobs import JobStore
from worker.settings import Settings

logger = logging.getLogger(__name__)

_FIND_DEVICE = """
from models import device
try:
    device.resolve("cuda")
except device.UnavailableDeviceError as error:
    raise SystemExit(str(error))
"""


class UnmetError(Exception):
    """The worker cannot do its work here; the message names the setting, or what is missing."""


def require_all(settings: Settings) -> None:
    """Check that jobs can be trained and published here.

    A Redis that does not answer yet is waited for later.

    Raises:
        UnmetError: data, device, model directory, shared memory or Redis are not as a worker needs them.
    """
    try:
        mnist.check(settings.data_dir)
    except mnist.DatasetError as error:
        raise UnmetError(str(error)) from None
    try:
        _require_writable(settings.model_dir)
    except OSError as error:
        raise UnmetError(f"DIGITS_MODEL_DIR: cannot write to {settings.model_dir}: {error.strerror}") from None
    if settings.device == "cuda":
        _require_cuda()
    _require_semaphores()
    _require_redis(settings)


def _require_writable(folder: Path) -> None:
    files.make_root(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _require_cuda() -> None:
    """In a process of its own, since it takes torch."""
    asked = subprocess.run([sys.executable, "-P", "-c", _FIND_DEVICE], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise UnmetError(asked.stderr.strip().splitlines()[-1])


def _require_semaphores() -> None:
    """Celery's pool of processes needs them."""
    try:
        import billiard

        billiard.Lock()
    except OSError as error:
        raise UnmetError(f"no semaphore can be made ({error.strerror}): /dev/shm must be writable") from None


def _require_redis(settings: Settings) -> None:
    client = connect(settings.require_redis())
    try:
        JobStore(client).probe()
    except RedisError as error:
        if is_permanent(error):
            raise UnmetError(f"redis cannot be used: {explain(error)}") from None
        logger.warning("redis cannot be used yet: %s", explain(error))
    finally:
        client.close()
