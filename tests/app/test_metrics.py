"""``/metrics`` of a service in two processes, with a real Valkey: any of them tells what all do."""

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from app.processes import metrics_folder
from app.processes.valkey import find_free_port
from app.telemetry import LOOK_SECONDS
from tests.app.scraped import REQUESTS, Scrape
from tests.app.test_protocol import connect, talk
from tests.processes import Process, answers, eventually, running_api, running_valkey
from tests.system.test_serving import Serving, running_processes
from tests.versions import SHIPPED
from worker.jobs import JobState, JobStore, TrainRequest

SECONDS = 3.0  # within which a scrape has to come while Redis does not answer


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("two")
    with running_processes(folder, DIGITS_REDIS_URL=valkey_url, DIGITS_HEADER_SECONDS="0.5") as serving:
        yield serving


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    """A service without a Redis, and the folder in which its folder of counts lies."""
    folder = tmp_path_factory.mktemp("alone")
    with running_api(folder, DIGITS_MODEL_DIR=str(folder), TMPDIR=str(folder)) as client:
        yield client, folder


def ask(serving: Serving, method: str, path: str, **options: object) -> httpx.Response:
    """A request over a connection of its own, so it may reach any process."""
    with serving.client() as client:
        return client.request(method, path, **options)  # type: ignore[arg-type]


def scrape(serving: Serving) -> Scrape:
    with serving.client() as client:
        return Scrape.of(client)


def grown(serving: Serving, before: Scrape, **labels: str) -> float:
    """How many requests were counted since."""
    return scrape(serving).count(**labels) - before.count(**labels)


ROUTES = [
    ("POST", "/generate?arch=wgan&n=2", "/generate", 200, "wgan"),
    ("HEAD", "/generate?n=2&arch=vanilla", "/generate", 200, "vanilla"),
    ("POST", "/generate?arch=bogus", "/generate", 422, ""),
    ("GET", "/models/dcgan/1", "/models/{arch}/{version}", 200, "dcgan"),
    ("GET", "/models/dcgan/999", "/models/{arch}/{version}", 404, "dcgan"),
    ("GET", "/models/bogus/1", "/models/{arch}/{version}", 404, ""),
    ("GET", "/jobs/wgan", "/jobs/{job_id}", 404, ""),
    ("GET", "/static/x/page.css", "/static/{build}/{name}", 200, ""),
    ("POST", "/train", "/train", 415, ""),
    ("GET", "/livez?arch=wgan", "/livez", 200, "wgan"),
    ("GET", "/nothing/wgan?arch=wgan", "other", 404, ""),
    ("PUT", "/generate?arch=wgan", "other", 405, ""),
    ("OPTIONS", "/generate", "other", 204, ""),
]


@pytest.mark.parametrize(("method", "path", "route", "status", "arch"), ROUTES)
def test_a_request_is_counted_by_its_template(
    two: Serving, method: str, path: str, route: str, status: int, arch: str
) -> None:
    labels = {"method": method, "route": route, "status": str(status), "arch": arch}
    before = scrape(two)
    for _ in range(5):
        assert ask(two, method, path).status_code == status
    eventually(lambda: grown(two, before, **labels) == 5, "all are counted")
    after = scrape(two)
    took = after.sum(f"{REQUESTS}_sum", **labels) - before.sum(f"{REQUESTS}_sum", **labels)
    assert 0 < took < 60


def test_what_clients_make_up_makes_no_series(two: Serving) -> None:
    start = scrape(two)
    ask(two, "PROPFIND", "/nothing")
    eventually(lambda: grown(two, start, method="other") == 1, "it is counted")
    before = len(scrape(two).samples)
    for number in range(20):
        ask(two, "GET", f"/made-up-{number}")
        ask(two, "GET", f"/jobs/{number}")
        ask(two, "GET", f"/models/bogus-{number}/1")
        ask(two, "POST", f"/generate?arch=bogus{number}")
        ask(two, ("MKCOL", "MOVE", "LOCK", "SEARCH")[number % 4], "/nothing")
    eventually(lambda: grown(two, start, method="other") == 21, "all are counted")
    assert len(scrape(two).samples) - before <= 16  # of /jobs/{job_id}, if no other test has asked for it
    assert not any("made-up" in line or "bogus" in line or "MKCOL" in line for line in scrape(two).text.splitlines())


def test_errors_of_outer_layers_and_of_the_service_itself_are_counted(two: Serving) -> None:
    before = scrape(two)
    assert ask(two, "GET", "/models", headers={"Host": "evil.example"}).status_code == 421
    assert ask(two, "POST", "/train", content=b"x" * 70_000).status_code == 413
    eventually(lambda: grown(two, before, status="421", route="other") == 1, "the first is counted")
    eventually(lambda: grown(two, before, status="413", route="/train") == 1, "the second is counted")


