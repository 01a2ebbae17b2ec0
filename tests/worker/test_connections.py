"""A failover is survived: the clients find the new primary by themselves."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.processes import valkey
from app.processes.valkey import find_free_port
from tests.processes import eventually, run_in_threads, running
from tests.sentinels import RULE, SENTINEL_RULE, Watched, running_watched
from worker.broker import Publisher, make_celery
from worker.connections import SILENT, connect, explain, is_permanent, make_pool
from worker.jobs import JobStore, TrainRequest
from worker.redis_url import read

REQUEST = TrainRequest.model_validate({"arch": "vanilla"})


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    with running_watched(tmp_path) as watched:
        yield watched


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """For tests that change nothing."""
    with running_watched(tmp_path_factory.mktemp("quiet")) as watched:
        yield watched


def works(store: JobStore, publisher: Publisher) -> bool:
    with suppress(RedisError, OperationalError):
        store.probe()
        publisher.wake("job")
        return publisher.count_waiting() > 0
    return False


@pytest.mark.parametrize("fault", ["killed", "frozen", "demoted"])
def test_both_clients_find_the_new_primary(watched: Watched, fault: str) -> None:
    store, publisher = JobStore(connect(watched.url)), Publisher(watched.url)
    job, _ = store.create(REQUEST)
    assert works(store, publisher)
    with watched.admin(watched.port) as admin:
        assert admin.wait(1, 5_000) == 1
    if fault == "demoted":
        with watched.admin(watched.sentinel_ports[0]) as sentinel:
            sentinel.execute_command("SENTINEL FAILOVER", "digits-main")
    else:
        assert watched.primary.process is not None
        watched.primary.process.send_signal(signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
    watched.wait_for_new_primary()
    if fault == "demoted":  # until then, it takes what is lost
        eventually(lambda: watched.find_role(watched.port) == "slave", "the old primary is a replica")
    eventually(lambda: works(store, publisher), "both work again", 10)
    with watched.admin(watched.replica_port, 1) as admin:
        assert admin.llen("digits:broker:digits") == publisher.count_waiting()
    found = store.get(job.id)
    assert found is not None
    assert found.state == "queued"
    publisher.close()


class Forwarder:
    """A name or an address that can move to another host: it forwards each new connection to ``target``."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._server.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def moving(tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL of a name that leads to a primary, and what moves it to another; the first is a replica from then on."""
    watched = Watched(tmp_path)
    with ExitStack() as stack:
        stack.callback(watched.end)
        watched.start_servers()
        forwarder = Forwarder(watched.port)
        stack.callback(forwarder.close)

        def move() -> None:
            with watched.admin(watched.port) as old, watched.admin(watched.replica_port) as new:
                assert old.wait(1, 5_000) == 1
                new.replicaof("NO", "ONE")
                old.replicaof("127.0.0.1", watched.replica_port)
            forwarder.target = watched.replica_port

        yield f"redis://digits:p%40ss%2Fword@127.0.0.1:{forwarder.port}/1", move


def run_pipeline(store: JobStore, transaction: bool) -> None:
    with store._redis.pipeline(transaction=transaction) as pipe:
        pipe.set("digits:one", 1)
        pipe.get("digits:one")
        pipe.set("digits:two", 2)
        assert pipe.execute() == [True, "1", True]


