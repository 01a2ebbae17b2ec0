"""``digits gc`` removes what nobody needs, and nothing else."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import choices, classifier, seed_index, versions
from models.manifest import MANIFEST, Manifest, read_manifest
from models.seed_index import SEEDS, SeedIndex
from tests.app.test_cli import digits
from tests.processes import running_valkey
from tests.versions import publish
from worker import saved
from worker.connections import connect
from worker.jobs import JobState, JobStore, TrainRequest

INDEX = SeedIndex(np.zeros(SEEDS, np.uint8), np.zeros(SEEDS, np.uint8))


def rated(fid: float, recipe: str = "own") -> dict[str, Any]:
    return {"metrics": {"fid": fid}, "classifier_sha256": classifier.sha256(), "recipe": {"name": recipe}}


def list_own(folder: Path) -> set[int]:
    return {number for _, number in versions.find_folders(folder) if (folder / "dcgan" / str(number)).is_dir()}


def keep_index(model_dir: Path, manifest: Manifest) -> Path:
    seed_index.save(model_dir, name := seed_index.make_name(manifest), INDEX)
    return model_dir / seed_index.FOLDER / name


def collect(folder: Path, *arguments: str, **environment: str) -> str:
    result = digits(folder, "gc", *arguments, **{"DIGITS_STATE_DIR": str(folder), **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def age(path: Path) -> Path:
    os.utime(path, (0, 0))
    return path


def test_the_newest_the_best_the_best_of_each_recipe_and_the_pinned_version_stay(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    facts = [rated(9), rated(0.1), rated(5, "other"), rated(4, "other"), rated(9), rated(9), rated(9), rated(9)]
    numbers = [publish(folder, weights_seed=seed, **one).version for seed, one in enumerate(facts)]
    damaged = publish(folder).version
    (folder / "dcgan" / str(damaged) / MANIFEST).write_text("{}")
    choices.pin(folder, "dcgan", numbers[4])
    index = keep_index(folder, read_manifest(folder / "dcgan" / str(numbers[0])))
    before = sorted(folder.rglob("*"))

    said = collect(tmp_path, "--keep", "2")
    assert sorted(folder.rglob("*")) == before, "a dry run changes nothing"
    listed = [line.split() for line in said.splitlines() if line.startswith("old version")]
    assert [words[2] for words in listed] == [f"dcgan/{numbers[at]}" for at in (0, 2, 5)]
    assert all(0.1 < float(words[3]) < 10 for words in listed)
    total = re.search(r"3 things, ([\d.]+) MB can be removed: `digits gc --delete`", said)
    assert total
    assert float(total[1]) == pytest.approx(sum(float(words[3]) for words in listed), abs=0.2)

    assert "3 things" in collect(tmp_path, "--keep", "2", "--delete")
    assert list_own(folder) == {numbers[at] for at in (1, 3, 4, 6, 7)} | {damaged}
    assert not index.exists()
    assert "0 things, 0.0 MB can be removed\n" in collect(tmp_path, "--keep", "2")
    assert publish(folder).version == damaged + 1


def test_what_dead_processes_have_left_goes_after_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    version = publish(folder).version
    arch, indexes = folder / "dcgan", folder / seed_index.FOLDER
    keep_index(folder, read_manifest(arch / str(version)))
    names = [arch / ".publishing-1", arch / ".removed-9-1", arch / ".jobs" / ".1", folder / ".restoring-1"]
    for name in names:
        name.mkdir(parents=True)
        (name / "file").write_bytes(bytes(1_000_000))
        shutil.copytree(name, new := name.with_name(f"{name.name}-new"))
        (new / "more").touch()  # somebody writes to it just now
    for name in (arch / ".default.json-1", indexes / ".name-1"):
        name.write_bytes(bytes(1_000_000))
        shutil.copy(name, name.with_name(f"{name.name}-new"))
        names.append(name)
    (arch / ".jobs" / "a job").mkdir()
    for name in (*names, arch / ".jobs" / "a job", arch / ".numbers", arch / str(version)):
        age(name)
    said = collect(tmp_path, "--delete")
    assert said.count("\nunfinished") == said.count(" what=unfinished ") == 6
    assert "6 things, 6.0 MB: removed" in said
    assert [name for name in names if name.exists()] == []
    left = [path.name for path in folder.rglob("*-new")]
    assert len(left) == 6
    assert (arch / ".jobs" / "a job").is_dir()
    assert list_own(folder) == {version}
    assert len(list(indexes.iterdir())) == 2


def test_indexes_of_versions_that_have_gone_go(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    kept, gone = (publish(folder, weights_seed=seed) for seed in (1, 2))
    files = [
        keep_index(folder, manifest) for manifest in (kept, gone, read_manifest(versions.PRETRAINED / "wgan" / "1"))
    ]
    shutil.rmtree(folder / "dcgan" / str(gone.version))  # by hand
    choices.hide(folder, "wgan", 1)
    assert "1 thing, 0.0 MB: removed" in collect(tmp_path, "--delete")
    assert [file.exists() for file in files] == [True, False, True]


def test_states_stay_as_long_as_a_job_may_need_them(store: JobStore, valkey_url: str, tmp_path: Path) -> None:
    queued, ended = (store.create(TrainRequest.model_validate({"arch": "vanilla"}))[0].id for _ in range(2))
    claim = store.claim(ended, "worker")
    assert claim
    store.finish(claim, JobState.FAILED, error="none")
    names = [queued, ended, "unknown", "long-unknown"]

    def make() -> list[Path]:
        folders = [saved.open_folder(tmp_path / "models", name) for name in names]
        for one in (folders[0], folders[3]):
            age(one)
        return folders

    folders = make()
    away = collect(tmp_path, "--delete", DIGITS_REDIS_URL="redis://127.0.0.1:1/0")
    assert "nobody can say which of them are needed: redis: it does not answer" in away
    assert all(folder.exists() for folder in folders)
    collect(tmp_path, "--delete", DIGITS_REDIS_URL=valkey_url)
    assert [folder.exists() for folder in folders] == [True, False, True, False]
    make()
    said = collect(tmp_path, "--delete")  # without a Redis, they may be those of another host
    assert "the states of jobs stay" in said
    assert "Set DIGITS_REDIS_URL" in said
    assert all(folder.exists() for folder in folders)


def test_without_states_nothing_is_said_of_them(tmp_path: Path) -> None:
    assert "states" not in collect(tmp_path)


def test_the_valkey_of_digits_up_is_asked_although_it_does_not_run(tmp_path: Path) -> None:
    with running_valkey(tmp_path) as (_, url):
        job, _ = JobStore(connect(url)).create(TrainRequest.model_validate({"arch": "vanilla"}))
    folder = age(saved.open_folder(tmp_path / "models", job.id))
    assert "0 things" in collect(tmp_path)
    assert folder.exists()


def test_at_least_one_version_is_kept(tmp_path: Path) -> None:
    result = digits(tmp_path, "gc", "--keep", "0")
    assert (result.returncode, "x>=1" in result.stderr) == (2, True)
