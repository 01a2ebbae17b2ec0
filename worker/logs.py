"""The log of every process: lines of text or of JSON, each with what it is about.

What a line is about are its facts, as ``{"job": …}``. Those of the request, or of the job that this process runs, are
added to every line; a line has more with ``extra={"facts": {"job": job_id}}``.

    DIGITS_LOG=json digits up
"""

import logging
import re
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol

from pythonjsonlogger.core import LogData
from pythonjsonlogger.json import JsonFormatter

logger = logging.getLogger("digits")

REPEAT_SECONDS = 60.0  # until a line that is the same again is written again

_REPETITIVE = (
    "celery.worker.consumer.consumer",
    "celery.worker.consumer.connection",
    "py.warnings",
    "worker.reconciler",
)

_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # all but the tab


def _write_encoded(character: str) -> str:
    """A pattern for a character of a key as it stands or percent-encoded, even more than once, as %5F or %255F."""
    return rf"(?:{character}|%(?:25)*(?:{ord(character.lower()):x}|{ord(character.upper()):x}))"


# A key of app/keys.py in any case, encoded or not; its id is no secret.
_PREFIX = "".join(map(_write_encoded, "digits_"))
_HEX, _WORD = (rf"(?:[{some}]|%(?:25)*[0-9a-f]{{2}})" for some in ("0-9a-f", r"\w-"))
_KEY = re.compile(rf"({_PREFIX}{_HEX}{{8}}){_write_encoded('_')}{_WORD}{{20,}}", re.ASCII | re.IGNORECASE)


class Subject(Protocol):
    """What the lines of a task of asyncio, and of the threads that it waits for, are about."""

    def list_facts(self) -> dict[str, str]:
        """As they are now."""


subject: ContextVar[Subject | None] = ContextVar("subject", default=None)

_work: dict[str, str] = {}  # what all lines of this process are about


def set_up(form: str) -> None:
    """Write the log of this process to the standard error; ``form`` is one of ``FORMS``."""
    handler = logging.StreamHandler()
    handler.setFormatter(FORMS[form]())
    handler.addFilter(_add_facts)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_end
    threading.excepthook = lambda end: _log_end(end.exc_type, end.exc_value, end.exc_traceback)


def are_json() -> bool:
    """Whether the lines of this process are JSON."""
    return any(isinstance(handler.formatter, JsonLine) for handler in logging.getLogger().handlers)


def begin_work(facts: Mapping[str, str]) -> None:
    """Add these facts to all lines of this process from now on, in place of those of the work before."""
    _work.clear()
    _work.update(facts)


def find_facts() -> dict[str, str]:
    """What a line would be about here and now."""
    found = subject.get()
    return {**_work, **found.list_facts()} if found else dict(_work)


def get_trace_id(traceparent: str) -> str:
    """The id of the trace in a valid ``traceparent`` (W3C Trace Context)."""
    return traceparent.split("-")[1]


class TextLine(logging.Formatter):
    """One line a record, with the id of its request. No text of a client looks like another line.

    Control characters are escaped, and the lines of a traceback are indented.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(process)d %(name)s%(about)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        request_id = record.__dict__["facts"].get("request_id")
        record.about = f" [{request_id}]" if request_id else ""
        record.message = _escape(record.message.rstrip())
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        line, *rest = super().format(record).split("\n")
        return _mask("\n    ".join([line, *map(_escape, rest)]))


class JsonLine(JsonFormatter):
    """One object a record: its time (RFC 3339, UTC), level, logger, message, process and exception, and its facts."""

    _NAMES = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"}  # noqa: RUF012
    _FIELDS = ("time", "level", "logger", "message", "process", "exception")

    def __init__(self) -> None:
        super().__init__(["asctime", "levelname", "name", "message", "process"], rename_fields=self._NAMES)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def process_log_record(self, log_data: LogData) -> LogData:
        """Leave out what libraries add for their own formatters."""
        facts: dict[str, Any] = log_data["facts"]
        return {name: log_data[name] for name in self._FIELDS if name in log_data} | facts

    def format(self, record: logging.LogRecord) -> str:
        return _mask(super().format(record))


FORMS: Mapping[str, type[logging.Formatter]] = {"text": TextLine, "json": JsonLine}


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


def leave_out_repeated() -> None:
    """Write what a worker says again and again once in ``REPEAT_SECONDS``."""
    unrepeated = Unrepeated()
    for name in _REPETITIVE:
        logging.getLogger(name).addFilter(unrepeated)


def _add_facts(record: logging.LogRecord) -> bool:
    record.facts = {**find_facts(), **record.__dict__.get("facts", {})}
    return True


def _log_end(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    """Log what ends a process or a thread."""
    if issubclass(kind, Exception):
        logger.critical("unexpected error", exc_info=(kind, error or kind(), where))
    else:  # Ctrl-C
        sys.__excepthook__(kind, error or kind(), where)


def _escape(text: str) -> str:
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _mask(line: str) -> str:
    """The line without the secret part of any key of ours: a client may have put one where it does not belong."""
    if "%" in line or "digits_" in line.lower():  # a quick look: most lines have neither
        return _KEY.sub(r"\1_…", line)
    return line
