import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from app import album as album_module
from app import studio as studio_module
from app.album import Album
from app.entries import Entry, NotNowError, UnknownVersionError
from app.generators import Generators
from app.studio import MAX_WAITING, Studio, StudioBusyError
from models import versions
from models.manifest import HISTORY, SAMPLES
from models.mnist import DatasetError
from tests.versions import publish

DATA = Path(__file__).parents[2] / "models" / "data" / "mnist"


@asynccontextmanager
async def opened() -> AsyncIterator[Studio]:
    studio = Studio(DATA)
    try:
        yield studio
    finally:
        studio.close()


def find_entry(model_dir: Path, arch: str, version: int) -> Entry:
    generators = Generators(model_dir, torch.device("cpu"))
    generators.refresh()
    return generators.get_entry(arch, str(version))


def test_work_is_done_in_order_in_one_thread_and_may_fail() -> None:
    def fail(_: Album) -> None:
        raise ValueError("no such picture")

    async def ask() -> None:
        async with opened() as studio:
            failed = studio.submit(fail)
            first, second = [await studio.submit(lambda album: (album, threading.get_ident())) for _ in range(2)]
            assert first == second
            assert first[1] != threading.get_ident()
            with pytest.raises(ValueError, match="no such picture"):
                await failed

    asyncio.run(ask())


def test_what_waits_is_bounded_and_what_nobody_waits_for_is_not_done() -> None:
    may_go_on = threading.Event()
    done: list[int] = []

    def note(number: int, _: Album) -> None:
        done.append(number)

    async def ask() -> None:
        async with opened() as studio:
            first = studio.submit(lambda _: may_go_on.wait(60))
            waiting = [studio.submit(partial(note, number)) for number in range(1, MAX_WAITING)]
            with pytest.raises(StudioBusyError):
                studio.submit(lambda _: None)
            for answer in waiting[:-1]:
                answer.cancel()
            may_go_on.set()
            assert await first
            await waiting[-1]
            assert done == [MAX_WAITING - 1]
            assert await studio.submit(lambda _: 5) == 5

    asyncio.run(ask())


def test_a_file_with_a_name_is_made_once_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio_module, "KEPT_BYTES", 20)
    made: list[str] = []

    def make(name: str, _: Album) -> bytes:
        made.append(name)
        return name.encode() * 10

    async def ask() -> None:
        async with opened() as studio:
            for name in "aabab":
                assert await studio.submit(partial(make, name), name) == name.encode() * 10
            assert made == ["a", "b"]
            for name in "cbab":
                await studio.submit(partial(make, name), name)
            assert made == ["a", "b", "c", "a", "b"]
            failing = studio.submit(lambda _: b"" + b"x" * (1 // 0), "d")
            with pytest.raises(ZeroDivisionError):
                await failing
            assert await studio.submit(partial(make, "d"), "d") == b"d" * 10

    asyncio.run(ask())


def test_closing_ends_the_thread() -> None:
    async def ask() -> threading.Thread:
        async with opened() as studio:
            return await studio.submit(lambda _: threading.current_thread())

    assert not asyncio.run(ask()).is_alive()


def test_samples_stay_unpacked_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [find_entry(tmp_path, arch, 1) for arch in ("vanilla", "dcgan", "wgan")]
    read: list[Path] = []

    def read_samples(folder: Path) -> torch.Tensor:
        read.append(folder)
        return original(folder)

    original = versions.read_samples
    monkeypatch.setattr(versions, "read_samples", read_samples)
    album = Album(tmp_path)
    assert (album.read_samples(entries[0]) == original(entries[0].folder).numpy()).all()
    monkeypatch.setattr(album_module, "KEPT_BYTES", int(1.7 * album.read_samples(entries[0]).nbytes))
    for entry in (entries[0], entries[1], entries[0], entries[2], entries[0], entries[1]):
        album.read_samples(entry)
    assert read == [entries[number].folder for number in (0, 1, 2, 1)]


def test_damaged_files_say_which_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = publish(tmp_path, "dcgan")
    entry = find_entry(tmp_path, "dcgan", made.version)
    album = Album(tmp_path)
    for name in (SAMPLES, HISTORY):
        (entry.folder / name).write_bytes(b"x" * made.files[name].bytes)
    with pytest.raises(UnknownVersionError, match=f"version {made.version} of dcgan is damaged: samples.npz"):
        album.read_samples(entry)
    with pytest.raises(UnknownVersionError, match=r"history\.jsonl has another sha256"):
        album.read_history(entry)
    monkeypatch.setattr(versions, "read_history", lambda _: (_ for _ in ()).throw(OSError(24, "Too many open files")))
    with pytest.raises(NotNowError, match="Too many open files"):
        album.read_history(entry)


def test_samples_of_another_shape_are_damaged(tmp_path: Path) -> None:
    made = publish(tmp_path, "dcgan", samples=torch.zeros(1, 4, 14, 56, dtype=torch.uint8))
    with pytest.raises(UnknownVersionError, match="28 × 28"):
        Album(tmp_path).read_samples(find_entry(tmp_path, "dcgan", made.version))


def test_real_digits_are_read_when_they_are_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="missing"):
        Album(tmp_path).read_real()
    album = Album(DATA)
    images, found = album.read_real()
    assert images.shape == (10_000, 28, 28)
    assert len(found) == 64
    assert album.read_real()[0] is images
