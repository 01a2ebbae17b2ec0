"""The log of a worker."""

import logging
import time

from worker.settings import LOG_FORMAT

REPEAT_SECONDS = 60.0  # until a line that is the same again is written again

_REPETITIVE = (
    "celery.worker.consumer.consumer",
    "celery.worker.consumer.connection",
    "py.warnings",
    "worker.reconciler",
)


class Unrepeated(logging.Filter):
    """Lets a line through once in ``REPEAT_SECONDS``, without a traceback: while Redis refuses, lines come again."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):  # the repr of an error of Redis does not say what was refused
            record.args = tuple(str(part) if isinstance(part, Exception) else part for part in record.args)
        line, now = record.getMessage(), time.monotonic()
        if now - self._written.get(line, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        recent = {old: at for old, at in self._written.items() if now - at < REPEAT_SECONDS}
        self._written = {**recent, line: now}
        record.exc_info = record.exc_text = None
        return True


def set_up() -> None:
    """Write the worker's log to the standard error."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    unrepeated = Unrepeated()
    for name in _REPETITIVE:
        logging.getLogger(name).addFilter(unrepeated)
