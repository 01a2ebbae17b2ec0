"""Digits by value, over HTTP: the shipped versions have an index, the others none at first."""

import asyncio
import base64
import io
import json
import zipfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from PIL import Image

from app import values
from app.indexes import Indexes
from app.main import create_app
from app.orders import Order
from app.settings import ApiSettings
from app.values import find_seeds
from models import readers, seed_index, versions
from models.archs import ARCHS
from models.readers import Reading
from models.seed_index import SEEDS, SeedIndex, TooFewError
from tests.app.test_errors import problem

T = TypeVar("T")

AS_JSON = {"Accept": "application/json"}


def ask(api: httpx.Client, **query: Any) -> dict[str, Any]:
    answer = api.post("/generate", params=query, headers=AS_JSON)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def read_png(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("digit", [0, 7])
def test_different_images_of_one_digit(api: httpx.Client, arch: str, digit: int) -> None:
    images = ask(api, arch=arch, digit=digit)["images"]
    assert [image["digit"] for image in images] == [digit] * 16
    assert all(image["confidence"] >= 0.9 for image in images)
    assert len({image["png"] for image in images}) == 16
    read, levels = readers.read(np.stack([read_png(image["png"]) for image in images]))
    assert (read == digit).all()
    assert (levels >= readers.find_level(0.9) - 1).all()  # another processor may round an image otherwise


def test_digits_come_in_the_order_of_the_request(api: httpx.Client) -> None:
    images = ask(api, arch="wgan", digits="0,1,1,2")["images"]
    assert [image["digit"] for image in images] == [0, 1, 1, 2]
    assert images[1]["seed"] != images[2]["seed"]


def test_the_same_seed_gives_the_same_digits(api: httpx.Client) -> None:
    first, again, other = (ask(api, arch="dcgan", digit=3, n=4, seed=seed) for seed in (5, 5, 60_000))
    assert first == again
    assert first["images"] != other["images"]
    assert ask(api, arch="dcgan", digit=3, n=4) != ask(api, arch="dcgan", digit=3, n=4)


def test_each_image_can_be_had_alone_by_its_seed(api: httpx.Client) -> None:
    query: dict[str, Any] = {"arch": "wgan", "digit": 4, "n": 3, "seed": SEEDS - 1}
    answer = api.post("/generate", params=query, headers=AS_JSON)
    images = answer.json()["images"]
    named = [image["seed"] for image in images]
    assert answer.headers["X-Seeds"] == ",".join(map(str, named))
    for image in images:
        assert ask(api, arch="wgan", n=1, seed=image["seed"])["images"] == [image]
    zipped = api.post("/generate", params=query, headers={"Accept": "application/zip"})
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        assert [name.split("seed")[1] for name in archive.namelist()] == [f"{seed}.png" for seed in named]
    png = api.post("/generate", params=query)
    assert Image.open(io.BytesIO(png.content)).text["seeds"] == answer.headers["X-Seeds"]  # type: ignore[attr-defined]


def test_up_to_64_seeds_are_in_a_header(api: httpx.Client) -> None:
    headers = api.post("/generate", params={"arch": "wgan", "n": 64, "seed": 7}).headers
    assert headers["X-Seeds"] == ",".join(map(str, range(7, 71)))
    assert "X-Seeds" not in api.post("/generate", params={"arch": "wgan", "n": 65}).headers


@pytest.mark.parametrize("arch", ARCHS)
def test_a_text_is_a_line_of_its_digits(api: httpx.Client, arch: str) -> None:
    (line,) = ask(api, arch=arch, text="31415", seed=0)["images"]
    assert [digit["digit"] for digit in line["digits"]] == [3, 1, 4, 1, 5]
    height, width = read_png(line["png"]).shape
    assert height == 28
    assert width > 5 * 10
    png = api.post("/generate", params={"arch": arch, "text": "31415", "seed": 0})
    assert (np.asarray(Image.open(io.BytesIO(png.content))) == read_png(line["png"])).all()


def test_copies_of_a_text_differ(api: httpx.Client) -> None:
    images = ask(api, arch="wgan", text="2026", n=4)["images"]
    assert len({image["png"] for image in images}) == 4
    seeds = [digit["seed"] for image in images for digit in image["digits"]]
    assert len(set(seeds)) == 16


def test_spacing_moves_the_digits(api: httpx.Client) -> None:
    widths = [
        read_png(ask(api, arch="wgan", text="88", seed=0, spacing=spacing)["images"][0]["png"]).shape[1]
        for spacing in (-3, 0, 100)
    ]
    assert widths == [widths[1] - 3, widths[1], widths[1] + 100]


def test_confidence_is_what_was_asked_for(api: httpx.Client) -> None:
    low, high = (ask(api, arch="vanilla", digit=5, n=64, min_confidence=m, seed=0)["images"] for m in (0.5, 0.999))
    assert min(image["confidence"] for image in low) < 0.9
    assert min(image["confidence"] for image in high) == 0.999


def test_json_always_says_what_a_digit_is(api: httpx.Client) -> None:
    for seed in (0, SEEDS - 1, SEEDS, 2**31 - 2):  # in the index, partly, and beyond
        for image in ask(api, arch="dcgan", n=2, seed=seed)["images"]:
            digits, levels = readers.read(read_png(image["png"])[None])
            assert image["digit"] == digits[0]
            assert abs(image["confidence"] - readers.find_confidence(int(levels[0]))) < 0.06


def test_what_may_be_cached(api: httpx.Client) -> None:
    query: dict[str, Any] = {"arch": "wgan", "digit": 1, "n": 1, "version": 1}
    assert api.get("/generate", params=query).headers["Cache-Control"] == "no-store"
    first = api.get("/generate", params={**query, "seed": 3})
    assert "max-age" in first.headers["Cache-Control"]
    tag = {"If-None-Match": first.headers["ETag"]}
    assert api.get("/generate", params={**query, "seed": 3}, headers=tag).status_code == 304
    assert api.get("/generate", params={**query, "seed": 3, "digit": 2}, headers=tag).status_code == 200


@pytest.mark.parametrize(
    ("query", "field", "bound"),
    [
        ({"digit": 10}, "digit", {"le": 9}),
        ({"digit": -1}, "digit", {"ge": 0}),
        ({"digit": ""}, "digit", None),
        ({"digits": ",".join("1" * 1025)}, "digits", {"le": 1024}),
        ({"digits": ""}, "digits", {"pattern": "^[0-9](,[0-9])*$"}),
        ({"digits": "1,,2"}, "digits", {"pattern": "^[0-9](,[0-9])*$"}),
        ({"digits": "1,10"}, "digits", {"pattern": "^[0-9](,[0-9])*$"}),
        ({"digits": "1,2", "n": 2}, "digits", None),
        ({"text": "12a"}, "text", {"pattern": "^[0-9]+$"}),
        ({"text": "١٢"}, "text", {"pattern": "^[0-9]+$"}),
        ({"text": ""}, "text", {"min_length": 1}),
        ({"text": "1" * 33}, "text", {"max_length": 32}),
        ({"text": "1" * 32, "n": 33}, "text", {"le": 31}),
        ({"text": "1", "digit": 1}, "text", None),
        ({"text": "1", "digits": "1"}, "text", None),
        ({"digits": "1", "digit": 1}, "digits", None),
        ({"digit": 1, "min_confidence": 0.49}, "min_confidence", {"ge": 0.5}),
        ({"digit": 1, "min_confidence": 0.9991}, "min_confidence", {"le": 0.999}),
        ({"digit": 1, "min_confidence": "nan"}, "min_confidence", {"le": 0.999}),
        ({"min_confidence": 0.9}, "min_confidence", None),
        ({"text": "1", "spacing": -21}, "spacing", {"ge": -20}),
        ({"text": "1", "spacing": 101}, "spacing", {"le": 100}),
        ({"digit": 1, "spacing": 1}, "spacing", None),
        ({"digit": 1, "seed": SEEDS}, "seed", {"le": SEEDS - 1}),
        ({"digit": 1, "n": 1025}, "n", {"le": 1024}),
    ],
    ids=str,
)
def test_what_cannot_be_asked(api: httpx.Client, query: dict[str, Any], field: str, bound: Any) -> None:
    found = problem(api.get("/generate", params={"arch": "wgan", **query}), 422, field)
    assert found.get("bound") == bound


@pytest.mark.parametrize("query", [{"digit": 7}, {"digits": "3,1,4"}, {"text": "31415"}, {}], ids=str)
def test_the_seed_in_the_header_repeats_the_answer(api: httpx.Client, query: dict[str, Any]) -> None:
    for _ in range(4):
        first = api.post("/generate", params={"arch": "wgan", **query})
        again = api.post("/generate", params={"arch": "wgan", **query, "seed": first.headers["X-Seed"]})
        assert first.content == again.content


def test_a_search_ends_at_the_deadline(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is quick, and the digit never comes."""
    monkeypatch.setattr(Indexes, "find", lambda self, manifest: None)

    def read(images: np.ndarray) -> Reading:
        return np.zeros(len(images), np.uint8), np.zeros(len(images), np.uint8)

    monkeypatch.setattr(readers, "read", read)

    async def ask(api: httpx.AsyncClient) -> None:
        late = problem(await api.post("/generate", params={"arch": "vanilla", "digit": 7}), 504)
        assert "0.2 s" in late["detail"]

    run_app(model_dir, ask, deadline_seconds=0.2)


def test_the_largest_requests(api: httpx.Client) -> None:
    assert len(ask(api, arch="dcgan", digits=",".join("0123456789" * 102 + "0123"))["images"]) == 1024
    assert len(ask(api, arch="wgan", text="12345678" * 4, n=32)["images"]) == 32
    assert len({image["seed"] for image in ask(api, arch="vanilla", digit=8, n=1024)["images"]}) == 1024


class Looking:
    """An index of its own, and a reader that looks at it image by image, as if there were none."""

    def __init__(self, arch: str, number: int) -> None:
        folder = versions.PRETRAINED / arch / str(number)
        index = seed_index.load(versions.PRETRAINED, seed_index.make_name(versions.read_fitting_manifest(folder)))
        assert index
        self.index: SeedIndex = index
        self.looked = 0
        self.known_after = SEEDS  # images, until the index is there

    async def read(self, some: Sequence[int]) -> Reading:
        self.looked += len(some)
        return self.index.digits[some], self.index.levels[some]

    def find(self) -> SeedIndex | None:
        return self.index if self.looked >= self.known_after else None

    def choose(self, order: Order) -> Sequence[int]:
        return asyncio.run(find_seeds(order, self.find, self.read))[1]


@pytest.mark.parametrize("query", [{"digit": 7}, {"digits": "5,5,0,9"}, {"text": "31415", "n": 7}], ids=str)
@pytest.mark.parametrize("seed", [0, 1, 12_345, SEEDS - 10])
@pytest.mark.parametrize("known_after", [values.LOOK, SEEDS])
def test_looking_finds_the_same_seeds_as_the_index(query: dict[str, Any], seed: int, known_after: int) -> None:
    looking = Looking("vanilla", 1)
    looking.known_after = known_after
    order = Order(arch="vanilla", seed=seed, **query)
    found = looking.choose(order)
    assert found == looking.index.choose(order.wanted, seed, readers.find_level(0.9))
    assert 0 < looking.looked < SEEDS / 10


def test_looking_ends_when_all_seeds_were_seen() -> None:
    looking = Looking("vanilla", 1)
    looking.index = SeedIndex(np.zeros(SEEDS, np.uint8), np.full(SEEDS, 100, np.uint8))
    looking.index.digits[:3] = 7
    with pytest.raises(TooFewError, match="3 of 65,536 images are a 7 at this confidence, 4 are wanted"):
        looking.choose(Order(arch="vanilla", digit=7, n=4, seed=10))
    assert looking.looked == SEEDS


def test_a_generator_that_draws_no_such_digit(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app runs in this process, where an index can be replaced: the generator draws zeros, and three sevens."""
    index = SeedIndex(np.zeros(SEEDS, np.uint8), np.full(SEEDS, 100, np.uint8))
    index.digits[:3] = 7
    monkeypatch.setattr(Indexes, "find", lambda self, manifest: index)

    async def ask(api: httpx.AsyncClient) -> None:
        queries: list[dict[str, Any]] = [{"digit": 7, "n": 4}, {"digits": "7,7,7,7"}, {"text": "7777"}]
        for query in queries:
            (field, *_) = query
            refused = await api.post("/generate", params={"arch": "vanilla", **query})
            found = problem(refused, 422, field)
            assert found["bound"] == {"le": 3}
            assert found["detail"] == "3 of 65,536 images are a 7 at this confidence, 4 are wanted"
        assert (await api.post("/generate", params={"arch": "vanilla", "digit": 7, "n": 3})).status_code == 200

    run_app(model_dir, ask)


def test_without_an_index_requests_look_at_images(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And give the same. The first request starts the making of the index."""
    queries: list[dict[str, Any]] = [{"digit": 7, "n": 3}, {"text": "2026", "seed": SEEDS - 1}, {"digits": "9,0"}]

    async def ask(api: httpx.AsyncClient) -> list[bytes]:
        given: dict[str, Any] = {"arch": "wgan", "version": 1, "seed": 5}
        return [(await api.post("/generate", params=given | query)).content for query in queries]

    expected = run_app(model_dir, ask)
    asked: list[int] = []
    monkeypatch.setattr(Indexes, "find", lambda self, manifest: asked.append(manifest.version))
    assert run_app(model_dir, ask) == expected
    assert len(asked) >= 3


def run_app(model_dir: Path, ask: Callable[[httpx.AsyncClient], Awaitable[T]], **settings: Any) -> T:
    """The app in this process."""
    app = create_app(ApiSettings(redis_url=None, model_dir=model_dir, device="cpu", **settings))

    async def run() -> T:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://digits") as api,
        ):
            return await ask(api)

    return asyncio.run(run())


def test_the_document_of_a_line(api: httpx.Client) -> None:
    answer = api.post("/generate", params={"arch": "wgan", "text": "07", "n": 2}, headers=AS_JSON)
    document = json.loads(answer.content)
    assert document["seed"] == document["images"][0]["digits"][0]["seed"]
    assert set(document["images"][0]) == {"digits", "png"}
    assert set(document["images"][0]["digits"][0]) == {"seed", "digit", "confidence"}