WRITES: dict[str, Callable[[JobStore], object]] = {
    "script": lambda store: store.probe(),
    "command": lambda store: store._redis.set("digits:one", 1),
    "pipeline": lambda store: run_pipeline(store, False),
    "transaction": lambda store: run_pipeline(store, True),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_name_that_moves_is_followed(moving: tuple[str, Callable[[], None]], write: str) -> None:
    """One call hears of the replica. All connections that wait are made anew, not one after the other."""
    url, move = moving
    store, barrier, failures = JobStore(connect(url)), threading.Barrier(4), list[RedisError]()

    def write_on_a_connection_of_its_own() -> None:
        with store._redis.client() as client:  # type: ignore[no-untyped-call]
            barrier.wait()
            try:
                client.set("digits:one", 1)
            except RedisError as error:
                failures.append(error)

    run_in_threads(write_on_a_connection_of_its_own, 4)
    WRITES[write](store)
    move()
    with pytest.raises(RedisError) as refused:
        WRITES[write](store)
    assert "read-only replica" in explain(refused.value)
    WRITES[write](store)
    run_in_threads(write_on_a_connection_of_its_own, 4)
    assert failures == []


def test_wake_ups_follow_a_name_that_moves(moving: tuple[str, Callable[[], None]]) -> None:
    url, move = moving
    publisher = Publisher(url)
    publisher.wake("before")
    move()
    with pytest.raises(OperationalError) as refused:
        publisher.wake("lost")
    assert "read-only replica" in explain(refused.value)
    publisher.wake("after")
    assert publisher.count_waiting() == 2
    publisher.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Whoever connects hears nothing, as from a host that is cut off."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize("state", ["silent", "closed"])
def test_a_sentinel_that_is_away_costs_half_a_second_at_most(quiet: Watched, silent_port: int, state: str) -> None:
    port = silent_port if state == "silent" else find_free_port()
    url = quiet.make_url(port, *quiet.sentinel_ports)
    for call in (JobStore(connect(url)).probe, lambda: Publisher(url).wake("job")):
        began = time.monotonic()
        call()
        assert time.monotonic() - began < 2


def test_without_sentinels_that_answer_a_call_ends_within_two_seconds(quiet: Watched, silent_port: int) -> None:
    url = quiet.make_url(silent_port, silent_port, find_free_port())
    for call in (JobStore(connect(url)).probe, lambda: Publisher(url).wake("job")):
        began = time.monotonic()
        with pytest.raises((RedisError, OperationalError)) as refused:
            call()
        assert time.monotonic() - began < 2
        assert explain(refused.value) == "none of its sentinels answers; try again later"
        assert not is_permanent(refused.value)


def test_the_sentinels_that_answer_are_asked_first_by_many_threads(quiet: Watched) -> None:
    """No sentinel is forgotten."""
    url = quiet.make_url(find_free_port(), find_free_port(), *quiet.sentinel_ports)
    pool: Any = make_pool(read(url), 1.0)

    def ask() -> None:
        for _ in range(20):
            pool.get_master_address()

    run_in_threads(ask, 8)
    ports = [sentinel.connection_pool.connection_kwargs["port"] for sentinel in pool.sentinel_manager.sentinels]
    assert (len(ports), len(set(ports)), ports[0] in quiet.sentinel_ports) == (5, 5, True)


@pytest.mark.parametrize(
    ("make_url", "said"),
    [
        (lambda quiet: quiet.make_url(*quiet.sentinel_ports, name="other"), "no primary with the NAME"),
        (lambda quiet: quiet.make_url(*quiet.sentinel_ports, password="wrong"), "do not accept sentinel_username"),
        (lambda quiet: quiet.url.partition("?")[0], "do not accept sentinel_username"),
        (lambda quiet: quiet.url.replace("p%40ss", "wrong"), "does not accept the user or password"),
        (lambda quiet: quiet.make_url(quiet.port).partition("?")[0] + LOGIN_OF_REDIS, "it is no sentinel"),
    ],
)
def test_what_cannot_work_is_explained(quiet: Watched, make_url: Callable[[Watched], str], said: str) -> None:
    url = make_url(quiet)
    for call in (JobStore(connect(url)).probe, lambda: Publisher(url).wake("job")):
        with pytest.raises((RedisError, OperationalError)) as refused:
            call()
        assert said in explain(refused.value)
        assert is_permanent(refused.value)
        for secret in ("p@ss", "other&pass", "wrong"):
            assert secret not in str(refused.value)


LOGIN_OF_REDIS = "?sentinel_username=digits&sentinel_password=p%40ss%2Fword"


def test_a_sentinel_user_that_may_not_ask_is_explained(quiet: Watched) -> None:
    with quiet.admin(quiet.sentinel_ports[0]) as sentinel:
        sentinel.execute_command("ACL", "SETUSER", "weak", "on", ">weak", "-@all", "+auth", "+hello")
    url = quiet.make_url(quiet.sentinel_ports[0], password="weak").replace(
        "sentinel_username=asks", "sentinel_username=weak"
    )
    with pytest.raises(RedisError) as refused:
        connect(url).ping()
    assert "docs/running.md has the rule" in explain(refused.value)


def test_a_primary_that_is_down_is_waited_for(watched: Watched) -> None:
    for server in (watched.primary, watched.replica):
        assert server.process is not None
        server.process.kill()

    def explanation() -> str:
        with pytest.raises(RedisError) as refused:
            connect(watched.url).ping()
        assert not is_permanent(refused.value)
        return explain(refused.value)

    eventually(lambda: "no primary that is up" in explanation(), "the sentinels have noticed")


def test_a_job_is_accepted_when_a_replica_has_it(quiet: Watched) -> None:
    store = JobStore(connect(quiet.url))
    with quiet.admin(quiet.replica_port, database=1) as replica:
        for _ in range(20):
            job, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))
            assert replica.exists(f"digits:job:{job.id}")


