"""Pictures that the engine draws: morphs, neighbours, comparisons with real digits."""

import asyncio
import io
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from app import studio
from app.main import create_app
from app.settings import ApiSettings
from models import mnist, sampling, versions
from models.archs import ARCHS
from models.seeds import MAX_SEED
from tests.processes import running_api

DATA = Path(__file__).parents[2] / "models" / "data" / "mnist"
MORPH: dict[str, Any] = {"arch": "wgan", "from": 2, "to": 9}


def read_frames(answer: httpx.Response) -> list[NDArray[np.uint8]]:
    """The frames of a picture; a still one has one."""
    assert answer.status_code == 200, answer.text
    frames = []
    with Image.open(io.BytesIO(answer.content)) as picture:
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("L")))
    return frames


def read_cells(answer: httpx.Response, columns: int) -> NDArray[np.uint8]:
    """The images of a grid at scale 1, ``[n, 28, 28]``."""
    (pixels,) = read_frames(answer)
    rows = (len(pixels) + 2) // 30
    return np.stack([pixels[y * 30 :, x * 30 :][:28, :28] for y in range(rows) for x in range(columns)])


def draw(api: httpx.Client, arch: str, seed: int, **query: Any) -> NDArray[np.uint8]:
    (pixels,) = read_frames(api.get("/generate", params={"arch": arch, "n": 1, "seed": seed, **query}))
    return pixels


