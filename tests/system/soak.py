"""Random faults, from a seed that is printed: every accepted job must end, with at most one version.

python -m tests.system.soak --faults 20 --seed 7
"""

import argparse
import logging
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from redis.exceptions import RedisError

from tests.processes import eventually
from tests.system.hosts import Hosts, kill, running_hosts, trainer
from worker.jobs import JobState

WORKERS = 2
LONGEST_SECONDS = 600.0  # for each job to end after the last fault

logger = logging.getLogger("soak")


def _some_worker(hosts: Hosts, chance: random.Random) -> int:
    return chance.randrange(len(hosts.workers))


def _kill_trainer(hosts: Hosts, chance: random.Random) -> None:
    trainer(chance.choice(hosts.workers)).kill()


def _sleep_trainer(hosts: Hosts, chance: random.Random) -> None:
    sleeper = trainer(chance.choice(hosts.workers))
    sleeper.suspend()
    time.sleep(chance.uniform(1, 10))  # shorter than a lease, or longer
    sleeper.resume()


def _kill_worker(hosts: Hosts, chance: random.Random) -> None:
    kill(hosts.workers.pop(_some_worker(hosts, chance)))
    hosts.worker()


def _end_worker(hosts: Hosts, chance: random.Random) -> None:
    assert hosts.workers.pop(_some_worker(hosts, chance)).end(signal.SIGTERM, 30) == 0
    hosts.worker()


def _kill_valkey(hosts: Hosts, chance: random.Random) -> None:
    hosts.kill_valkey()
    time.sleep(chance.uniform(0, 10))
    hosts.start_valkey()


def _freeze_valkey(hosts: Hosts, chance: random.Random) -> None:
    hosts.signal_valkey(signal.SIGSTOP)
    time.sleep(chance.uniform(1, 10))
    hosts.signal_valkey(signal.SIGCONT)


def _cut_connections(hosts: Hosts, chance: random.Random) -> None:
    hosts.redis.execute_command("CLIENT", "KILL", "TYPE", chance.choice(["normal", "pubsub"]))  # type: ignore[no-untyped-call]


def _empty_broker(hosts: Hosts, chance: random.Random) -> None:
    if keys := hosts.redis.keys("digits:broker:*"):
        hosts.redis.delete(*keys)


def _cancel(hosts: Hosts, chance: random.Random) -> None:
    if jobs := [job for job in hosts.store.list_newest(100) if job.ended_at is None]:
        hosts.store.cancel(chance.choice(jobs).id)


FAULTS: Mapping[str, Callable[[Hosts, random.Random], None]] = {
    "a training process is killed": _kill_trainer,
    "a training process sleeps": _sleep_trainer,
    "a worker is killed": _kill_worker,
    "a worker is told to end": _end_worker,
    "valkey is killed": _kill_valkey,
    "valkey is frozen": _freeze_valkey,
    "connections are cut": _cut_connections,
    "the broker is emptied": _empty_broker,
    "a job is canceled": _cancel,
}


def soak(hosts: Hosts, faults: int, chance: random.Random) -> Counter[str]:
    """Cause ``faults`` faults; return how many jobs ended in each state.

    Raises:
        AssertionError: a job did not end, or has versions that it should not have.
    """
    for _ in range(WORKERS):
        hosts.worker()
    accepted: list[str] = []
    for number in range(1, faults + 1):
        accepted.append(hosts.train(epochs=chance.randint(1, 8), seed=number))
        time.sleep(chance.uniform(1, 6))
        name = chance.choice(list(FAULTS))
        logger.info("%2d/%d %s", number, faults, name)
        try:
            FAULTS[name](hosts, chance)
        except (RedisError, psutil.Error) as error:  # a connection was cut, or the process was gone
            logger.info("      %s", error)
    ends: Counter[str] = Counter()
    for job_id in accepted:
        job = hosts.wait_for_end(job_id, LONGEST_SECONDS)
        versions = hosts.versions(job_id)
        logger.info(
            "%s %-9s attempts %d, lost %d, resumed %d, versions %d",
            job_id[:8], job.state, job.attempt, job.lost_leases, job.resumes, len(versions),
        )  # fmt: skip
        assert len(versions) == (1 if job.state is JobState.SUCCEEDED else 0), job
        assert hosts.kinds(job_id).count("ended") == 1, job
        ends[job.state] += 1
    eventually(lambda: not list((hosts.model_dir / ".runs").glob("*")), "nothing is left of runs", 60)
    return ends


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    logger.info("seed %d, %d faults", arguments.seed, arguments.faults)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder, running_hosts(Path(folder), "quick") as hosts:
        try:
            logger.info("ended: %s", dict(soak(hosts, arguments.faults, random.Random(arguments.seed))))
        except AssertionError:
            logger.info("%s", hosts.output)
            raise
