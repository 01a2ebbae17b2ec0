import base64
import concurrent.futures
import io
import json
import zipfile
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.archs import ARCHS
from models.seeds import MAX_SEED


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


@pytest.mark.parametrize("arch", ARCHS)
def test_a_grid_of_digits(api: httpx.Client, arch: str) -> None:
    answer = api.post("/generate", params={"arch": arch, "n": 16})
    assert answer.headers["content-type"] == "image/png"
    assert pixels(answer).shape == (118, 118)
    text = Image.open(io.BytesIO(answer.content)).text  # type: ignore[attr-defined]
    assert text["arch"] == answer.headers["X-Arch"] == arch
    assert text["version"] == answer.headers["X-Version"]
    assert text["seed"] == answer.headers["X-Seed"]
    detail = api.get(f"/models/{arch}/{text['version']}").json()
    assert text["sha256"] == detail["manifest"]["files"]["generator.safetensors"]["sha256"]


@pytest.mark.parametrize("arch", ARCHS)
def test_the_shipped_generators_draw_ink_on_a_dark_ground(api: httpx.Client, arch: str) -> None:
    answer = api.post("/generate", params={"arch": arch, "n": 256, "seed": 0, "columns": 256, "version": 1})
    images = pixels(answer)[:, : 256 * 30 - 2]
    digits = np.stack([images[:, i * 30 : i * 30 + 28] for i in range(256)])
    border = np.concatenate([digits[:, :2], digits[:, -2:]], axis=1)
    assert border.mean() < 12  # of 255; MNIST's own is 0
    assert 15 < digits.mean() < 55  # MNIST's own is 33
    assert digits.std(axis=0).mean() > 30  # and they differ; MNIST's own is 52


def test_the_seed_that_was_drawn_gives_the_picture_again(api: httpx.Client) -> None:
    first = api.post("/generate", params={"arch": "wgan", "n": 4})
    again = api.post("/generate", params={"arch": "wgan", "n": 4, "seed": first.headers["X-Seed"]})
    assert first.content == again.content
    assert api.post("/generate", params={"arch": "wgan", "n": 4}).content != first.content


def test_get_answers_as_post(api: httpx.Client) -> None:
    query: dict[str, Any] = {"arch": "dcgan", "n": 4, "seed": 5}
    assert api.get("/generate", params=query).content == api.post("/generate", params=query).content


@pytest.mark.parametrize(
    ("query", "caching"),
    [
        ({}, "no-store"),
        ({"version": 1}, "no-store"),
        ({"seed": 1}, "public, max-age=60"),
        ({"seed": 1, "version": "latest"}, "public, max-age=60"),
        ({"seed": 1, "version": 1}, "public, max-age=31536000, immutable"),
    ],
)
def test_what_may_be_cached(api: httpx.Client, query: dict[str, Any], caching: str) -> None:
    answer = api.get("/generate", params={"arch": "dcgan", "n": 1, **query})
    assert answer.headers["Cache-Control"] == caching
    assert answer.headers["Vary"] == "Accept"


def test_image_i_is_that_of_seed_plus_i(api: httpx.Client) -> None:
    def images(seed: int, n: int) -> list[str]:
        answer = api.post(
            "/generate",
            params={"arch": "wgan", "n": n, "seed": seed},
            headers={"Accept": "application/json"},
        )
        return [item["png"] for item in answer.json()["images"]]

    whole = images(100, 40)
    assert images(103, 1) == whole[3:4]
    assert images(117, 23) == whole[17:]


def test_crowds_get_the_same_bytes_as_one_alone(api: httpx.Client) -> None:
    queries: list[dict[str, Any]] = [{"arch": arch, "n": n, "seed": n} for arch in ARCHS for n in (1, 7, 16, 33)]
    alone = [api.post("/generate", params=query).content for query in queries]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        crowd = list(threads.map(lambda query: api.post("/generate", params=query).content, queries * 5))
    assert crowd == alone * 5


def test_scale_and_columns(api: httpx.Client) -> None:
    query: dict[str, Any] = {"arch": "wgan", "n": 6, "seed": 1}
    assert pixels(api.post("/generate", params={**query, "columns": 6, "scale": 2})).shape == (56, 346)


@pytest.mark.parametrize("n", [1, 1024])
def test_the_bounds_of_n(api: httpx.Client, n: int) -> None:
    side = 28 if n == 1 else 32 * 30 - 2
    assert pixels(api.post("/generate", params={"arch": "vanilla", "n": n})).shape == (side, side)


def test_the_largest_seed(api: httpx.Client) -> None:
    assert pixels(api.post("/generate", params={"arch": "vanilla", "n": 1024, "seed": MAX_SEED})).size


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("image/webp;q=0.5, image/png", "image/png"),
        ("application/zip", "application/zip"),
        ("application/json", "application/json"),
        ("text/html, application/json;q=0.1", "application/json"),
    ],
)
def test_accept_chooses_the_format(api: httpx.Client, accept: str, media_type: str) -> None:
    answer = api.post("/generate", params={"arch": "wgan", "n": 3, "seed": 9}, headers={"Accept": accept})
    assert answer.headers["content-type"].split(";")[0] == media_type
    assert (answer.headers["X-Arch"], answer.headers["X-Seed"]) == ("wgan", "9")


def test_zip_and_json_hold_the_images_of_the_grid(api: httpx.Client) -> None:
    query: dict[str, Any] = {"arch": "wgan", "n": 3, "seed": 9, "columns": 3}
    grid = pixels(api.post("/generate", params=query))
    zipped = api.post("/generate", params=query, headers={"Accept": "application/zip"})
    document = json.loads(api.post("/generate", params=query, headers={"Accept": "application/json"}).content)
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        from_zip = [archive.read(name) for name in archive.namelist()]
    from_json = [base64.b64decode(item["png"]) for item in document["images"]]
    assert from_zip == from_json
    for index, data in enumerate(from_zip):
        assert (np.asarray(Image.open(io.BytesIO(data))) == grid[:, index * 30 : index * 30 + 28]).all()
