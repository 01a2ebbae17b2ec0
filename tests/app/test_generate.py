import asyncio
import base64
import concurrent.futures
import io
import json
import socket
import threading
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from app.engine import Engine
from app.main import create_app
from app.processes.valkey import find_free_port
from app.settings import ApiSettings
from models.archs import ARCHS
from models.seeds import MAX_SEED
from tests.processes import eventually, running_api


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
        ({"seed": 1, "version": 1}, "public, max-age=86400"),
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


@pytest.mark.parametrize("n", [1, 1024])
def test_the_largest_seeds_can_each_be_asked_for_alone(api: httpx.Client, n: int) -> None:
    query: dict[str, Any] = {"arch": "vanilla", "n": n, "seed": MAX_SEED + 1 - n}
    answer = api.post("/generate", params=query, headers={"Accept": "application/json"})
    last = answer.json()["images"][-1]
    assert last["seed"] == MAX_SEED
    query = {"arch": "vanilla", "n": 1, "seed": MAX_SEED}
    (alone,) = api.post("/generate", params=query, headers={"Accept": "application/json"}).json()["images"]
    assert alone == last


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
        ("image/WebP", "image/webp"),
        ("APPLICATION/*;Q=0.9", "application/zip"),
        ("", "image/png"),
    ],
)
def test_accept_chooses_the_format(api: httpx.Client, accept: str, media_type: str) -> None:
    answer = api.post("/generate", params={"arch": "wgan", "n": 3, "seed": 9}, headers={"Accept": accept})
    assert answer.headers["content-type"].split(";")[0] == media_type
    assert (answer.headers["X-Arch"], answer.headers["X-Seed"]) == ("wgan", "9")


BROWSER = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"  # Chromium, for the picture of a page


