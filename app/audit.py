"""The audit log: who has changed what. A line for each change, on the logger ``digits.audit``, always on."""

import getpass
import logging
import os

from worker.logs import find_facts

logger = logging.getLogger("digits.audit")
logger.setLevel(logging.INFO)  # also in commands whose log has warnings alone


def audit(event: str, level: int = logging.INFO, **facts: str | int | bool) -> None:
    """Log what the present request has done, as ``audit("cancel", job=job_id)``.

    The line names the key and the address that the request came with, and in JSON its id, too.
    """
    found = find_facts()
    who = [(name, found[name]) for name in ("key", "client") if name in found]
    told = " ".join(f"{name}={value}" for name, value in [*facts.items(), *who])
    logger.log(level, "%s %s", event, told, extra={"facts": {"event": event, **facts}})


def audit_command(event: str, **facts: str | int | bool) -> None:
    """Log what a command has done, as ``audit_command("pin", arch=arch, version=3)``. The line names the user."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # as in a container: the number has no name
        user = str(os.getuid())
    audit(event, logging.INFO, user=user, **facts)
