"""A model directory that several users share, and folders that one of them cannot read."""

import codecs
import multiprocessing
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.generators import Generators
from app.keys import KeysError, Scope, add_key, read_keys, revoke_key
from models import versions
from models.manifest import GENERATOR
from tests.processes import eventually
from tests.versions import NEXT, SHIPPED, publish
from worker import saved

GROUP, WRITER, READER = 54321, 54322, 54323
FIRST = NEXT["vanilla"]
SECOND = FIRST + 1

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two other users")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A model directory of a group, as an administrator makes one; pytest's own folders are root's alone."""
    folder = Path(tempfile.mkdtemp(prefix="digits-"))
    folder.chmod(0o755)
    model_dir = folder / "models"
    model_dir.mkdir()
    os.chown(model_dir, 0, GROUP)
    model_dir.chmod(0o2770)
    yield model_dir
    shutil.rmtree(folder)


def run_as(uid: int, call: Callable[..., Any], *arguments: Any) -> None:
    """``call(*arguments)`` in a process of that user, who is in the group and has a strict umask."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(uid, call, arguments))
    process.start()
    process.join()
    assert process.exitcode == 0


def _run(uid: int, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    codecs.lookup("cp437")  # zipfile's; the interpreter's own folder may be root's alone
    os.umask(0o077)
    os.setgroups([GROUP])
    os.setgid(uid)
    os.setuid(uid)
    call(*arguments)


@pytest.mark.parametrize(("mode", "may"), [(0o660, False), (0o664, True)])
def test_who_changes_the_keys_locks_no_service_out(shared: Path, mode: int, may: bool) -> None:
    """The service is the owner of the file. Somebody else can give it a new file only if all can read it."""
    file = shared / "keys.json"
    add_key(file, "one", frozenset([Scope.DRAW]))
    os.chown(file, WRITER, GROUP)
    file.chmod(mode)
    run_as(READER, revoke, file, may)
    assert len(read_keys(file)) == (0 if may else 1)
    run_as(WRITER, read_keys, file)


def revoke(file: Path, may: bool) -> None:
    if may:
        revoke_key(file, "one")
        return
    with pytest.raises(KeysError, match="run this as its owner or as root"):
        revoke_key(file, "one")


def publish_two(model_dir: Path) -> None:
    publish(model_dir, "vanilla")
    publish(model_dir, "vanilla", job="a-job", scratch=saved.open_folder(model_dir, "a-job"))
    saved.write(model_dir / ".runs" / "a-job", 5, b"state")


def read_all(model_dir: Path) -> None:
    for number in (FIRST, SECOND):
        versions.read_generator(model_dir / "vanilla" / str(number))
        versions.read_samples(model_dir / "vanilla" / str(number))
    assert next(saved.read(model_dir / ".runs" / "a-job"))[1] == b"state"
    assert publish(model_dir, "vanilla").version == SECOND + 1


def test_what_one_user_publishes_another_one_of_the_group_reads(shared: Path) -> None:
    """Seen to fail where files and folders have what the umask leaves."""
    run_as(WRITER, publish_two, shared)
    run_as(READER, read_all, shared)
    for path in shared.rglob("*"):
        said = path.stat()
        assert said.st_gid == GROUP, path
        assert stat.S_IMODE(said.st_mode) == (0o2770 if path.is_dir() else 0o660), path


def load(model_dir: Path, expected: dict[int, str]) -> None:
    generators = Generators(model_dir, torch.device("cpu"))
    generators.refresh()
    found = {entry.version: entry for entry in generators.entries if entry.arch == "vanilla"}
    assert {number: entry.state for number, entry in found.items()} == expected
    assert all("Permission denied" in (e.problem or "") for e in found.values() if e.state == "rejected")


@pytest.mark.parametrize("path", ["", "manifest.json", GENERATOR])
def test_what_cannot_be_read_is_rejected_and_the_others_are_loaded(shared: Path, path: str) -> None:
    run_as(WRITER, publish_two, shared)
    (shared / "vanilla" / str(FIRST) / path).chmod(0)
    run_as(READER, load, shared, {**dict.fromkeys(SHIPPED["vanilla"], "loaded"), FIRST: "rejected", SECOND: "loaded"})


def look_before_and_after_repair(model_dir: Path) -> None:
    """As the reader: one file is closed, then opened by its owner, who changes nothing else."""
    generators = Generators(model_dir, torch.device("cpu"))
    generators.refresh()
    entry = generators.get_entry("vanilla", str(FIRST))
    assert "cannot be read" in (entry.problem or "")
    (model_dir / "closed").touch()
    eventually(lambda: (model_dir / "open").exists(), "it is repaired")
    generators.refresh()
    assert generators.get_entry("vanilla", str(FIRST)).problem is None


def test_a_repair_of_permissions_is_noticed(shared: Path) -> None:
    run_as(WRITER, publish_two, shared)
    weights = shared / "vanilla" / str(FIRST) / GENERATOR
    weights.chmod(0)

    def repair() -> None:
        eventually(lambda: (shared / "closed").exists(), "the reader has seen it")
        weights.chmod(0o644)
        (shared / "open").touch()

    thread = threading.Thread(target=repair)
    thread.start()
    run_as(READER, look_before_and_after_repair, shared)
    thread.join()


def look_for_problems(model_dir: Path) -> None:
    generators = Generators(model_dir, torch.device("cpu"))
    generators.refresh()
    assert "cannot be read: Permission denied" in (generators.problem or "")
    assert generators.get("vanilla")  # the shipped one


def test_a_folder_that_cannot_be_listed_is_told(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_as(WRITER, publish_two, shared)
    for folder in (shared / "vanilla", shared):
        folder.chmod(0)
        run_as(READER, look_for_problems, shared)
        folder.chmod(0o2770)
    file = shared / "file"
    file.touch()
    generators = Generators(file, torch.device("cpu"))
    for _ in range(3):
        generators.refresh()
    assert caplog.text.count("file cannot be read: Not a directory") == 1
    file.unlink()
    generators.refresh()
    assert "can be read again" in caplog.text
