"""Labelled data sets: over HTTP, without a server, and read by others."""

import asyncio
import concurrent.futures
import gzip
import hashlib
import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from app import datasets
from app.archives import TEST, TRAIN
from app.datasets import BLOCK, SLOT, DatasetOrder, Exporter, LargeDatasetOrder, Part, TooManySetsError, plan_blocks
from app.engine import Engine, EngineBusyError
from app.entries import LoadedVersion
from models import mnist, readers, versions
from models.inference import Inference
from models.seed_index import TooFewError
from tests.app.test_errors import problem
from tests.app.test_values import run_app
from tests.versions import NEXT, SHIPPED, publish

FORMATS = ("idx", "png", "npz")


def get_set(api: httpx.Client, **order: Any) -> zipfile.ZipFile:
    answer = api.post("/datasets", json={"arch": "wgan", "per_class": 7, **order})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    return zipfile.ZipFile(io.BytesIO(answer.content))


def read_idx(archive: zipfile.ZipFile, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of each split, by the project's own reader (but for its least number of images)."""
    archive.extractall(folder)
    found = {}
    names = {TRAIN: (mnist.TRAIN_IMAGES, mnist.TRAIN_LABELS), TEST: (mnist.TEST_IMAGES, mnist.TEST_LABELS)}
    for split, (images, labels) in names.items():
        raw = gzip.decompress((folder / f"{images}.gz").read_bytes())
        count = int.from_bytes(raw[4:8], "big")
        assert raw[:16] == mnist.make_images_header(count)
        pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(count, 28, 28)
        found[split] = pixels, mnist.load_labels(folder, labels).numpy().astype(np.uint8)
    return found


@pytest.mark.parametrize("arch", SHIPPED)
def test_a_set_has_exactly_as_many_of_each_class(api: httpx.Client, arch: str, tmp_path: Path) -> None:
    sets = read_idx(get_set(api, arch=arch, per_class=14), tmp_path)
    for split, per_class in ((TRAIN, 12), (TEST, 2)):
        images, labels = sets[split]
        assert Counter(labels.tolist()) == dict.fromkeys(range(10), per_class)
        digits, levels = readers.read(images.copy())
        assert (digits == labels).all()
        assert (levels >= readers.find_level(0.9)).all()
    together = np.concatenate([images for images, _ in sets.values()])
    assert len({image.tobytes() for image in together}) == 140
    assert sets[TRAIN][1].tolist() != sorted(sets[TRAIN][1].tolist())  # shuffled


def test_every_format_holds_the_same_digits(api: httpx.Client, tmp_path: Path) -> None:
    expected = read_idx(get_set(api), tmp_path)
    with get_set(api, format="npz") as archive:
        content = np.load(io.BytesIO(read_all(archive)), allow_pickle=False)
        for split, (images, labels) in expected.items():
            assert (content[f"x_{split}"] == images).all()
            assert (content[f"y_{split}"] == labels).all()
    with get_set(api, format="png", test_share=1 / 7) as archive:
        for split, (images, labels) in expected.items():
            names = [name for name in archive.namelist() if name.startswith(f"{split}/")]
            assert [int(name.split("/")[1]) for name in names] == labels.tolist()
            shown = [Image.open(io.BytesIO(archive.read(name))) for name in names]
            assert (np.stack([np.asarray(image) for image in shown]) == images).all()
            assert [image.text["label"] for image in shown] == [str(label) for label in labels]  # type: ignore[attr-defined]


def read_all(archive: zipfile.ZipFile) -> bytes:
    assert archive.fp
    archive.fp.seek(0)
    return archive.fp.read()


def test_pictures_lie_in_ten_folders(api: httpx.Client) -> None:
    with get_set(api, format="png") as archive:
        folders = Counter(name.split("/")[0] for name in archive.namelist() if name.endswith(".png"))
    assert folders == {str(digit): 7 for digit in range(10)}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_request_gives_the_same_bytes(api: httpx.Client, format: str) -> None:
    first, again, other = (read_all(get_set(api, format=format, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_set_says_how_it_was_made(api: httpx.Client, tmp_path: Path) -> None:
    archive = get_set(api, version="1", seed=3, per_class=120, min_confidence=0.99)
    readme, manifest = archive.read("README.md").decode(), json.loads(archive.read("manifest.json"))
    assert "1,200 generated digits" in readme
    assert "classifier's" in readme
    facts = {"arch": "wgan", "version": 1, "seed": 3, "per_class": 120, "min_confidence": 0.99, "test_per_class": 17}
    assert {name: manifest[name] for name in facts} == facts
    assert [(block["split"], block["digits"]) for block in manifest["blocks"]] == [
        ("train", 1_000), ("train", 30), ("test", 170)
    ]  # fmt: skip
    images, labels = read_idx(archive, tmp_path)[TRAIN]
    assert (
        manifest["blocks"][0]["sha256"] == hashlib.sha256(images[:1000].tobytes() + labels[:1000].tobytes()).hexdigest()
    )


@pytest.mark.parametrize(
    ("order", "field", "bound"),
    [
        ({"per_class": 0}, "per_class", {"ge": 1}),
        ({"per_class": 10_001}, "per_class", {"le": 10_000}),
        ({"format": "csv"}, "format", {"expected": "'idx', 'png' or 'npz'"}),
        ({"min_confidence": 0.4}, "min_confidence", {"ge": 0.5}),
        ({"min_confidence": 1}, "min_confidence", {"le": 0.999}),
        ({"test_share": 0.91}, "test_share", {"le": 0.9}),
        ({"test_share": False}, "test_share", None),
        ({"per_class": "7"}, "per_class", None),
        ({"seed": -1}, "seed", {"ge": 0}),
        ({"arch": "biggan"}, "arch", {"expected": "'vanilla', 'dcgan' or 'wgan'"}),
        ({"colour": "red"}, "colour", None),
    ],
    ids=str,
)
def test_what_cannot_be_ordered(api: httpx.Client, order: dict[str, Any], field: str, bound: Any) -> None:
    found = problem(api.post("/datasets", json={"arch": "wgan", **order}), 422, field)
    assert found.get("bound") == bound


def test_an_unknown_version(api: httpx.Client) -> None:
    problem(api.post("/datasets", json={"arch": "wgan", "version": "999"}), 404, "version")


def test_a_generator_without_digits_is_refused_before_the_answer_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not trained. The app runs in this process, where a block can be small."""
    monkeypatch.setattr(datasets, "SLOT", 256)
    publish(tmp_path, "vanilla")

    async def ask(api: httpx.AsyncClient) -> None:
        order = {"arch": "vanilla", "version": str(NEXT["vanilla"]), "per_class": 3}
        found = problem(await api.post("/datasets", json=order), 422, "per_class")
        assert "256 images are a 0 at this confidence, 3 are wanted" in found["detail"]

    run_app(tmp_path, ask)


@pytest.mark.parametrize("per_class", [1, 100, 6_000])
@pytest.mark.parametrize("test_share", [0, 1 / 7, 0.9])
def test_blocks_hold_the_set_and_share_no_seed(per_class: int, test_share: float) -> None:
    order = DatasetOrder.model_validate({"arch": "wgan", "per_class": per_class, "test_share": test_share})
    blocks = plan_blocks(order)
    for split, expected in ((TRAIN, per_class - order.test_per_class), (TEST, order.test_per_class)):
        assert sum(block.per_class for block in blocks if block.split == split) == expected
    assert len({block.first_seed for block in blocks}) == len(blocks)
    assert all(block.first_seed % SLOT == 0 and block.first_seed + SLOT <= 2**31 for block in blocks)
    assert all(1 <= block.per_class <= BLOCK for block in blocks)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_parts_have_together_the_blocks_of_the_whole(count: int) -> None:
    order = LargeDatasetOrder.model_validate({"arch": "wgan", "per_class": 2_345, "seed": 9})
    parts = [plan_blocks(order, Part(number, count)) for number in range(1, count + 1)]
    whole = plan_blocks(order)
    for split in (TRAIN, TEST):
        cut = [block for part in parts for block in part if block.split == split]
        assert cut == [block for block in whole if block.split == split]
    assert all(parts)


def test_the_largest_set_has_seeds_for_all_blocks() -> None:
    order = LargeDatasetOrder.model_validate({"arch": "wgan", "per_class": datasets.MAX_LARGE_PER_CLASS})
    assert datasets.SLOTS - 1 <= len(plan_blocks(order)) <= datasets.SLOTS


class Workshop:
    """An engine and an exporter in this process."""

    def __init__(self, seconds: float = 60) -> None:
        manifest, network = versions.read_generator(versions.PRETRAINED / "vanilla" / "1")
        self.version = LoadedVersion(manifest, Inference(network, manifest.latent_shape, torch.device("cpu")))
        self.engine = Engine(1, 0.0)
        self.exporter = Exporter(self.engine, seconds)

    async def __aenter__(self) -> "Workshop":
        self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.engine.close()
        self.exporter.close()

    async def export(self, part: Part = datasets.WHOLE, **order: Any) -> zipfile.ZipFile:
        made = LargeDatasetOrder.model_validate({"arch": "vanilla", "per_class": 120, "test_share": 0.5, **order})
        pieces = [piece async for piece in self.exporter.export(made, self.version, part)]
        return zipfile.ZipFile(io.BytesIO(b"".join(pieces)))


def test_parts_make_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "BLOCK", 10)

    async def make() -> list[zipfile.ZipFile]:
        async with Workshop() as workshop:
            return [await workshop.export(part) for part in (Part(), Part(1, 3), Part(2, 3), Part(3, 3))]

    whole, *parts = asyncio.run(make())
    expected = read_idx(whole, tmp_path / "whole")
    cut = [read_idx(part, tmp_path / str(index)) for index, part in enumerate(parts)]
    for split, (images, labels) in expected.items():
        assert (np.concatenate([part[split][0] for part in cut]) == images).all()
        assert (np.concatenate([part[split][1] for part in cut]) == labels).all()
    blocks = [json.loads(part.read("manifest.json"))["blocks"] for part in parts]
    in_order = sorted((block for some in blocks for block in some), key=lambda block: block["number"])
    assert in_order == json.loads(whole.read("manifest.json"))["blocks"]


def test_parts_of_pictures_lie_where_those_of_the_whole_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though some parts have no test data."""
    monkeypatch.setattr(datasets, "BLOCK", 10)

    async def make() -> list[set[str]]:
        async with Workshop() as workshop:
            parts = (Part(), Part(1, 3), Part(2, 3), Part(3, 3))
            sets = [await workshop.export(part, per_class=40, test_share=0.25, format="png") for part in parts]
            return [{name for name in one.namelist() if name.endswith(".png")} for one in sets]

    whole, *parts = asyncio.run(make())
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole) == 400


def test_one_who_goes_ends_the_work() -> None:
    async def leave() -> None:
        async with Workshop() as workshop:
            order = LargeDatasetOrder.model_validate({"arch": "vanilla", "per_class": 10_000})
            pieces = workshop.exporter.export(order, workshop.version)
            await anext(pieces)
            assert workshop.exporter._running == 1
            await pieces.aclose()
            assert workshop.exporter._running == 0
            answer = await workshop.engine.submit(workshop.version, [0], len)  # what was queued is not drawn any more
            assert answer == 1
            assert workshop.engine._images <= 2 * datasets.LOOK

    asyncio.run(leave())


def test_only_some_sets_are_made_at_a_time() -> None:
    async def crowd() -> None:
        async with Workshop() as workshop:
            order = LargeDatasetOrder.model_validate({"arch": "vanilla", "per_class": 20})
            many = [workshop.exporter.export(order, workshop.version) for _ in range(datasets.MAX_RUNNING + 1)]
            for pieces in many[:-1]:
                await anext(pieces)
            with pytest.raises(TooManySetsError):
                await anext(many[-1])
            for pieces in many[:-1]:
                await pieces.aclose()
            await anext(workshop.exporter.export(order, workshop.version))

    asyncio.run(crowd())


def test_a_full_engine_refuses_a_new_set_and_keeps_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    full = False
    submit = Engine.submit

    def submit_or_refuse(*arguments: Any, **named: Any) -> Any:
        if full:
            raise EngineBusyError(1, 1, 1)
        return submit(*arguments, **named)

    monkeypatch.setattr(Engine, "submit", submit_or_refuse)

    async def run() -> None:
        nonlocal full
        async with Workshop() as workshop:
            order = LargeDatasetOrder.model_validate({"arch": "vanilla", "per_class": 300})
            pieces = workshop.exporter.export(order, workshop.version)
            await anext(pieces)
            full = True
            with pytest.raises(EngineBusyError):
                await anext(workshop.exporter.export(order, workshop.version))
            waiting = asyncio.ensure_future(anext(pieces))
            await asyncio.sleep(2 * datasets.BUSY_SECONDS)
            full = False
            assert await waiting

    asyncio.run(run())


def test_a_collapsed_generator_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "SLOT", 1_280)
    monkeypatch.setattr(readers, "read", lambda images: (np.zeros(len(images), np.uint8), np.full(len(images), 120)))

    async def run() -> None:
        async with Workshop() as workshop:
            with pytest.raises(TooFewError, match="0 of 1,280 images are a 1"):
                await workshop.export(per_class=5)

    asyncio.run(run())


def test_pictures_are_drawn_beside_a_set(api: httpx.Client) -> None:
    with (
        concurrent.futures.ThreadPoolExecutor(1) as thread,
        api.stream("POST", "/datasets", json={"arch": "wgan", "per_class": 300}) as answer,
    ):
        pieces = answer.iter_raw()
        next(pieces)
        drawn = thread.submit(api.post, "/generate", params={"arch": "wgan"})
        assert drawn.result().status_code == 200
        assert sum(map(len, pieces)) > 100_000
