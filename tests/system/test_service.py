"""From a request to a version and a picture, with real parts; the quickest network trains on all of MNIST."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from models.archs import ARCHS
from tests.processes import eventually
from tests.system.conftest import Service, running_service
from tests.versions import SHIPPED
from worker.tasks import NICENESS

EPOCH_SECONDS = 400.0  # an epoch of the slowest network on a busy machine


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("whole"), changes="") as running:
        yield running


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Trains on a tenth of MNIST."""
    with running_service(tmp_path_factory.mktemp("few"), changes="few") as running:
        yield running


@pytest.mark.timeout(2 * EPOCH_SECONDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_a_training_job_becomes_a_version_that_draws_without_a_restart(
    request: pytest.FixtureRequest, arch: str
) -> None:
    shared: Service = request.getfixturevalue("whole" if arch == "vanilla" else "few")
    job_id = shared.train(arch=arch, epochs=1, seed=1)
    seen: list[dict[str, Any]] = []

    def ended() -> bool:
        seen.append(shared.job(job_id))
        return seen[-1]["ended_at"] is not None

    eventually(ended, "the job ends", EPOCH_SECONDS)
    job = seen[-1]
    assert job["state"] == "succeeded", job
    steps = [state["step"] for state in seen if state["state"] == "running" and state["step"]]
    assert steps == sorted(steps)
    assert len(set(steps)) > 1  # its progress could be polled
    assert any(state["eta_seconds"] for state in seen)
    assert all(isinstance(job[name], float) for name in ("d_loss", "g_loss", "d_real", "d_fake"))

    def drawn_by_the_latest() -> str:
        drawn = shared.api.post("/generate", params={"arch": arch, "version": "latest", "n": 4}).raise_for_status()
        return drawn.headers["X-Version"]

    began = time.monotonic()
    eventually(lambda: drawn_by_the_latest() == str(job["version"]), "the version is noticed")
    assert time.monotonic() - began < 3
    assert shared.api.get(f"/models/{arch}/{job['version']}").json()["manifest"]["job"] == job_id
    drawn = shared.api.post("/generate", params={"arch": arch, "version": job["version"], "n": 4})
    assert (drawn.status_code, drawn.headers["X-Version"]) == (200, str(job["version"]))
    default = shared.api.post("/generate", params={"arch": arch, "n": 4})
    # a version of one epoch does not replace the shipped one
    assert int(default.headers["X-Version"]) in SHIPPED[arch]


def test_a_running_job_is_canceled_and_the_next_one_runs(few: Service) -> None:
    job_id = few.train(arch="dcgan", recipe="book", epochs=1000)
    next_id = few.train(arch="vanilla", recipe="book", epochs=1)
    eventually(lambda: few.job(job_id)["step"], "it trains")
    assert few.trainer().nice() == NICENESS
    assert few.job(next_id)["state"] == "queued"
    assert few.api.delete(f"/jobs/{job_id}").status_code == 202
    assert few.wait_for(job_id, "canceled")["version"] is None
    few.wait_for(next_id, "succeeded")