def test_a_client_that_leaves_is_no_failure_of_the_service(two: Serving) -> None:
    before = scrape(two)
    with ExitStack() as stack:
        for _ in range(40):
            with two.client() as client:
                connection = stack.enter_context(connect(client))
            connection.sendall(b"POST /generate?arch=wgan&n=1024 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    eventually(lambda: scrape(two).count(status="499") > before.count(status="499"), "some left before their answer")
    assert scrape(two).count(status="504") == before.count(status="504")


def test_images_and_passes_are_counted(two: Serving) -> None:
    told = [scrape(two)]

    def draws_nothing() -> bool:
        told.append(scrape(two))
        drawn = [each.sum("digits_images_drawn_total") for each in told]
        return len(drawn) > 2 and drawn[-1] == drawn[-2]

    eventually(draws_nothing, "what other tests have left is drawn", poll_seconds=1.5 * LOOK_SECONDS)
    before = told[-1]
    for arch in SHIPPED:
        for _ in range(3):
            assert ask(two, "POST", f"/generate?arch={arch}&n=40").status_code == 200
    drawn = before.sum("digits_images_drawn_total") + 360
    eventually(lambda: scrape(two).sum("digits_images_drawn_total") == drawn, "all are counted")
    after = scrape(two)
    for arch in SHIPPED:
        drawn = after.sum("digits_images_drawn_total", arch=arch) - before.sum("digits_images_drawn_total", arch=arch)
        assert drawn == 120
    assert after.sum("digits_engine_pass_images_sum") - before.sum("digits_engine_pass_images_sum") == 360
    passes = [each.sum("digits_engine_pass_images_count") for each in (before, after)]
    assert passes[1] - passes[0] == 18  # 32 and 8 for each request


def test_images_that_wait_are_told(two: Serving) -> None:
    enough = threading.Event()

    def ask_again() -> None:
        with two.client() as client:
            while not enough.is_set():
                client.post("/generate?arch=dcgan&n=1024").raise_for_status()

    threads = [threading.Thread(target=ask_again) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: scrape(two).sum("digits_engine_waiting_images") >= 1024, "images wait")
        assert scrape(two).sum("digits_engine_waiting_requests") >= 1
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    eventually(lambda: scrape(two).sum("digits_engine_waiting_images") == 0, "none waits any more")


def test_what_never_became_a_request_is_counted(two: Serving) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
    sent = {
        400: b"nonsense\r\n\r\n",
        408: head,
        414: b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        431: head + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    }
    before = scrape(two)
    for data in sent.values():
        with two.client() as client:
            talk(client, [data])
    after = scrape(two)
    for status in sent:
        told = [each.sum("digits_http_refusals_total", status=str(status)) for each in (before, after)]
        assert told[1] - told[0] == 1, status


def test_places_that_ran_out_are_told(tmp_path: Path) -> None:
    with (
        running_api(tmp_path, module="tests.app.limited", DIGITS_MODEL_DIR=str(tmp_path)) as client,
        ExitStack() as stack,
    ):
        assert Scrape.of(client).find("digits_http_connections_crowded_out_total") == [0]
        with suppress(OSError):
            for _ in range(200):
                stack.enter_context(connect(client))
        eventually(lambda: Scrape.of(client).sum("digits_http_connections_crowded_out_total") > 0, "it is told")


def test_open_connections_are_told(two: Serving) -> None:
    def count() -> float:
        return scrape(two).sum("digits_http_connections")

    before = eventually(lambda: count() == 1 and count(), "those of other tests are closed")
    with ExitStack() as stack:
        for _ in range(20):
            with two.client() as client:
                stack.enter_context(connect(client))
        eventually(lambda: count() == before + 20, "all are told")
    eventually(lambda: count() == before, "none is left")


def test_a_stream_counts_at_its_start_and_its_follower_while_it_lasts(two: Serving, store: JobStore) -> None:
    job, _ = store.create(TrainRequest.model_validate({"arch": "wgan"}))
    labels = {"route": "/jobs/{job_id}/events", "status": "200"}
    before = scrape(two)
    with two.client() as client, client.stream("GET", f"/jobs/{job.id}/events") as stream:
        lines = stream.iter_lines()  # a name: when it is dropped, it closes the stream
        next(lines)
        eventually(lambda: grown(two, before, **labels) == 1, "it is counted")
        eventually(lambda: scrape(two).sum("digits_event_followers") == 1, "it is followed")
        assert scrape(two).sum("digits_event_feeds") == 1
    eventually(lambda: scrape(two).sum("digits_event_followers") == 0, "nobody follows")
    assert grown(two, before, **labels) == 1


def test_versions_and_the_build_are_told(two: Serving) -> None:
    told = scrape(two)
    for arch, numbers in SHIPPED.items():
        assert told.find("digits_versions_usable", arch=arch) == [len(numbers)]
        assert told.find("digits_versions_rejected", arch=arch) == [0]
        assert told.find("digits_versions_loaded", arch=arch) == [2 * len(numbers)]
    damaged = two.model_dir / "wgan" / "77"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{")
    eventually(lambda: scrape(two).find("digits_versions_rejected", arch="wgan") == [1], "it is rejected")
    shutil.rmtree(damaged)
    ((_, labels, value),) = [one for one in told.samples if one[0] == "digits_build_info"]
    assert (set(labels), value) == ({"version", "python", "torch"}, 1)
    assert told.sum("digits_api_resident_memory_bytes") > 100e6
    assert told.sum("digits_api_cpu_seconds_total") > 1
    assert told.find("digits_api_processes") == [2]


def test_what_the_jobs_do_is_told_of_all_hosts(two: Serving, store: JobStore) -> None:
    first, second, _ = (store.create(TrainRequest.model_validate({"arch": arch}))[0] for arch in SHIPPED)
    store.note_worker("elsewhere")
    claim = store.claim(first.id, "elsewhere")
    assert claim
    told = scrape(two)
    assert told.find("digits_redis_up") == [1]
    assert told.find("digits_workers") == [1]
    assert told.find("digits_jobs", state="queued") == [2]
    assert told.find("digits_jobs", state="running") == [1]
    assert 0 < told.sum("digits_jobs_oldest_queued_seconds") < 60
    assert told.find("digits_training_epochs", job_id=first.id, arch=first.arch) == [first.epochs]
    assert told.find("digits_training_epoch") == []  # nothing is known yet
    (began,) = told.find("digits_training_started_timestamp_seconds", job_id=first.id)
    assert 0 <= time.time() - began < 60
    fields = {"epoch": 2, "images_per_second": 1234.5, "eta_seconds": 60.5, "d_loss": 0.25, "g_loss": 1.5}
    store.report(claim, fields)
    told = scrape(two)
    assert told.find("digits_training_epoch", job_id=first.id, arch=first.arch) == [2]
    assert told.find("digits_training_images_per_second") == [1234.5]
    assert told.find("digits_training_remaining_seconds") == [60.5]
    assert told.find("digits_training_loss", network="discriminator") == [0.25]
    assert told.find("digits_training_loss", network="generator") == [1.5]
    store.report(claim, {"resumes": 1})
    store.lose(first.id, "elsewhere")
    again = store.claim(first.id, "elsewhere")
    assert again
    store.give_back(again)
    last = store.claim(first.id, "elsewhere")
    assert last
    store.finish(last, JobState.SUCCEEDED)
    store.cancel(second.id)
    told = scrape(two)
    assert not any(name.startswith("digits_training") for name in told.names)
    counts = {"accepted": 3, "attempts": 3, "given_back": 1, "lost_leases": 1, "resumes": 1}
    for name, count in counts.items():
        assert told.find(f"digits_jobs_{name}_total") == [count], name
    for state, count in {"succeeded": 1, "canceled": 1, "failed": 0}.items():
        assert told.find("digits_jobs_ended_total", state=state) == [count]


def test_nothing_falls_when_a_process_dies_and_comes_again(two: Serving) -> None:
    labels = {"route": "/generate", "arch": "wgan", "method": "POST", "status": "200"}
    start = scrape(two)
    for _ in range(40):  # so that both have some
        ask(two, "POST", "/generate?arch=wgan&n=3")
    eventually(lambda: grown(two, start, **labels) == 40, "all are counted")
    before = scrape(two).list_cumulative()
    assert before
    child = two.children()[0]
    folder = Path(child.environ()[metrics_folder.ENVIRONMENT])
    files = sorted(folder.iterdir())
    with ExitStack() as stack:
        for _ in range(40):
            with two.client() as client:
                stack.enter_context(connect(client))
        eventually(lambda: scrape(two).sum("digits_http_connections") > 40, "all are told")
        child.kill()
        child.wait(60)
        told = eventually(lambda: try_scrape(two, processes=1), "it is dead")
        assert told
        assert told.sum("digits_http_connections") < 40  # those of the dead one count no longer
        check_not_fallen(before, told)
    eventually(two.ready, "all of them are there again")
    eventually(lambda: scrape(two).sum("digits_api_processes") == 2, "and are told")
    for _ in range(40):
        ask(two, "POST", "/generate?arch=wgan&n=3")
        check_not_fallen(before, scrape(two))
    count = before[f"{REQUESTS}_count", frozenset(labels.items())] + 40
    eventually(lambda: scrape(two).count(**labels) == count, "all are counted")
    assert sorted(folder.iterdir()) == files  # or a process that keeps dying would fill the memory


def try_scrape(serving: Serving, processes: int) -> Scrape | None:
    """A scrape, if it tells that so many processes are alive."""
    with suppress(httpx.TransportError):  # it may have gone to one that dies
        told = scrape(serving)
        return told if told.sum("digits_api_processes") == processes else None
    return None


def check_not_fallen(before: dict[tuple[str, frozenset[tuple[str, str]]], float], told: Scrape) -> None:
    now = told.list_cumulative()
    assert [(key, value, now.get(key)) for key, value in before.items() if now.get(key, -1) < value] == []


def test_a_scrape_comes_while_redis_is_away(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as (server, url), running_api(tmp_path, DIGITS_REDIS_URL=url) as client:
        assert Scrape.of(client).find("digits_redis_up") == [1]
        assert server.process
        server.process.send_signal(signal.SIGSTOP)
        answer = client.get("/metrics", timeout=SECONDS)
        told = Scrape(answer.text)
        assert told.find("digits_redis_up") == [0]
        assert told.find("digits_versions_usable", arch="wgan") != []
        assert not any(name.startswith(("digits_jobs", "digits_workers", "digits_training")) for name in told.names)
        server.process.send_signal(signal.SIGCONT)
        eventually(lambda: Scrape.of(client).find("digits_redis_up") == [1], "Redis is back")


def test_without_a_redis_nothing_is_told_of_it(alone: tuple[httpx.Client, Path]) -> None:
    told = Scrape.of(alone[0])
    assert told.find("digits_redis_up") == []
    assert told.find("digits_jobs") == []
    assert told.find("digits_api_processes") == [1]


def test_accept_chooses_the_format(two: Serving) -> None:
    text = ask(two, "GET", "/metrics")
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert text.headers["cache-control"] == "no-store"
    accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    other = ask(two, "GET", "/metrics", headers={"Accept": accept})
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in text_string_to_metric_families(other.text)}  # type: ignore[no-untyped-call]
    assert {"digits_build", "digits_jobs_ended", REQUESTS} <= names


def test_promtool_finds_nothing_to_say(two: Serving) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian: apt install prometheus)")
    text = ask(two, "GET", "/metrics").text
    said = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def list_folders(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir() if metrics_folder._PREFIX in path.name)


@contextmanager
def keeping_counts_in(folder: Path, processes: int) -> Iterator[Process]:
    """A service whose folder of counts lies in ``folder``."""
    port = find_free_port()
    environment = {"DIGITS_PORT": str(port), "DIGITS_API_PROCESSES": str(processes), "TMPDIR": str(folder)}
    process = Process(folder, "serve", DIGITS_MODEL_DIR=str(folder), **environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            eventually(lambda: answers(client), "it answers")
            eventually(lambda: Scrape.of(client).count(route="/livez") > 0, "it counts")
            yield process
    finally:
        process.end()


def end(process: Process, number: int) -> None:
    process.end(number)
    assert "Traceback" not in process.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_counts_are_gone_with_the_service(tmp_path: Path, number: int) -> None:
    """Of two processes; the next test has one."""
    with keeping_counts_in(tmp_path, 2) as process:
        assert len(list_folders(tmp_path)) == 1
        end(process, number)
    assert list_folders(tmp_path) == []


def test_counts_that_a_killed_service_has_left_are_removed_by_the_next_one(tmp_path: Path) -> None:
    with keeping_counts_in(tmp_path, 1) as killed:
        killed.popen.kill()
        killed.popen.wait()
    left = list_folders(tmp_path)
    assert len(left) == 1
    with keeping_counts_in(tmp_path, 1) as one:
        others = list_folders(tmp_path)
        assert len(others) == 1
        assert others != left
        with keeping_counts_in(tmp_path, 1) as two:  # of two that run, each keeps its own
            assert len(list_folders(tmp_path)) == 2
            assert set(others) < set(list_folders(tmp_path))
            end(two, signal.SIGINT)
        assert list_folders(tmp_path) == others
        end(one, signal.SIGTERM)
    assert list_folders(tmp_path) == []


def test_counts_that_somebody_has_removed_are_named(alone: tuple[httpx.Client, Path], tmp_path: Path) -> None:
    client, folder = alone
    (name,) = list_folders(folder)
    (folder / name).rename(tmp_path / name)
    try:
        answer = client.get("/metrics")
        assert answer.status_code == 503
        assert "start the service again" in answer.json()["detail"]
        assert client.post("/generate?arch=wgan").status_code == 200
    finally:  # for the other tests
        (tmp_path / name).rename(folder / name)