def test_a_job_is_accepted_without_a_replica_and_the_log_says_so(
    quiet: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    store = JobStore(connect(quiet.url))
    assert quiet.replica.process
    quiet.replica.process.send_signal(signal.SIGSTOP)
    try:
        job, is_new = store.create(TrainRequest.model_validate({"arch": "wgan"}))
    finally:
        quiet.replica.process.send_signal(signal.SIGCONT)
    assert is_new
    assert store.get(job.id)
    assert "no replica of redis has taken a new job" in caplog.text


def test_no_secret_is_in_the_text_of_a_client(quiet: Watched) -> None:
    client, celery = connect(quiet.url), make_celery(quiet.url, 1.0)
    texts = (repr(client), str(read(quiet.url)), repr(read(quiet.url)), repr(celery.conf.broker_transport_options))
    for text in (*texts, celery.connection_for_write().as_uri(include_password=True)):
        for secret in ("p@ss", "p%40ss", "other&pass", "other%26pass"):
            assert secret not in text


def test_a_socket_is_used_by_both(tmp_path: Path) -> None:
    """With a user; by a worker, too: it takes the wake-up."""
    with TemporaryDirectory() as folder:  # a short name: a socket's has 107 bytes at most
        server, _ = valkey.make(tmp_path)
        server.stdin += f'port 0\nunixsocket "{folder}/a socket"\nuser digits on >p@ss/word {RULE}\n'
        server.start()
        try:
            url = f"unix://digits:p%40ss%2Fword@{folder}/a%20socket?db=3"
            eventually(lambda: works(JobStore(connect(url)), Publisher(url)), "both work")
            assert [connect(f"{url[:-1]}{n}").exists("digits:probe") for n in (0, 3)] == [0, 1]
            environment = {"DIGITS_REDIS_URL": url, "DIGITS_MODEL_DIR": str(tmp_path / "models")}
            with running(tmp_path, "worker", **environment) as worker:
                eventually(lambda: Publisher(url).count_waiting() == 0, f"it takes the messages:\n{worker.output}")
        finally:
            server.end()
    with pytest.raises(RedisError) as gone:
        connect(url).ping()
    assert explain(gone.value) == SILENT


def test_the_documented_rules_are_those_of_these_tests() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    for rule in (RULE, SENTINEL_RULE):
        assert f"    ACL SETUSER digits on >password {rule}\n" in documented
