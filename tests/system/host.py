"""``digits worker`` and ``digits serve`` for tests of faults: quicker to notice them, or without a protection.

``DIGITS_TEST`` is a comma-separated list of rows of ``CHANGES``.

    python -m tests.system.host worker
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from app.cli import cli
from models import publishing
from worker import broker, connections, jobs, lease, saved

LEASE_SECONDS, RECONCILE_SECONDS, WAKE_SECONDS = 4, 1, 2


def _script(old: str, new: str) -> None:
    assert old in jobs._SCRIPT, old
    jobs._SCRIPT = jobs._SCRIPT.replace(old, new)


def _quick() -> None:
    """Seconds for tens of seconds, and no metrics of the finished generator."""
    _script(f"local LEASE = {jobs.LEASE_SECONDS}\n", f"local LEASE = {LEASE_SECONDS}\n")
    _script(f"local RECONCILE = {jobs.RECONCILE_SECONDS}\n", f"local RECONCILE = {RECONCILE_SECONDS}\n")
    _script(f"local QUIET = {jobs.QUIET_SECONDS}\n", f"local QUIET = {2 * LEASE_SECONDS}\n")
    _script(f"local WAKE = {jobs.WAKE_SECONDS}\n", f"local WAKE = {WAKE_SECONDS}\n")
    jobs.RECONCILE_SECONDS = RECONCILE_SECONDS
    lease.REPORT_SECONDS = 0.3
    if __name__ != "__main__":  # in the training child, which has torch anyway
        from worker import trainer

        trainer.make_measure = lambda recipe, data_dir: lambda G: {"fid": 1.0}


def _late() -> None:
    """Celery's own redelivery, at its most eager."""
    make = broker.make_celery

    def make_late(redis_url: str, **transport_options: Any) -> Any:
        eager = {"visibility_timeout": 5, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        celery = make(redis_url, **transport_options, **eager)
        celery.conf.task_acks_late = True
        celery.conf.task_reject_on_worker_lost = True
        return celery

    broker.make_celery = make_late


def _no_resume() -> None:
    saved.read = lambda folder: iter(())


def _no_marker() -> None:
    publishing._write_once = lambda *_: True


def _no_timeouts() -> None:
    from app import dependencies  # with torch, which the training child shall load when it is told to

    connections.REDIS_SECONDS = 60.0
    dependencies.ANSWER_SECONDS = 60.0


CHANGES: Mapping[str, Callable[[], None]] = {
    "quick": _quick,
    "late": _late,
    # protections taken away
    "no lease": lambda: _script("then lost(id, false) else", "then local _ else"),
    "no resume": _no_resume,
    "no token": lambda: _script("return state == 'running' and its_token == token", "return true"),
    "no marker": _no_marker,
    "no claim": lambda: _script("if get(id, 'state') ~= 'queued' then return false end", ""),
    "no limit": lambda: _script("times >= MAX_LOST", "false"),
    "no wake": lambda: _script("asleep[#asleep + 1] = id", ""),
    "no flag": lambda: _script("set(id, 'cancel_requested', 1)", "finish(id, 'canceled')"),
    "no uncounting": lambda: _script("redis.call('HINCRBY', key(id), 'attempt', -1)", ""),
    "no timeouts": _no_timeouts,
}


for name in filter(None, os.environ.get("DIGITS_TEST", "").split(",")):
    CHANGES[name]()

if __name__ == "__main__":  # and not in the training child, which imports its parent's main module
    cli()
