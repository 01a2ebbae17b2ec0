"""The access log: a line for each answer, on the logger ``digits.access``. No text of a client can forge a line."""

import logging

from starlette.types import Scope

from worker.logs import find_facts

logger = logging.getLogger("digits.access")

MAX_SHOWN = 1000  # characters of a path with its query, and of a user agent: a line stays one write

REFUSAL = "digits.refusal"  # in the scope of a request that the protocol has answered: status, and bytes of the body


def log_answer(
    scope: Scope, method: str, target: bytes, status: int, size: int, seconds: float | None, is_complete: bool
) -> None:
    """Log an answer of ``size`` bytes, its head not counted, which took ``seconds`` (None: nobody knows)."""
    address = scope["client"][0] if scope.get("client") else "-"
    agents = [value for name, value in scope["headers"] if name == b"user-agent"]
    path, agent = (text[:MAX_SHOWN].decode("latin-1") for text in (target, agents[0] if agents else b"-"))
    logger.info(
        '%s %s "%s %s" %d %d B %s s%s "%s"',
        address,
        find_facts().get("key", "-"),
        method,
        _quote(path),
        status,
        size,
        "-" if seconds is None else f"{seconds:.3f}",
        "" if is_complete else " cut",
        _quote(agent),
        extra={
            "facts": {
                "client": address,
                "method": method,
                "path": path,
                "status": status,
                "bytes": size,
                **({} if seconds is None else {"seconds": round(seconds, 6)}),
                "complete": is_complete,
                "user_agent": agent,
            }
        },
    )


def _quote(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"")
