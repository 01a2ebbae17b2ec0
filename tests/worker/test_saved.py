import itertools
import os
import signal
from pathlib import Path

import pytest

from tests.faults import run_until
from worker import saved


def test_the_newest_states_are_kept_and_read_first(tmp_path: Path) -> None:
    folder = saved.open_folder(tmp_path, "job")
    for steps in (1, 20, 300):
        saved.write(folder, steps, str(steps).encode())
    assert [content for _, content in saved.read(folder)] == [b"300", b"20"]
    assert len(list(folder.iterdir())) == saved.KEPT


def test_a_state_is_written_whole_or_not_at_all_wherever_its_writer_is_killed(tmp_path: Path) -> None:
    """This fails if the state is written directly under its final name."""
    for step in itertools.count(1):
        folder = saved.open_folder(tmp_path, str(step))
        saved.write(folder, 1, b"one")
        saved.write(folder, 2, b"two")
        process = run_until(step, signal.SIGKILL, saved.write, folder, 3, b"three")
        process.join()
        found = [content for _, content in saved.read(folder)]
        assert found[0] in (b"two", b"three")
        assert set(found) <= {b"one", b"two", b"three"}
        if process.exitcode == 0:
            break
    assert step > 3


def test_states_from_which_nobody_can_go_on_are_replaced_however_far_they_were(tmp_path: Path) -> None:
    folder = saved.open_folder(tmp_path, "job")
    for steps in (90, 100):
        saved.write(folder, steps, b"of another release")
    refused = [path for path, _ in saved.read(folder)]
    saved.write(folder, 90, b"ours", instead_of=refused)
    assert [content for _, content in saved.read(folder)] == [b"ours"]
    saved.write(folder, 91, b"ours, too")
    assert [content for _, content in saved.read(folder)] == [b"ours, too", b"ours"]


def test_a_run_whose_job_has_ended_finds_no_place_to_write_to(tmp_path: Path) -> None:
    folder = saved.open_folder(tmp_path, "job")
    saved.remove(tmp_path, "job")
    with pytest.raises(FileNotFoundError):
        saved.write(folder, 1, b"one")
    assert not folder.exists()


def test_only_what_nobody_needs_is_swept(tmp_path: Path) -> None:
    for name in ("running", "ended", "unknown", "long unknown"):
        saved.open_folder(tmp_path, name)
    os.utime(tmp_path / ".runs" / "long unknown", (0, 0))
    ended = {"running": False, "ended": True}
    saved.sweep(tmp_path, lambda job_id: ended.get(job_id))
    assert sorted(path.name for path in (tmp_path / ".runs").iterdir()) == ["running", "unknown"]
    saved.sweep(tmp_path / "none", lambda job_id: True)
