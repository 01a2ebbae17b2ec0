"""From a service in mid-training to another machine: real processes, a backup, nothing left of the old ones."""

import re
import signal
from pathlib import Path

import pytest

from models import versions
from models.manifest import read_manifest
from tests.app.test_cli import digits
from tests.processes import eventually
from tests.system.conftest import running_service
from tests.system.hosts import Hosts, kill, running_hosts
from tests.versions import NEXT
from worker.jobs import JobState

pytestmark = pytest.mark.timeout(900)  # what a test waits for has its own patience


def call(hosts: Hosts, *arguments: str) -> str:
    result = digits(hosts.folder, *arguments, **hosts.environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def draw(hosts: Hosts, version: int) -> bytes:
    answer = hosts.api().get("/generate", params={"arch": "vanilla", "version": version, "seed": 5, "n": 64})
    assert answer.status_code == 200
    return answer.content


def test_a_job_in_mid_training_goes_on_elsewhere_and_versions_draw_the_same(tmp_path: Path) -> None:
    file = str(tmp_path / "digits.tar")
    with running_hosts(tmp_path / "old", "quick,few") as old:
        worker = old.worker()
        done = old.wait_for_end(old.train(epochs=1))
        assert done.version
        picture = draw(old, done.version)
        job_id, waiting = old.train(epochs=30), old.train(epochs=1)
        old.wait_for_step(job_id, epoch=2)
        assert "3 jobs (2 of them unfinished) and 1 versions" in call(old, "backup", file)
        assert old.job(job_id).state is JobState.RUNNING
        kill(worker)
        old.kill_valkey()

    with running_hosts(tmp_path / "new", "quick,few") as new:
        said = call(new, "restore", file)
        assert "restored 1 versions (0 more were there) and 3 jobs (0 more were there)" in said
        assert draw(new, done.version) == picture
        assert new.job(done.id) == done
        assert (new.job(job_id).state, new.job(waiting).state) == (JobState.QUEUED, JobState.QUEUED)
        assert (new.job(job_id).saved_step or 0) > 0
        new.worker()
        job = new.wait_for_end(job_id)
        assert (job.state, job.attempt, job.resumes, job.lost_leases) == (JobState.SUCCEEDED, 2, 1, 0)
        kinds = ["queued", "started", "queued", "started", "published", "ended"]
        assert [kind for kind in new.kinds(job_id) if kind in kinds] == kinds
        assert new.wait_for_end(waiting).state is JobState.SUCCEEDED
        made = [new.versions(one) for one in (done.id, job_id, waiting)]
        assert [len(found) for found in made] == [1, 1, 1]
        assert sorted(int(folder.name) for (folder,) in made) == [NEXT["vanilla"] + more for more in range(3)]


def test_the_jobs_of_digits_up_are_backed_up_while_it_runs_and_while_it_does_not(tmp_path: Path) -> None:
    running, ended = str(tmp_path / "running.tar"), str(tmp_path / "ended.tar")
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with running_service(tmp_path / "old", "few,unmeasured") as old:
        job_id = old.train(arch="vanilla", recipe="book", epochs=30)
        eventually(lambda: (old.job(job_id)["epoch"] or 0) > 1, "it trains")
        worker = old.part("worker")
        assert worker
        found = re.fullmatch(r"redis://:(.+)@.*", worker.environ()["DIGITS_REDIS_URL"])
        assert found
        result = digits(tmp_path, "backup", running, **old.environment)
        assert "1 jobs (1 of them unfinished)" in result.stdout, result.stderr
        assert found[1].encode() not in Path(running).read_bytes()
        processes = old.everything()
        old.process.end(signal.SIGKILL)
        eventually(lambda: not any(process.is_running() for process in processes), "all are gone")
        result = digits(tmp_path, "backup", ended, **old.environment)
        assert "1 jobs (1 of them unfinished)" in result.stdout, result.stderr

    new_folder = tmp_path / "new"
    places = {"DIGITS_STATE_DIR": str(new_folder / "var"), "DIGITS_MODEL_DIR": str(new_folder / "models")}
    for file, said in ((running, "and 1 jobs (0 more"), (ended, "and 0 jobs (1 more")):
        result = digits(tmp_path, "restore", file, **places)
        assert said in result.stdout, result.stderr
    with running_service(new_folder, "few,unmeasured") as new:
        job = new.wait_for(job_id, "succeeded")
        assert job["resumes"] == 1
        (made,) = versions.list_numbers(new_folder / "models" / "vanilla")
        assert made == job["version"]
        assert read_manifest(new_folder / "models" / "vanilla" / str(made)).job == job_id
