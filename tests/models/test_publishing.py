"""A version appears whole or not at all, and once per job, wherever its publisher dies or sleeps."""

import errno
import itertools
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from models import publishing, versions
from models.manifest import Manifest
from tests.faults import run_until
from tests.processes import run_in_threads
from tests.versions import publish

JOB = "3b356ab4-5350-44a8-afbd-4038530961aa"


def published(model_dir: Path) -> list[int]:
    """The versions that readers see; each of them must be whole."""
    found = [
        (version, folder) for (arch, version), folder in versions.find_folders(model_dir).items() if arch == "dcgan"
    ]
    for _, folder in found:
        versions.read_generator(folder)
    return [version for version, folder in found if folder.is_relative_to(model_dir)]


def publish_once(model_dir: Path, weights_seed: int = 0) -> Manifest:
    """Publish as a job's run does."""
    scratch = model_dir / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    before = publishing.finish_publication(model_dir, "dcgan", JOB)
    return before or publish(model_dir, weights_seed=weights_seed, job=JOB, scratch=scratch)


def test_a_publisher_killed_before_any_of_its_changes_leaves_a_whole_version_or_none(tmp_path: Path) -> None:
    """This fails if the manifest is already in the folder when the folder gets its number."""
    for step in itertools.count(1):
        model_dir = tmp_path / str(step)
        process = run_until(step, signal.SIGKILL, publish_once, model_dir)
        process.join()
        assert len(published(model_dir)) <= 1
        manifest = publish_once(model_dir)  # the next run of the job
        assert published(model_dir) == [manifest.version]
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert step > 15


@pytest.mark.parametrize("cleans_up", [False, True])
def test_a_publisher_that_slept_while_another_one_published_adds_nothing(tmp_path: Path, cleans_up: bool) -> None:
    """This fails without the folder with the job's id, which only one run can make."""
    for step in itertools.count(1):
        model_dir = tmp_path / str(step)
        sleeper = run_until(step, signal.SIGSTOP, publish_once, model_dir, 1)
        slept = sleeper.is_alive()
        manifest = publish_once(model_dir)
        if cleans_up:
            for path in (model_dir / "scratch").glob(".publishing-*/*"):
                path.unlink()
        if slept:
            assert sleeper.pid is not None
            os.kill(sleeper.pid, signal.SIGCONT)
        sleeper.join()
        assert published(model_dir) == [manifest.version]
        if not slept:
            break
    assert step > 15


def test_racing_runs_of_one_job_publish_one_version(tmp_path: Path) -> None:
    ready, seeds = threading.Barrier(8), iter(range(8))
    numbers: list[int] = []

    def run() -> None:
        ready.wait()
        numbers.append(publish_once(tmp_path, next(seeds)).version)

    run_in_threads(run, 8)
    assert len(numbers) == 8
    assert published(tmp_path) == [numbers[0]]
    assert set(numbers) == {numbers[0]}


def test_on_a_full_disk_a_version_is_published_whole_or_nothing_is_left(tmp_path: Path) -> None:
    """This fails if a publisher does not remove the files of a failed version."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        ends: list[int | None] = []
        ballast = tmp_path / "ballast"
        for kib in range(3_600, 1_200, -200):  # taken, of 4,096 KiB
            ballast.write_bytes(bytes(kib * 1024))
            try:
                publish_once(tmp_path)
                ends.append(None)
                break
            except OSError as error:
                ends.append(error.errno)
                assert [path for path in tmp_path.rglob("*") if path.is_file()] == [ballast]
        assert len(ends) > 1
        assert set(ends[:-1]) == {errno.ENOSPC}
        assert ends[-1] is None
        assert len(published(tmp_path)) == 1
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