@pytest.mark.parametrize(
    ("accept", "query", "chosen"),
    [
        (BROWSER, {"n": 16}, "image/webp"),
        (BROWSER, {"n": 1024, "scale": 4}, "image/png"),
        (BROWSER, {"text": "1" * 32, "n": 32, "scale": 4}, "image/png"),
        ("image/webp, application/json;q=0.5", {"n": 1024, "scale": 4}, "application/json"),
    ],
)
def test_what_one_format_cannot_hold_comes_in_another_that_is_accepted(
    api: httpx.Client, accept: str, query: dict[str, Any], chosen: str
) -> None:
    answer = api.get("/generate", params={"arch": "vanilla", "seed": 0, **query}, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == chosen


def test_lines_of_a_header_are_one_list(api: httpx.Client) -> None:
    query: dict[str, Any] = {"arch": "wgan", "n": 1, "seed": 9}
    answer = api.get("/generate", params=query, headers=[("Accept", "text/html"), ("Accept", "image/webp")])
    assert answer.headers["content-type"] == "image/webp"
    tags = [("If-None-Match", '"other"'), ("If-None-Match", answer.headers["etag"]), ("Accept", "image/webp")]
    assert api.get("/generate", params=query, headers=tags).status_code == 304


@pytest.mark.parametrize("accept", ["image/png", "application/json"])
def test_head_answers_as_get_and_draws_nothing(accept: str, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where the engine can be taken away."""
    app = create_app(ApiSettings(redis_url=None, model_dir=model_dir, device="cpu"))
    query: dict[str, Any] = {"arch": "dcgan", "n": 2, "seed": 1, "version": 1}

    async def ask() -> None:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://digits") as client,
        ):
            headers = {"Accept": accept, "X-Request-ID": "1"}
            expected = dict((await client.get("/generate", params=query, headers=headers)).headers)
            monkeypatch.setattr(Engine, "submit", lambda *_, **__: pytest.fail("something is drawn"))
            answer = await client.head("/generate", params=query, headers=headers)
            assert (answer.status_code, answer.content) == (200, b"")
            del expected["content-length"]
            assert dict(answer.headers) == expected

    asyncio.run(ask())


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


def test_what_the_client_has_is_not_sent_again(api: httpx.Client) -> None:
    query: dict[str, Any] = {"arch": "dcgan", "n": 2, "seed": 1, "version": 1}
    first = api.get("/generate", params=query)
    etag = first.headers["ETag"]
    assert etag[0] == etag[-1] == '"'  # strong
    for tags in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = api.get("/generate", params=query, headers={"If-None-Match": tags})
        assert (again.status_code, again.content) == (304, b"")
        for header in ("ETag", "Cache-Control", "Vary"):
            assert again.headers[header] == first.headers[header]
    assert api.get("/generate", params=query, headers={"If-None-Match": '"other"'}).content == first.content
    assert "ETag" not in api.get("/generate", params={"arch": "dcgan", "n": 2}).headers


@pytest.mark.parametrize(
    "change",
    [{"n": 3}, {"seed": 2}, {"scale": 2}, {"columns": 2}, {"arch": "wgan"}, {"headers": {"Accept": "image/webp"}}],
    ids=str,
)
def test_another_picture_has_another_tag(api: httpx.Client, change: dict[str, Any]) -> None:
    query: dict[str, Any] = {"arch": "dcgan", "n": 2, "seed": 1}
    headers = change.pop("headers", {})
    etag = api.get("/generate", params=query).headers["ETag"]
    other = api.get("/generate", params={**query, **change}, headers=headers)
    assert other.headers["ETag"] != etag


def test_a_tag_that_fits_costs_no_drawing(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app runs in this process, so that the test can replace the engine."""
    app = create_app(ApiSettings(redis_url=None, model_dir=model_dir, device="cpu"))
    query: dict[str, Any] = {"arch": "dcgan", "n": 2, "seed": 1}

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://digits") as client,
        ):
            etag = (await client.get("/generate", params=query)).headers["ETag"]
            monkeypatch.setattr(Engine, "submit", lambda *_, **__: pytest.fail("something is drawn"))
            again = await client.get("/generate", params=query, headers={"If-None-Match": etag})
            assert again.status_code == 304

    asyncio.run(ask())


def test_a_picture_that_comes_too_late(tmp_path: Path, model_dir: Path) -> None:
    """Requests in time succeed, late ones get a 504, and the service still works afterwards."""
    large: dict[str, Any] = {"arch": "dcgan", "n": 1024, "scale": 8}
    environment = {"DIGITS_MODEL_DIR": str(model_dir), "DIGITS_DEADLINE_SECONDS": "0.3"}
    with running_api(tmp_path, **environment) as api:
        with concurrent.futures.ThreadPoolExecutor(24) as threads:
            headers = {"Accept": "application/json"}
            answers = list(threads.map(lambda _: api.post("/generate", params=large, headers=headers), range(48)))
        late = [answer for answer in answers if answer.status_code == 504]
        assert late
        assert {answer.status_code for answer in answers} <= {200, 504}
        assert late[0].headers["content-type"] == "application/problem+json"
        assert "0.3 s" in late[0].json()["detail"]
        assert api.post("/generate", params={"arch": "dcgan", "n": 16}).status_code == 200


def test_what_nobody_waits_for_is_not_drawn(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app runs in this process, so that the test sees the futures. Real connections are closed."""
    asked: list[asyncio.Future[bytes]] = []

    def submit(*arguments: Any, **keywords: Any) -> asyncio.Future[bytes]:
        asked.append(original(*arguments, **keywords))
        return asked[-1]

    original = Engine.submit
    monkeypatch.setattr(Engine, "submit", submit)
    port = find_free_port()
    app = create_app(ApiSettings(redis_url=None, model_dir=model_dir, device="cpu"))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, "it listens")
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        for connection in crowd:
            connection.sendall(b"POST /generate?arch=dcgan&n=1024&scale=8 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: len(asked) == 60, "they are accepted")
        for connection in crowd:
            connection.close()
        eventually(lambda: all(answer.done() for answer in asked), "nothing is waiting")
        assert sum(1 for answer in asked if answer.exception()) > 30  # some may have been answered before
        query: dict[str, Any] = {"arch": "dcgan", "n": 16}
        assert httpx.post(f"http://127.0.0.1:{port}/generate", params=query, timeout=60).status_code == 200
    finally:
        server.should_exit = True
        thread.join()
