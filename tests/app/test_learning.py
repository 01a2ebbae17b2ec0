"""Pictures of what versions and jobs have learned."""

import base64
import io
import json
import math
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from app.routes.learning import MAX_FRAMES
from models import versions
from models.manifest import HISTORY, SAMPLES
from tests.app.test_pictures import read_cells, read_frames, require_kept, require_refused
from tests.models.test_importing import import_cheaply
from tests.processes import running_api
from tests.versions import publish
from worker.jobs import MAX_SAMPLES, Claim, JobState, JobStore, TrainRequest
from worker.recipes import ArchName
from worker.watch import _draw_png

SHIPPED = versions.PRETRAINED / "wgan" / "2"


@pytest.fixture(scope="module")
def own_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, valkey_url: str, own_dir: Path) -> Iterator[httpx.Client]:
    """An API whose model directory tests may change."""
    folder = tmp_path_factory.mktemp("own_api")
    with running_api(folder, DIGITS_REDIS_URL=valkey_url, DIGITS_MODEL_DIR=str(own_dir)) as client:
        yield client


def make_samples(epochs: int, n: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (epochs, n, 28, 28), dtype=torch.uint8)


def make_record(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "d_loss": 1.0 / epoch, "g_loss": 2.0, "d_real": 0.7, "d_fake": 0.3, "seconds": 1.0}


def claim_job(store: JobStore) -> Claim:
    job, _ = store.create(TrainRequest(arch=ArchName("wgan")))
    claim = store.claim(job.id, "test")
    assert claim is not None
    return claim


def tell_epochs(store: JobStore, claim: Claim, samples: torch.Tensor, first: int = 1) -> None:
    """As a worker tells them."""
    for epoch, images in enumerate(samples, start=first):
        png = base64.b64encode(_draw_png(images)).decode()
        events = [("epoch", make_record(epoch)), ("sample", {"epoch": epoch, "png": png})]
        store.report(claim, {}, [(2 * epoch + i, kind, json.dumps(data)) for i, (kind, data) in enumerate(events)])


def require_curves(answer: httpx.Response) -> str:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml"), answer.text
    assert xml.etree.ElementTree.fromstring(answer.content).tag == "{http://www.w3.org/2000/svg}svg"
    return answer.text


@pytest.mark.parametrize("epoch", [None, 1, 17, 100])
def test_the_samples_of_an_epoch_are_those_in_the_file(api: httpx.Client, epoch: int | None) -> None:
    expected = versions.read_samples(SHIPPED)[(epoch or 0) - 1]
    answer = api.get("/models/wgan/2/samples.png", params={"epoch": epoch} if epoch else {})
    assert (answer.headers["X-Arch"], answer.headers["X-Version"]) == ("wgan", "2")
    assert (read_cells(answer, math.isqrt(len(expected))) == expected.numpy()).all()
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.text["epoch"] == str(epoch or 100)  # type: ignore[attr-defined]


def test_an_epoch_that_a_version_has_not_is_refused(api: httpx.Client) -> None:
    assert require_refused(api.get("/models/wgan/2/samples.png?epoch=101"), "epoch") == {"ge": 1, "le": 100}
    assert require_refused(api.get("/models/wgan/2/samples.png?epoch=0"), "epoch") == {"ge": 1}
    assert require_refused(api.get("/models/wgan/2/samples.png?scale=9"), "scale") == {"le": 8}
    require_refused(api.get("/models/wgan/2/samples.png?columns=2"), "columns")


@pytest.mark.parametrize("name", ["samples.png", "evolution.webp", "curves.svg", "history"])
def test_files_of_a_version_can_be_kept(api: httpx.Client, name: str) -> None:
    require_kept(api, f"/models/wgan/2/{name}", {}, "public, max-age=86400")
    require_kept(api, f"/models/wgan/latest/{name}", {}, "public, max-age=60")
    require_refused(api.get(f"/models/wgan/99/{name}"), "version", 404)
    require_refused(api.get(f"/models/bogus/1/{name}"), "arch", 404)


def test_an_evolution_shows_the_first_and_the_last_epoch(api: httpx.Client) -> None:
    for version, frames in ((1, 40), (2, MAX_FRAMES)):
        answer = api.get(f"/models/wgan/{version}/evolution.webp", params={"scale": 2})
        assert answer.headers["content-type"] == "image/webp"
        moving = read_frames(answer)
        assert len(moving) == frames
        for frame, epoch in ((moving[0], 1), (moving[-1], None)):
            query = {"scale": 2} | ({"epoch": epoch} if epoch else {})
            (still,) = read_frames(api.get(f"/models/wgan/{version}/samples.png", params=query))
            assert (frame == still).all()
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.info["loop"] == 0
            picture.seek(frames - 1)
            picture.load()
            assert picture.info["duration"] == 2_000


