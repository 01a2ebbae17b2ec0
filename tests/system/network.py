"""Several hosts in network namespaces, and what can happen between them, under load.

Nginx in front of two APIs, two workers, a Redis with two replicas and a sentinel on each of the three, on one switch.
All share a folder. While clients draw and queue trainings all the time, the host of a worker loses its cable, then that
of the primary, and each gets it back. Then the APIs are restarted in turns. At the end no accepted job may be lost or
doubled, and every picture must have come. Needs root, ip, nginx, and Linux.

    python -m tests.system.network
"""

import argparse
import ctypes
import hashlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from app.processes import valkey
from models import versions
from models.manifest import read_manifest
from tests.processes import answers, eventually

logger = logging.getLogger("network")

HOSTS = ("client", "front", "api1", "api2", "worker1", "worker2", "redis1", "redis2", "redis3")
SWITCH = "digits-switch"
CHANGES = "few,unmeasured,quick"  # of tests.system.host: short trainings, leases of seconds
GROUP, PORT, SENTINEL_PORT, API_PORT = "digits", 6379, 26379, 8000
DOWN_MILLISECONDS = 2_000
DRAWERS = 4
TRAIN_SECONDS = 4.0  # between two trainings that are queued
JOB_SECONDS = 180.0  # for one of the jobs that wait to end
ACCEPT_SECONDS = 60.0  # until a training is accepted, whatever is going on

NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream digits {{
        server {api1}:{port} max_fails=1 fail_timeout=1s;
        server {api2}:{port} max_fails=1 fail_timeout=1s;
    }}
    server {{
        listen {front}:80;
        location / {{
            proxy_pass http://digits; proxy_http_version 1.1; proxy_set_header Host $host;
            proxy_set_header Connection "";
            proxy_connect_timeout 1s; proxy_next_upstream error timeout;
        }}
    }}
}}
"""


def address(host: str) -> str:
    return f"10.77.0.{10 + HOSTS.index(host)}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def plug(host: str) -> None:
    """Put the cable of a host into the switch."""
    ip("-n", SWITCH, "link", "set", f"to-{host}", "master", "switch")


def unplug(host: str) -> None:
    """Take it out. Nobody is told: packets to and from the host go nowhere."""
    ip("-n", SWITCH, "link", "set", f"to-{host}", "nomaster")


@contextmanager
def running_switch() -> Iterator[None]:
    """A namespace for each host, all on one switch. This thread, and those that it starts, are on ``client``."""
    names = [SWITCH, *(f"digits-{host}" for host in HOSTS)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", SWITCH, "link", "add", "switch", "type", "bridge")
        ip("-n", SWITCH, "link", "set", "switch", "up")
        for host in HOSTS:
            peer = ("peer", "name", "eth0", "netns", f"digits-{host}")
            ip("-n", SWITCH, "link", "add", f"to-{host}", "type", "veth", *peer)
            ip("-n", SWITCH, "link", "set", f"to-{host}", "up")
            ip("-n", f"digits-{host}", "address", "add", f"{address(host)}/24", "dev", "eth0")
            ip("-n", f"digits-{host}", "link", "set", "eth0", "up")
            plug(host)
        with open("/run/netns/digits-client") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


class Network:
    """The processes on the hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model_dir = folder, folder / "models"
        self.password = secrets.token_urlsafe(16)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        sentinels = ",".join(f"{address(host)}:{SENTINEL_PORT}" for host in HOSTS if host.startswith("redis"))
        self.url = f"redis+sentinel://:{self.password}@{sentinels}/{GROUP}/0?sentinel_password={self.password}"

    def run(self, host: str, name: str, *command: str, **environment: str) -> None:
        """Start a process on a host; its output goes to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", f"digits-{host}", *command],
                env={**os.environ, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start(self) -> None:
        for host in ("redis1", "redis2", "redis3"):
            self.start_redis(host)
        for host in ("redis1", "redis2", "redis3"):
            self.start_sentinel(host)
        eventually(self._is_watched, "the sentinels know all")
        for number in (1, 2):
            self.run(f"worker{number}", f"worker{number}", *self._digits("worker"), **self._environment())
            self.start_api(number)
        configuration = self.folder / "nginx.conf"
        places = {host: address(host) for host in ("front", "api1", "api2")}
        configuration.write_text(NGINX.format(folder=self.folder, port=API_PORT, **places))
        nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        assert nginx, "there is no nginx"
        self.run("front", "nginx", nginx, "-c", str(configuration), "-e", str(self.folder / "nginx.log"))
        for host in ("front", "api1", "api2"):
            eventually(lambda host=host: self.is_answering(host), f"{host} answers")  # type: ignore[misc]

    def start_redis(self, host: str) -> None:
        folder = self.folder / host
        folder.mkdir()
        lines = [
            f"port {PORT}", f"dir {folder}", "appendonly yes", 'save ""', "maxmemory-policy noeviction",
            f"requirepass {self.password}", f"masterauth {self.password}", "repl-diskless-sync-delay 0",
            "min-replicas-to-write 1", "min-replicas-max-lag 2", "repl-ping-replica-period 1", "repl-timeout 5",
        ]  # fmt: skip
        if host != "redis1":
            lines.append(f"replicaof {address('redis1')} {PORT}")
        (folder / "redis.conf").write_text("\n".join([*lines, ""]))
        self.run(host, host, valkey.find_binary(), str(folder / "redis.conf"))

    def start_sentinel(self, host: str) -> None:
        configuration = self.folder / host / "sentinel.conf"
        lines = [
            f"port {SENTINEL_PORT}", f"dir {self.folder / host}", f"requirepass {self.password}",
            f"sentinel sentinel-pass {self.password}", f"sentinel monitor {GROUP} {address('redis1')} {PORT} 2",
            f"sentinel auth-pass {GROUP} {self.password}", f"sentinel failover-timeout {GROUP} 6000",
            f"sentinel down-after-milliseconds {GROUP} {DOWN_MILLISECONDS}",
        ]  # fmt: skip
        configuration.write_text("\n".join([*lines, ""]))
        self.run(host, f"sentinel-{host}", valkey.find_binary(), str(configuration), "--sentinel")

    def start_api(self, number: int) -> None:
        told = {"DIGITS_HOST": "0.0.0.0", "DIGITS_OPEN": "true", "DIGITS_API_PROCESSES": "1"}
        named = {"DIGITS_PORT": str(API_PORT), "DIGITS_ALLOWED_HOSTS": address("front")}
        self.run(f"api{number}", f"api{number}", *self._digits("serve"), **self._environment(), **told, **named)

    def stop_api(self, number: int) -> None:
        """As an operator does: it may end what it has begun."""
        api = self.processes[f"api{number}"]
        api.terminate()
        api.wait()

    def find_trainer(self) -> str:
        """The worker whose host trains now."""

        def trains(host: str) -> bool:
            worker = psutil.Process(self.processes[host].pid)
            return any(
                child.num_threads() > 1 and child.cpu_percent(0.2) > 1 for child in worker.children(recursive=True)
            )

        return eventually(
            lambda: next((host for host in ("worker1", "worker2") if trains(host)), ""), "a worker trains"
        )

    def is_answering(self, host: str) -> bool:
        port = 80 if host == "front" else API_PORT
        with httpx.Client(base_url=f"http://{address(host)}:{port}") as client:
            return answers(client)

    def find_primary(self) -> str:
        """The host that all sentinels which answer call the primary; empty: they do not agree."""
        named = set()
        for host in ("redis1", "redis2", "redis3"):
            try:
                with self._ask(host, SENTINEL_PORT) as sentinel:
                    found: Any = sentinel.sentinel_get_master_addr_by_name(GROUP)
                    named.add(found[0])
            except RedisError:
                continue
        return next((host for host in HOSTS if named == {address(host)}), "")

    def is_accepting(self) -> bool:
        """Whether the primary takes writes."""
        primary = self.find_primary()
        try:
            with self._ask(primary or "redis1", PORT) as redis:
                found: Any = redis.info("replication")
                return bool(primary and found["role"] == "master" and found["min_slaves_good_slaves"] >= 1)
        except RedisError:
            return False

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _is_watched(self) -> bool:
        try:
            for host in ("redis1", "redis2", "redis3"):
                with self._ask(host, SENTINEL_PORT) as sentinel:
                    found: Any = sentinel.sentinel_masters()
                    if (found[GROUP]["num-other-sentinels"], found[GROUP]["num-slaves"]) != (2, 2):
                        return False
        except (RedisError, KeyError):
            return False
        return self.is_accepting()

    def _ask(self, host: str, port: int) -> Redis:
        once = Retry(NoBackoff(), 0)
        return Redis(address(host), port, password=self.password, decode_responses=True, socket_timeout=1, retry=once)

    def _digits(self, command: str) -> list[str]:
        return [sys.executable, "-m", "tests.system.host", command]

    def _environment(self) -> dict[str, str]:
        return {
            "DIGITS_REDIS_URL": self.url,
            "DIGITS_MODEL_DIR": str(self.model_dir),
            "DIGITS_DEVICE": "cpu",
            "DIGITS_TRAINING_THREADS": "1",
            "CHANGES_FOR_TESTS": CHANGES,
        }


class Load:
    """Clients of the front: some draw, one queues trainings."""

    def __init__(self) -> None:
        self.phase = "all is well"
        self.drawn: Counter[str] = Counter()  # phase → pictures
        self.lost: Counter[tuple[str, str]] = Counter()  # (phase, what came instead) → pictures
        self.accepted: list[str] = []
        self.waits: list[float] = []  # seconds until a training was accepted
        self._over = threading.Event()
        self._sums: dict[int, str] = {}  # seed → of its picture, whichever host drew it
        work = [*[self._draw] * DRAWERS, self._train]
        self._threads = [threading.Thread(target=call, args=(number,)) for number, call in enumerate(work)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _open(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://{address('front')}", timeout=10)

    def _draw(self, number: int) -> None:
        seed = number
        with self._open() as client:
            while not self._over.is_set():
                seed = (seed + DRAWERS) % 400
                phase = self.phase
                try:
                    answer = client.get(f"/generate?arch=dcgan&version=1&n=4&seed={seed}")
                    found = str(answer.status_code)
                    if answer.status_code == 200:
                        found = hashlib.sha256(answer.content).hexdigest()
                        found = "" if self._sums.setdefault(seed, found) == found else "another picture"
                except httpx.HTTPError as error:
                    found = repr(error)
                if found:
                    self.lost[phase, found] += 1
                else:
                    self.drawn[phase] += 1

    def _train(self, _: int) -> None:
        order = {"arch": "vanilla", "recipe": "book", "epochs": 2}
        with self._open() as client:
            while not self._over.wait(TRAIN_SECONDS):
                began, key = time.monotonic(), secrets.token_hex(8)
                while time.monotonic() < began + ACCEPT_SECONDS:  # the same key: it cannot make two jobs
                    try:
                        answer = client.post("/train", json=order, headers={"Idempotency-Key": key})
                    except httpx.HTTPError:
                        continue
                    if answer.status_code == 202:
                        self.accepted.append(answer.json()["id"])
                        self.waits.append(time.monotonic() - began)
                        break
                    time.sleep(0.2)


def try_faults(network: Network, load: Load, pause: float) -> None:
    logger.info("all is well, for %.0f s", pause)
    time.sleep(pause)
    for host, what in ((network.find_trainer(), "a worker"), (network.find_primary(), "the primary")):
        load.phase = f"the host of {what} is cut off"
        logger.info("%s: %s", load.phase, host)
        unplug(host)
        time.sleep(pause)
        if host.startswith("redis"):
            eventually(lambda host=host: network.find_primary() not in ("", host), "there is a new primary")  # type: ignore[misc]
        load.phase = f"the host of {what} is back"
        logger.info("%s", load.phase)
        plug(host)
        eventually(network.is_accepting, "the primary takes writes")
        time.sleep(pause)
    load.phase = "the APIs are restarted in turns"
    for number in (1, 2):
        logger.info("%s: api%d", load.phase, number)
        network.stop_api(number)
        time.sleep(1)
        network.start_api(number)
        eventually(lambda number=number: network.is_answering(f"api{number}"), "it answers")  # type: ignore[misc]
        time.sleep(pause / 2)
    load.phase = "all is well again"
    time.sleep(pause / 2)


def list_jobs() -> dict[str, dict[str, Any]]:
    """All jobs that the service knows, by id."""
    return {job["id"]: job for job in httpx.get(f"http://{address('front')}/jobs?limit=1000", timeout=10).json()}


def count_unended() -> int:
    return sum(job["ended_at"] is None for job in list_jobs().values())


def judge(network: Network, load: Load) -> list[str]:
    """What is wrong, if anything is."""
    made = Counter(read_manifest(folder).job for folder in versions.find_folders(network.model_dir).values())
    wrong = [f"{count} pictures were lost while {phase}: {what}" for (phase, what), count in load.lost.items()]
    jobs = list_jobs()
    for job_id in load.accepted:
        state = jobs.get(job_id, {"state": "lost"})["state"]
        if (state, made[job_id]) != ("succeeded", 1):
            wrong.append(f"job {job_id}: {state}, {made[job_id]} versions")
    wrong += [f"job {job_id} was never accepted" for job_id in jobs.keys() - set(load.accepted)]
    if len(set(load.accepted)) != len(load.accepted):
        wrong.append("a key gave the same job twice")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pause", type=float, default=12.0, help="seconds of each phase; a lease has 4")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="digits-network-"))
    logger.info("logs and versions: %s", folder)
    with ExitStack() as stack:
        stack.enter_context(running_switch())
        network, load = Network(folder), Load()
        stack.callback(network.end)
        network.start()
        stack.callback(load.end)
        load.start()
        try_faults(network, load, arguments.pause)
        load.end()
        logger.info("waiting for %d jobs", count_unended())
        eventually(lambda: not count_unended(), "all jobs end", progress=count_unended, seconds=JOB_SECONDS)
        wrong = judge(network, load)
    for phase, count in load.drawn.items():
        logger.info("%6d pictures while %s", count, phase)
    logger.info("%d trainings were accepted, the slowest after %.1f s", len(load.accepted), max(load.waits))
    for problem in wrong:
        logger.error("%s", problem)
    logger.info(
        "nothing is lost or doubled" if not wrong else "something is wrong: the logs are in %s", *[folder][: len(wrong)]
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
