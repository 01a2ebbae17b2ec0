"""``digits up``, ``worker`` and ``serve`` for tests: they notice faults sooner, or lack a protection.

``CHANGES_FOR_TESTS`` is a comma-separated list of rows of ``CHANGES``.

    python -m tests.system.host worker
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.cli import main
from worker import broker, connections, jobs, lease, saved

LEASE_SECONDS, RECONCILE_SECONDS, WAKE_SECONDS, SENDING_SECONDS = 4, 1, 2, 5


def _script(old: str, new: str) -> None:
    assert old in jobs._SCRIPT, old
    jobs._SCRIPT = jobs._SCRIPT.replace(old, new)


def _trains() -> bool:
    """Whether this process trains, and so loads torch anyway: a training child, or ``digits train``."""
    return __name__ != "__main__" or sys.argv[1:2] == ["train"]


def _unmeasured() -> None:
    """Skip the metrics of the finished generator, which take as long as a short training."""
    if _trains():
        from worker import trainer

        trainer.make_measure = lambda recipe, test_images: lambda G: {"fid": 1.0}


def _few() -> None:
    """Train on the first tenth of MNIST."""
    if _trains():
        from models import mnist

        load = mnist.load_summed

        def load_few(data_dir: Path, name: str = mnist.TRAIN_IMAGES) -> Any:
            images, found = load(data_dir, name)
            return images[: len(images) // 10], found

        mnist.load_summed = load_few


def _quick() -> None:
    """Wait seconds instead of tens of seconds, and skip the metrics."""
    _unmeasured()
    _script(f"local LEASE = {jobs.LEASE_SECONDS}\n", f"local LEASE = {LEASE_SECONDS}\n")
    _script(f"local RECONCILE = {jobs.RECONCILE_SECONDS}\n", f"local RECONCILE = {RECONCILE_SECONDS}\n")
    _script(f"local QUIET = {jobs.QUIET_SECONDS}\n", f"local QUIET = {2 * LEASE_SECONDS}\n")
    _script(f"local WAKE = {jobs.WAKE_SECONDS}\n", f"local WAKE = {WAKE_SECONDS}\n")
    jobs.RECONCILE_SECONDS = RECONCILE_SECONDS
    lease.REPORT_SECONDS = 0.3


def _quick_webhooks() -> None:
    """Send webhooks again within a second, seven times in all."""
    from app import webhooks  # here: it loads torch, which must wait until it is needed

    webhooks.DELAYS = (0.0, *(0.2,) * 6)
    webhooks.TRY_SECONDS = 1.0
    webhooks.LOOK_SECONDS = 0.1
    _script(f"local SENDING = {jobs.SENDING_SECONDS}\n", f"local SENDING = {SENDING_SECONDS}\n")


def _late() -> None:
    """Switch on Celery's own redelivery, as eager as possible; every message reaches a child, which must not claim."""
    jobs.JobStore.can_run = lambda self, job_id: True  # type: ignore[method-assign]
    make = broker.make_celery

    def make_late(redis_url: str, seconds: float, **transport_options: Any) -> Any:
        eager = {"visibility_timeout": 5, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        eager["ack_emulation"] = True
        celery = make(redis_url, seconds, **transport_options, **eager)
        celery.conf.task_acks_late = True
        celery.conf.task_reject_on_worker_lost = True
        return celery

    broker.make_celery = make_late


def _deadly() -> None:
    """Kill the training process at the same step of the second epoch, each time."""
    if _trains():
        from worker import watch

        on_progress = watch.Watch.on_progress

        def die(self: watch.Watch, progress: Any) -> None:
            on_progress(self, progress)
            if (progress.epoch, progress.step) == (2, 5):
                os.kill(os.getpid(), signal.SIGKILL)

        watch.Watch.on_progress = die  # type: ignore[method-assign]


def _no_resume() -> None:
    saved.read = lambda folder: iter(())


def _no_marker() -> None:
    from models import publishing  # here: it loads torch, which the parent process must not

    publishing._write_once = lambda *_: True


def _no_timeouts() -> None:
    from app import dependencies  # here: it loads torch, which must wait until it is needed

    connections.REDIS_SECONDS = 60.0
    dependencies.ANSWER_SECONDS = 60.0


def _no_end_of_silence() -> None:
    broker.STALE_SECONDS = 600.0


CHANGES: Mapping[str, Callable[[], None]] = {
    "few": _few,
    "unmeasured": _unmeasured,
    "quick": _quick,
    "quick webhooks": _quick_webhooks,
    "late": _late,
    "deadly": _deadly,
    # protections switched off
    "no lease": lambda: _script("then lost(id, false) else", "then local _ else"),
    "no resume": _no_resume,
    "no token": lambda: _script("return state == 'running' and its_token == token", "return true"),
    "no marker": _no_marker,
    "no claim": lambda: _script("if get(id, 'state') ~= 'queued' then return false end", ""),
    "no new count": lambda: _script("set(id, 'lost_in_a_row', 0)", ""),
    "no limit": lambda: _script("times >= MAX_LOST", "false"),
    "no wake": lambda: _script("asleep[#asleep + 1] = id", ""),
    "no flag": lambda: _script("set(id, 'cancel_requested', 1)", "finish(id, 'canceled')"),
    "no uncounting": lambda: _script("redis.call('HINCRBY', key(id), 'attempt', -1)", ""),
    "no timeouts": _no_timeouts,
    "no end of silence": _no_end_of_silence,
}


for name in filter(None, os.environ.get("CHANGES_FOR_TESTS", "").split(",")):
    CHANGES[name]()

if __name__ == "__main__":  # not in the training child, which imports its parent's main module
    from app.processes import up

    up.COMMAND = [sys.executable, "-m", "tests.system.host"]
    main()