def test_an_evolution_may_be_too_large(api: httpx.Client) -> None:
    assert require_refused(api.get("/models/wgan/3/evolution.webp?scale=8"), "scale") == {"le": 2**26}


def test_curves_are_the_same_each_time_and_differ_between_versions(api: httpx.Client) -> None:
    first, again, other = (require_curves(api.get(f"/models/wgan/{version}/curves.svg")) for version in (1, 1, 3))
    assert first == again != other


def test_the_history_is_the_file(api: httpx.Client) -> None:
    answer = api.get("/models/wgan/3/history")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == versions.read_history(versions.PRETRAINED / "wgan" / "3")
    assert len(answer.json()) == 150


def test_an_imported_version_has_samples_and_no_curves(own: httpx.Client, own_dir: Path, foreign: Path) -> None:
    made = import_cheaply(own_dir, foreign)
    path = f"/models/{made.arch}/{made.version}"
    assert own.get(f"{path}/history").json() == []
    require_refused(own.get(f"{path}/curves.svg"), "version", 404)
    assert "it was imported" in own.get(f"{path}/curves.svg").json()["detail"]
    assert own.get(f"{path}/samples.png").status_code == 200
    assert own.get(f"{path}/evolution.webp").status_code == 200


def test_a_history_without_losses_has_no_curves(own: httpx.Client, own_dir: Path) -> None:
    made = publish(own_dir, "dcgan", history=[{"epoch": 1}])
    answer = own.get(f"/models/dcgan/{made.version}/curves.svg")
    assert (answer.status_code, "no losses" in answer.json()["detail"]) == (404, True)


