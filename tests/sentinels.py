"""A primary, its replica, and three sentinels that watch them: real processes on loopback."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from app.processes import valkey
from app.processes.child import Child
from tests.processes import eventually

NAME = "digits-main"
DOWN_MILLISECONDS = 1500  # without a word from the primary, then it counts as down
RULE = "~digits:* +@all -@dangerous -@admin"  # docs/running.md has both
SENTINEL_RULE = "-@all +auth +hello +sentinel|masters"
LOGIN, SENTINEL_LOGIN = ("digits", "p@ss/word"), ("asks", "other&pass")


class Watched:
    """``url`` names the sentinels, and users that may do what docs/running.md says and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.primary, primary_url = valkey.make(folder / "primary")
        self.password = primary_url.split(":")[2].partition("@")[0]  # of the user who may do all
        self.port = _find_port(self.primary)
        self.replica, _ = valkey.make(folder / "replica", self.port)
        self.replica_port = _find_port(self.replica)
        for server in (self.primary, self.replica):  # each may become the replica of the other
            server.stdin += f"requirepass {self.password}\nmasterauth {self.password}\nrepl-diskless-sync-delay 0\n"
            server.stdin += f"user {LOGIN[0]} on >{LOGIN[1]} {RULE}\n"
        self.replica.stdin += f"replicaof 127.0.0.1 {self.port}\n"
        self.sentinel_ports: list[int] = []
        self.sentinels = [self._make_sentinel(folder / f"sentinel-{number}") for number in range(3)]

    def _make_sentinel(self, folder: Path) -> Child:
        folder.mkdir()
        while (port := valkey.find_free_port()) in (self.port, self.replica_port, *self.sentinel_ports):
            pass
        self.sentinel_ports.append(port)
        configuration = folder / "sentinel.conf"  # it writes into it what it finds
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\nloglevel warning\n"
            f"requirepass {self.password}\nsentinel sentinel-pass {self.password}\n"
            f"user {SENTINEL_LOGIN[0]} on >{SENTINEL_LOGIN[1]} {SENTINEL_RULE}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {self.port} 2\n"
            f"sentinel auth-pass {NAME} {self.password}\n"
            f"sentinel down-after-milliseconds {NAME} {DOWN_MILLISECONDS}\n"
            f"sentinel failover-timeout {NAME} 3000\n"
        )
        return Child("sentinel", [valkey.find_binary(), str(configuration), "--sentinel"], 2.0)

    @property
    def url(self) -> str:
        return self.make_url(*self.sentinel_ports)

    def make_url(self, *ports: int, name: str = NAME, password: str = "other%26pass") -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        login = f"sentinel_username={SENTINEL_LOGIN[0]}&sentinel_password={password}"
        return f"redis+sentinel://{LOGIN[0]}:p%40ss%2Fword@{hosts}/{name}/1?{login}"

    def admin(self, port: int, database: int = 0) -> Redis:
        """A client that may do all, of any of the five."""
        return Redis(port=port, db=database, password=self.password, decode_responses=True, socket_timeout=5)

    def start(self) -> None:
        self.start_servers()
        for child in self.sentinels:
            child.start()
        eventually(lambda: all(self._knows_all(port) for port in self.sentinel_ports), "the sentinels know all")

    def start_servers(self) -> None:
        self.primary.start()
        self.replica.start()
        eventually(self._is_linked, "the replica follows the primary")

    def _is_linked(self) -> bool:
        with suppress(RedisError), self.admin(self.replica_port) as redis:
            return bool(redis.info("replication").get("master_link_status") == "up")
        return False

    def _knows_all(self, port: int) -> bool:
        with suppress(RedisError, KeyError), self.admin(port) as sentinel:
            found: Any = sentinel.sentinel_masters()
            replicas: Any = sentinel.sentinel_slaves(NAME)
            links = [replica["master-link-status"] for replica in replicas]
            return bool(found[NAME]["num-other-sentinels"] == 2 and links == ["ok"])
        return False

    def find_role(self, port: int) -> str:
        with self.admin(port) as redis:
            return str(redis.info("replication")["role"])

    def wait_for_new_primary(self) -> None:
        """Wait until all sentinels name the former replica."""

        def names_it() -> bool:
            for port in self.sentinel_ports:
                with self.admin(port) as sentinel:
                    found: Any = sentinel.sentinel_masters()
                    if found[NAME]["port"] != self.replica_port:
                        return False
            return self.find_role(self.replica_port) == "master"

        eventually(names_it, "there is a new primary")

    def kill_primary(self) -> None:
        assert self.primary.process is not None
        self.primary.process.kill()
        self.primary.process.wait()

    def end(self) -> None:
        for child in (*self.sentinels, self.replica, self.primary):
            if child.process:  # a test may have frozen or killed it
                child.process.send_signal(signal.SIGCONT)
                child.end()


def _find_port(server: Child) -> int:
    return int(next(line.split()[1] for line in server.stdin.splitlines() if line.startswith("port ")))


@contextmanager
def running_watched(folder: Path) -> Iterator[Watched]:
    watched = Watched(folder)
    with ExitStack() as stack:
        stack.callback(watched.end)
        watched.start()
        yield watched
