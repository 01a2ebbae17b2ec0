"""What ``digits backup`` and ``digits restore`` say. tests/worker/test_backup.py has what they do."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.test_cli import digits
from tests.versions import NEXT, publish
from worker.connections import connect
from worker.jobs import JobStore, TrainRequest


def call(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    result = digits(folder, *arguments, **{"DIGITS_STATE_DIR": str(folder / "var"), **environment})
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout + result.stderr


def test_a_backup_and_its_restore_say_what_they_did(store: JobStore, valkey_url: str, tmp_path: Path) -> None:
    publish(tmp_path / "models")
    job, _ = store.create(TrainRequest.model_validate({"arch": "vanilla"}))
    file, redis = str(tmp_path / "file.tar"), {"DIGITS_REDIS_URL": valkey_url}
    connect(valkey_url).set("digits:idempotency:odd", "a string", ex=99)
    Path(file).touch(0o644)  # an earlier one
    status, said = call(tmp_path, "backup", file, **redis)
    assert "1 idempotency keys are left out" in said
    assert Path(file).stat().st_mode & 0o777 == 0o600, "others could read the webhook secrets"
    assert (status, f"{file}: 1 jobs (1 of them unfinished) and 1 versions, " in said) == (0, True)
    status, said = call(tmp_path, "restore", file, **redis)
    assert "restored 0 versions (1 more were there) and 0 jobs (1 more were there)" in said
    other = tmp_path / "other"
    publish(other, weights_seed=9)
    status, said = call(tmp_path, "restore", file, **redis, DIGITS_MODEL_DIR=str(other))
    assert (status, f"(dcgan {NEXT['dcgan']})" in said) == (1, True)
    store.cancel(job.id)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_a_redis_there_are_no_jobs(tmp_path: Path) -> None:
    publish(tmp_path / "models")
    status, said = call(tmp_path, "backup", str(tmp_path / "file.tar"))
    assert (status, "no jobs" in said, "0 jobs (0 of them unfinished) and 1 versions" in said) == (0, True, True)
    assert not (tmp_path / "var").exists()


def test_a_digits_up_whose_valkey_cannot_be_reached_is_named(tmp_path: Path) -> None:
    """It has no child here that knows the address."""
    var = tmp_path / "var"
    (var / "valkey").mkdir(parents=True)
    hold = f"from pathlib import Path\nfrom app.processes import up\nwith up.lock(Path({str(var)!r})): print(); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdout.readline()
        status, said = call(tmp_path, "backup", str(tmp_path / "file.tar"))
        assert (status, f"`digits up` runs on {var}" in said, "stop it first" in said) == (1, True, True)
        status, said = call(tmp_path, "gc")
        assert (status, "the states of jobs stay" in said) == (0, True)
        holder.stdin.close()
    assert not (tmp_path / "file.tar").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("backup", "no/such/file.tar"), {}, "there is no folder no/such"),
        (("backup", "/"), {}, "is no file"),
        (("backup", "file.tar"), {"DIGITS_REDIS_URL": "redis://127.0.0.1:1/0"}, "redis: it does not answer"),
        (("restore", "none.tar"), {}, "none.tar: No such file"),
        (("restore", "/"), {}, "/: Is a directory"),
        (("restore", __file__), {}, "is no whole backup, and nothing was changed"),
        (("restore", __file__), {"DIGITS_MODEL_DIR": "/dev/null"}, "/dev/null: Not a directory"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    status, output = call(tmp_path, *arguments, **environment)
    assert (status, said in output) == (1, True), output
    assert list(tmp_path.glob("*.tar")) == list(tmp_path.glob(".*.tar-*")) == []