@pytest.mark.parametrize("name", ["samples.png", "evolution.webp", "curves.svg", "history"])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_damaged_version_is_none(own: httpx.Client, own_dir: Path, name: str, is_loaded: bool) -> None:
    made = publish(own_dir, "dcgan")
    path, folder = f"/models/dcgan/{made.version}", own_dir / "dcgan" / str(made.version)
    if is_loaded:
        assert own.get("/generate", params={"arch": "dcgan", "version": made.version}).status_code == 200
    for file in (SAMPLES, HISTORY):
        (folder / file).write_bytes(b"")
    answer = own.get(f"{path}/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "0 bytes, expected" in answer.json()["detail"]


def test_the_pictures_of_a_running_job(api: httpx.Client, store: JobStore) -> None:
    claim, samples = claim_job(store), make_samples(3)
    path = f"/jobs/{claim.job.id}/samples.png"
    answer = api.get(path)
    require_refused(answer, "epoch", 404)
    assert "no picture yet" in answer.json()["detail"]
    tell_epochs(store, claim, samples)
    for epoch in (None, 1, 3):
        cells = read_cells(api.get(path, params={"epoch": epoch} if epoch else {}), 4)
        assert (cells == samples[(epoch or 0) - 1, :16].numpy()).all()
    assert require_refused(api.get(path, params={"epoch": 4}), "epoch", 404) == {"epochs": [1, 2, 3]}
    require_kept(api, path, {}, "no-cache")
    require_kept(api, path, {"epoch": 1, "scale": 2}, "no-cache")
    tag = api.get(path).headers["ETag"]
    tell_epochs(store, claim, make_samples(1), first=4)
    assert api.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_only_the_newest_pictures_of_a_job_are_kept(api: httpx.Client, store: JobStore) -> None:
    claim = claim_job(store)
    path = f"/jobs/{claim.job.id}/samples.png"
    tell_epochs(store, claim, make_samples(MAX_SAMPLES + 2, n=16))
    bound = require_refused(api.get(path, params={"epoch": 2}), "epoch", 404)
    assert bound == {"epochs": list(range(3, MAX_SAMPLES + 3))}
    store.finish(claim, JobState.FAILED, error="test")
    assert api.get(path).status_code == 200
    assert require_refused(api.get(path, params={"epoch": 3}), "epoch", 404) == {"epochs": [MAX_SAMPLES + 2]}


def test_a_job_that_has_a_version_has_the_pictures_of_all_epochs(
    own: httpx.Client, own_dir: Path, store: JobStore
) -> None:
    claim, samples = claim_job(store), make_samples(3)
    tell_epochs(store, claim, samples)
    history = [make_record(epoch) for epoch in (1, 2, 3)]
    made = publish(own_dir, "wgan", epochs=3, samples=samples, history=history, job=claim.job.id)
    store.finish(claim, JobState.SUCCEEDED, version=made.version)
    path = f"/jobs/{claim.job.id}"
    for epoch in (1, 2, 3):
        cells = read_cells(own.get(f"{path}/samples.png", params={"epoch": epoch}), 4)
        assert (cells == samples[epoch - 1, :16].numpy()).all()
    require_curves(own.get(f"{path}/curves.svg"))
    (own_dir / "wgan" / str(made.version) / SAMPLES).write_bytes(b"")
    assert (read_cells(own.get(f"{path}/samples.png"), 4) == samples[2, :16].numpy()).all()  # as the event has it


def test_the_version_of_another_model_directory_is_not_used(own: httpx.Client, own_dir: Path, store: JobStore) -> None:
    claim, samples = claim_job(store), make_samples(2)
    made = publish(own_dir, "wgan", samples=make_samples(2), job="another")
    tell_epochs(store, claim, samples)
    store.finish(claim, JobState.SUCCEEDED, version=made.version)
    assert (read_cells(own.get(f"/jobs/{claim.job.id}/samples.png"), 4) == samples[1, :16].numpy()).all()
    require_refused(own.get(f"/jobs/{claim.job.id}/samples.png?epoch=1"), "epoch", 404)


def test_the_curves_of_a_running_job(api: httpx.Client, store: JobStore) -> None:
    claim = claim_job(store)
    path = f"/jobs/{claim.job.id}/curves.svg"
    answer = api.get(path)
    require_refused(answer, "job_id", 404)
    assert "has not finished an epoch" in answer.json()["detail"]
    tell_epochs(store, claim, make_samples(2, n=16))
    first = require_curves(api.get(path))
    require_kept(api, path, {}, "no-cache")
    store.report(claim, {}, [(100, "metric", json.dumps({"epoch": 2, "fid": 3.0, "emd": 6.0}))])
    assert require_curves(api.get(path)) != first


def test_an_unknown_job_has_no_pictures(api: httpx.Client, store: JobStore) -> None:
    for name in ("samples.png", "curves.svg"):
        require_refused(api.get(f"/jobs/none/{name}"), "job_id", 404)


def test_no_curves_are_drawn_before_they_are_asked_for() -> None:
    """Matplotlib takes a second and 50 MB."""
    code = "import sys, app.main; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_curves_that_find_no_folder_for_fonts_say_so() -> None:
    code = """
import os, tempfile
os.environ["MPLCONFIGDIR"] = tempfile.tempdir = "/proc/none"
from app import curves
from app.entries import NotNowError
try:
    curves.draw_curves("", {}, [])
except NotNowError as error:
    assert "MPLCONFIGDIR" in str(error)
else:
    raise SystemExit("drawn")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("png", ["", "no base64", base64.b64encode(b"no picture").decode(), None])
def test_damaged_pictures_of_a_job_are_not_found(api: httpx.Client, store: JobStore, png: str | None) -> None:
    claim = claim_job(store)
    if png is None:  # a picture, but not of images of 28 × 28 pixels
        file = io.BytesIO()
        Image.new("L", (30, 29)).save(file, "PNG")
        png = base64.b64encode(file.getvalue()).decode()
    store.report(claim, {}, [(1, "sample", json.dumps({"epoch": 1, "png": png})), (1, "epoch", "{}")])
    require_refused(api.get(f"/jobs/{claim.job.id}/samples.png"), "epoch", 404)
    require_refused(api.get(f"/jobs/{claim.job.id}/curves.svg"), "job_id", 404)


def test_a_version_whose_history_has_no_losses_is_compared(own: httpx.Client, own_dir: Path) -> None:
    recipe = {"name": "tuned", "objective": "wasserstein"}
    made = publish(own_dir, "wgan", recipe=recipe, metrics={"fid": 0.1}, history=[{"epoch": 1, "d_real": None}])
    assert own.put("/models/wgan/default", json={"version": made.version}).status_code == 200
    assert "</small> 0.10<" in own.get("/compare").text
    assert own.put("/models/wgan/default", json={"version": None}).status_code == 200