def require_kept(api: httpx.Client, path: str, query: dict[str, Any], freshness: str) -> None:
    """The answer has a tag, a 304 follows, HEAD answers alike, and another size has another tag."""
    answer = api.get(path, params=query)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, freshness)
    again = api.get(path, params=query, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", answer.headers["ETag"])
    assert again.headers["Cache-Control"] == freshness
    assert api.get(path, params=query, headers={"If-None-Match": '"other"'}).content == answer.content
    head = api.head(path, params=query)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == answer.headers["content-type"]


def require_refused(answer: httpx.Response, field: str, status: int = 422) -> dict[str, Any]:
    """A problem that names the field; its bound."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    bound: dict[str, Any] = error.get("bound", {})
    return bound


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("version", versions.list_numbers(versions.PRETRAINED / "dcgan"))
def test_a_morph_begins_and_ends_as_the_digits_of_its_seeds(api: httpx.Client, arch: str, version: int) -> None:
    query = {**MORPH, "arch": arch, "version": version, "frames": 40}
    answer = api.get("/morph.png", params=query)
    assert (answer.headers["X-Arch"], answer.headers["X-Version"]) == (arch, str(version))
    cells = read_cells(answer, 40)
    assert (cells[0] == draw(api, arch, 2, version=version)).all()
    assert (cells[-1] == draw(api, arch, 9, version=version)).all()
    assert len({cell.tobytes() for cell in cells}) > 20  # and they differ


def test_the_pictures_of_a_morph_are_drawn_from_latents_on_the_way(api: httpx.Client) -> None:
    said, G = versions.read_generator(versions.PRETRAINED / "wgan" / "1")
    first, last = sampling.make_latents([2, 9], said.latent_shape, said.latents)
    shares = [step / 4 for step in range(5)]
    expected = sampling.draw(G, sampling.join_latents(first, last, shares, said.latents)).numpy().astype(int)
    cells = read_cells(api.get("/morph.png", params={**MORPH, "version": 1, "frames": 5}), 5).astype(int)
    assert abs(cells - expected).max() <= 1


def test_an_animated_morph_goes_there_and_back(api: httpx.Client) -> None:
    query = {**MORPH, "frames": 10}
    still = read_cells(api.get("/morph.png", params=query), 10)
    answer = api.get("/morph.webp", params=query)
    assert answer.headers["content-type"] == "image/webp"
    moving = read_frames(answer)
    assert len(moving) == 18
    assert all((a == b).all() for a, b in zip(moving, [*still, *still[-2:0:-1]], strict=True))
    (enlarged, *_) = read_frames(api.get("/morph.webp", params={**query, "scale": 3}))
    assert (enlarged == still[0].repeat(3, axis=0).repeat(3, axis=1)).all()


def test_a_morph_of_one_seed_shows_its_digit(api: httpx.Client) -> None:
    cells = read_cells(api.get("/morph.png", params={**MORPH, "to": 2, "frames": 3}), 3)
    assert (cells == draw(api, "wgan", 2)).all()
    assert len(read_frames(api.get("/morph.webp", params={**MORPH, "to": 2, "frames": 3}))) >= 1


@pytest.mark.parametrize(("frames", "status"), [(1, 422), (2, 200), (64, 200), (65, 422)])
def test_the_bounds_of_frames(api: httpx.Client, frames: int, status: int) -> None:
    for path in ("/morph.png", "/morph.webp"):
        assert api.get(path, params={**MORPH, "frames": frames, "scale": 8}).status_code == status


@pytest.mark.parametrize("path", ["/morph.png", "/morph.webp"])
def test_a_wrong_morph_is_refused(api: httpx.Client, path: str) -> None:
    assert require_refused(api.get(path, params={"arch": "wgan", "from": 1}), "to") == {}
    assert require_refused(api.get(path, params={**MORPH, "from": MAX_SEED + 1}), "from") == {"le": MAX_SEED}
    assert require_refused(api.get(path, params={**MORPH, "scale": 9}), "scale") == {"le": 8}
    require_refused(api.get(path, params={**MORPH, "first": 1}), "first")
    require_refused(api.get(path, params={**MORPH, "arch": "bogus"}), "arch")
    require_refused(api.get(path, params={**MORPH, "version": "99"}), "version", 404)


@pytest.mark.parametrize("arch", ARCHS)
def test_neighbours_stand_around_their_digit(api: httpx.Client, arch: str) -> None:
    cells = read_cells(api.get("/neighbours.png", params={"arch": arch, "seed": 7}), 3)
    digit = draw(api, arch, 7).astype(int)
    assert len(cells) == 9
    assert (cells[4] == digit).all()
    assert len({cell.tobytes() for cell in cells}) == 9
    strangers = np.stack([draw(api, arch, seed) for seed in range(8, 16)]).astype(int)
    near = np.delete(cells, 4, axis=0).astype(int)
    assert abs(near - digit).mean() < 0.6 * abs(strangers - digit).mean()


def test_the_last_seed_has_neighbours(api: httpx.Client) -> None:
    answer = api.get("/neighbours.png", params={"arch": "vanilla", "seed": MAX_SEED, "scale": 8})
    assert read_frames(answer)[0].shape == (3 * 226 - 2, 3 * 226 - 2)
    bound = require_refused(api.get("/neighbours.png", params={"arch": "vanilla", "seed": MAX_SEED + 1}), "seed")
    assert bound == {"le": MAX_SEED}


@pytest.mark.parametrize(
    ("path", "query"),
    [("/morph.png", MORPH), ("/morph.webp", MORPH), ("/neighbours.png", {"arch": "dcgan", "seed": 3})],
)
def test_what_one_version_draws_can_be_kept(api: httpx.Client, path: str, query: dict[str, Any]) -> None:
    require_kept(api, path, query, "public, max-age=60")
    require_kept(api, path, {**query, "version": "latest"}, "public, max-age=60")
    require_kept(api, path, {**query, "version": 1}, "public, max-age=86400")
    tags = {api.get(path, params={**query, **change}).headers["ETag"] for change in ({}, {"scale": 2}, {"version": 2})}
    assert len(tags) == 3


@pytest.mark.parametrize("recipe", [None, "book"])
def test_a_comparison_has_a_column_per_architecture_and_real_digits(api: httpx.Client, recipe: str | None) -> None:
    query = {"seeds": "5-7"} | ({"recipe": recipe} if recipe else {})
    cells = read_cells(api.get("/compare.png", params=query), 4).reshape(3, 4, 28, 28)
    real = mnist.load(DATA, mnist.TEST_IMAGES)
    listed = {item["arch"]: item["version"] for item in api.get("/models").json() if item["recipe"] == "book"}
    for row, seed in zip(cells, (5, 6, 7), strict=True):
        chosen = {arch: {"version": listed[arch]} if recipe else {} for arch in ARCHS}
        drawn = [draw(api, arch, seed, **chosen[arch]) for arch in ARCHS]
        assert (row == np.stack([*drawn, real[seed].numpy()])).all()


def test_the_bounds_of_a_comparison(api: httpx.Client) -> None:
    assert read_frames(api.get("/compare.png"))[0].shape == (16 * 30 - 2, 4 * 30 - 2)
    largest = api.get("/compare.png", params={"seeds": f"{MAX_SEED - 63}-{MAX_SEED}", "scale": 8})
    assert read_frames(largest)[0].shape == (64 * 226 - 2, 4 * 226 - 2)
    require_kept(api, "/compare.png", {"seeds": "0-3"}, "public, max-age=60")


@pytest.mark.parametrize("seeds", ["", "5", "5-4", "0-64", "-1-3", "a-b", f"0-{MAX_SEED + 1}", "1-2-3", "٣-٥"])
def test_seeds_that_cannot_be_compared_are_refused(api: httpx.Client, seeds: str) -> None:
    require_refused(api.get("/compare.png", params={"seeds": seeds}), "seeds")


def test_a_recipe_that_an_architecture_lacks_is_none(api: httpx.Client) -> None:
    answer = api.get("/compare.png", params={"recipe": "logistic"})
    require_refused(answer, "recipe", 404)
    assert "vanilla" in answer.json()["detail"]


def test_real_digits_are_those_of_the_test_images(api: httpx.Client) -> None:
    real = mnist.load(DATA, mnist.TEST_IMAGES)
    cells = read_cells(api.get("/real.png", params={"n": 6, "seed": 19_997, "columns": 3}), 3)
    assert torch.from_numpy(cells).equal(torch.cat([real[9_997:], real[:3]]))
    assert read_frames(api.get("/real.png"))[0].shape == (118, 118)
    assert read_frames(api.get("/real.png", params={"n": 1024, "scale": 8}))[0].shape == (32 * 226 - 2, 32 * 226 - 2)
    require_kept(api, "/real.png", {"n": 3}, "public, max-age=60")


def test_what_has_no_real_digits_is_refused(api: httpx.Client) -> None:
    assert require_refused(api.get("/real.png", params={"n": 1025}), "n") == {"le": 1024}
    assert require_refused(api.get("/real.png", params={"n": 0}), "n") == {"ge": 1}
    assert require_refused(api.get("/real.png", params={"seed": MAX_SEED + 1}), "seed") == {"le": MAX_SEED}
    wide = {"n": 1024, "columns": 1023, "scale": 8}
    assert require_refused(api.get("/real.png", params=wide), "scale") == {"le": 2**26}


def test_without_a_data_set_there_are_no_real_digits(tmp_path: Path) -> None:
    with running_api(tmp_path, DIGITS_MODEL_DIR=str(tmp_path), DIGITS_DATA_DIR=str(tmp_path / "none")) as api:
        for path in ("/real.png", "/compare.png"):
            answer = api.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert "is missing" in answer.json()["detail"]
        assert api.get("/morph.png", params=MORPH).status_code == 200


def test_pictures_that_must_wait_come_too_late_or_are_refused(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app runs in this process, so that the test can keep its studio busy."""
    app = create_app(ApiSettings(redis_url=None, model_dir=model_dir, device="cpu", deadline_seconds=0.2))
    may_go_on = threading.Event()

    async def ask() -> None:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://digits") as client,
        ):
            busy = app.state.resources.studio.submit(lambda _: may_go_on.wait(60))
            late = await client.get("/real.png")
            assert (late.status_code, late.headers["content-type"]) == (504, "application/problem+json")
            monkeypatch.setattr(studio, "MAX_WAITING", 1)
            refused = await client.get("/models/wgan/1/samples.png")
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
            assert (await client.get("/generate?arch=wgan")).status_code == 200
            may_go_on.set()
            await busy

    asyncio.run(ask())
