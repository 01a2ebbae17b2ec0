"""The audit log: who has changed what. A line for each change, on the logger ``digits.audit``, always on."""

import logging

from worker.logs import find_facts

logger = logging.getLogger("digits.audit")


def audit(event: str, level: int = logging.INFO, **facts: str | int | bool) -> None:
    """Log what the present request has done, as ``audit("cancel", job=job_id)``.

    The line names the key and the address that the request came with, and in JSON its id, too.
    """
    found = find_facts()
    who = [(name, found[name]) for name in ("key", "client") if name in found]
    told = " ".join(f"{name}={value}" for name, value in [*facts.items(), *who])
    logger.log(level, "%s %s", event, told, extra={"facts": {"event": event, **facts}})
