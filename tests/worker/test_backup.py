"""A backup is consistent whenever it is made, and a restore puts back all of it, or nothing of what is no backup."""

import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from app.keys import MAX_NAME
from models import choices, removal, versions
from models.manifest import FILES, GENERATOR, MANIFEST, InvalidVersionError
from tests.faults import run_until
from tests.models.test_publishing import publish_once, published
from tests.models.test_removal import keep_index, list_own, remove_once
from tests.versions import NEXT, SHIPPED, publish
from worker import saved
from worker.backup import CHOICES, HEAD, KEYS, SUMS, Written, write
from worker.connections import connect
from worker.copies import MAX_KEY, CopyStore, Restored
from worker.jobs import KEPT_SECONDS, MAX_LOST, JobState, TrainRequest
from worker.restore import ConflictError, Summary, restore
from worker.unpacking import InvalidBackupError


@pytest.fixture
def store(valkey_url: str) -> CopyStore:
    """An empty store."""
    client = connect(valkey_url)
    client.flushdb()
    return CopyStore(client)


def back_up(path: Path, model_dir: Path, store: CopyStore | None) -> Written:
    with path.open("wb") as file:
        return write(file, model_dir, store, lambda *_: None)


def put_back(path: Path, model_dir: Path, store: CopyStore) -> Summary:
    return restore(path, model_dir, store, lambda *_: None)


def create(store: CopyStore, key: str | None = None) -> str:
    return store.create(TrainRequest.model_validate({"arch": "dcgan", "recipe": "book", "epochs": 9}), key)[0].id


def run(store: CopyStore, job_id: str, model_dir: Path, **fields: Any) -> Any:
    claim = store.claim(job_id, "worker")
    assert claim
    saved.write(saved.open_folder(model_dir, job_id), 1, b"a state")
    events = [(number, "sample", json.dumps({"epoch": number})) for number in range(1, 4)]
    store.report(claim, {"epoch": 3, "saved_step": 1, "d_loss": 0.5, **fields}, events)
    return claim


def list_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def list_events(store: CopyStore, job_id: str) -> list[Any]:
    news = store.read_events({job_id: "0"}, 9_999)[job_id]
    assert news
    return news.events


def test_everything_comes_back(store: CopyStore, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    kept, gone, best = (publish(before, weights_seed=seed, job=str(seed)) for seed in (1, 2, 3))
    removal.remove(before, "dcgan", gone.version)
    keep_index(before, kept)
    choices.pin(before, "dcgan", kept.version)
    choices.hide(before, "wgan", 1)
    queued, running, ended = create(store, "my key"), create(store), create(store)
    run(store, running, before)
    connect_to(store).hset(f"digits:job:{running}", "lost_in_a_row", MAX_LOST - 1)  # one more would end it
    store.finish(run(store, ended, before), JobState.SUCCEEDED, version=best.version)
    saved.remove(before, ended)
    jobs = {job.id: job for job in store.list_newest(9)}
    events = {job_id: list_events(store, job_id) for job_id in jobs}

    written = back_up(tmp_path / "file.tar", before, store)
    assert (written.jobs, written.unfinished, written.versions, written.unreadable) == (3, 2, 2, [])
    assert written.bytes == (tmp_path / "file.tar").stat().st_size
    redis = connect_to(store)
    redis.flushdb()
    done = put_back(tmp_path / "file.tar", after, store)
    assert (done.versions, done.jobs[Restored.RESTORED]) == (2, 3)

    assert list_files(after) == list_files(before)
    assert list_own(after) == list_own(before) == [kept.version, best.version]
    assert [choices.read_pin(after, "dcgan"), choices.list_hidden(after, "wgan")] == [kept.version, [1]]
    assert publish(after).version == best.version + 1
    assert [job.id for job in store.list_newest(9)] == list(jobs)
    assert store.get(queued) == jobs[queued]
    assert store.get(ended) == jobs[ended]
    assert KEPT_SECONDS - 60 < redis.ttl(f"digits:job:{ended}") <= KEPT_SECONDS + 1
    assert KEPT_SECONDS - 60 < redis.ttl(f"digits:events:{ended}") <= KEPT_SECONDS + 1
    again = store.get(running)
    assert again
    assert (again.state, again.attempt, again.lost_in_a_row, again.saved_step) == ("queued", 1, MAX_LOST - 1, 1)
    assert list_events(store, ended) == events[ended]
    assert list_events(store, running)[:-1] == events[running]
    assert list_events(store, running)[-1].kind == "queued"
    assert create(store, "my key") == queued
    assert set(store.reconcile(0, at_once=True)) == {queued, running}
    store.finish(run(store, running, after), JobState.FAILED)
    assert [event.kind for event in list_events(store, running)].count("sample") == 1  # as of any job that ends


def connect_to(store: CopyStore) -> Any:
    return store._redis


def test_a_second_restore_changes_nothing(store: CopyStore, tmp_path: Path) -> None:
    model_dir = tmp_path / "models"
    publish(model_dir)
    job_id = create(store)
    back_up(tmp_path / "file.tar", model_dir, store)
    store.cancel(job_id)
    before = list_files(model_dir)
    done = put_back(tmp_path / "file.tar", model_dir, store)
    assert (done.versions, done.versions_there) == (0, 1)
    assert (done.jobs[Restored.RESTORED], done.jobs[Restored.THERE]) == (0, 1)
    assert list_files(model_dir) == before
    job = store.get(job_id)
    assert job
    assert job.state is JobState.CANCELED


def test_a_job_that_ended_too_long_ago_does_not_come_back(store: CopyStore, tmp_path: Path) -> None:
    job_id = create(store)
    store.cancel(job_id)
    connect_to(store).hset(f"digits:job:{job_id}", "ended_at", "1000.5")
    back_up(tmp_path / "file.tar", tmp_path, store)
    connect_to(store).flushdb()
    assert put_back(tmp_path / "file.tar", tmp_path / "after", store).jobs[Restored.EXPIRED] == 1
    assert connect_to(store).keys("digits:*job*") == []


def test_a_job_that_was_to_be_canceled_is(store: CopyStore, tmp_path: Path) -> None:
    job_id = create(store)
    run(store, job_id, tmp_path)
    store.cancel(job_id)
    back_up(tmp_path / "file.tar", tmp_path, store)
    connect_to(store).flushdb()
    put_back(tmp_path / "file.tar", tmp_path / "after", store)
    job = store.get(job_id)
    assert job
    assert job.state is JobState.CANCELED


def test_a_job_that_cannot_be_read_is_left_out_and_named(store: CopyStore, tmp_path: Path) -> None:
    good, bad, odd = (create(store) for _ in range(3))
    connect_to(store).hset(f"digits:job:{bad}", "epochs", "many")
    connect_to(store).delete(f"digits:job:{odd}")
    connect_to(store).set(f"digits:job:{odd}", "a string")
    written = back_up(tmp_path / "file.tar", tmp_path, store)
    assert (written.jobs, written.unreadable) == (1, [bad, odd])
    connect_to(store).flushdb()
    put_back(tmp_path / "file.tar", tmp_path / "after", store)
    assert store.list_ids() == [good]


def test_keys_of_every_length_are_kept_and_those_that_cannot_be_read_counted(store: CopyStore, tmp_path: Path) -> None:
    longest = f"{'a' * MAX_NAME}:{'k' * 200}"  # as app/routes/jobs.py makes it
    job_id = create(store, longest)
    create(store, "x" * (MAX_KEY + 1))
    redis = connect_to(store)
    redis.set("digits:idempotency:a string", "1", ex=99)
    redis.hset("digits:idempotency:odd", mapping={"id": "../x", "fingerprint": ""})
    redis.expire("digits:idempotency:odd", 99)
    written = back_up(tmp_path / "file.tar", tmp_path, store)
    assert (written.jobs, written.unreadable_keys) == (2, 3)
    redis.flushdb()
    put_back(tmp_path / "file.tar", tmp_path / "after", store)
    assert create(store, longest) == job_id


def test_without_a_redis_it_has_the_versions(store: CopyStore, tmp_path: Path) -> None:
    version = publish(tmp_path / "before").version
    assert back_up(tmp_path / "file.tar", tmp_path / "before", None).versions == 1
    put_back(tmp_path / "file.tar", tmp_path / "after", store)
    assert list_own(tmp_path / "after") == [version]


def test_another_version_of_the_same_number_stops_it_before_anything_is_changed(
    store: CopyStore, tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for seed in (1, 2):
        publish(before, weights_seed=seed)
    publish(after, weights_seed=3)
    create(store)
    back_up(tmp_path / "file.tar", before, store)
    connect_to(store).flushdb()
    there = list_files(after)
    with pytest.raises(ConflictError, match=rf"\(dcgan {NEXT['dcgan']}\)"):
        put_back(tmp_path / "file.tar", after, store)
    assert list_files(after) == there
    assert store.list_ids() == []


def test_a_version_that_was_removed_stays_removed_and_one_that_was_lost_comes_back(
    store: CopyStore, tmp_path: Path
) -> None:
    removed, lost = (publish(tmp_path, weights_seed=seed).version for seed in (1, 2))
    back_up(tmp_path / "file.tar", tmp_path, store)
    removal.remove(tmp_path, "dcgan", removed)
    shutil.rmtree(tmp_path / "dcgan" / str(lost))
    assert put_back(tmp_path / "file.tar", tmp_path, store).removed == [f"dcgan {removed}"]
    assert list_own(tmp_path) == [lost]


def test_redis_is_asked_before_anything_is_changed(store: CopyStore, tmp_path: Path) -> None:
    publish(tmp_path / "before")
    back_up(tmp_path / "file.tar", tmp_path / "before", store)
    with pytest.raises(RedisError):
        put_back(tmp_path / "file.tar", tmp_path / "after", CopyStore(connect("redis://127.0.0.1:1/0")))
    assert list_files(tmp_path / "after") == {}


def test_whenever_a_publisher_is_backed_up_its_job_makes_one_whole_version(store: CopyStore, tmp_path: Path) -> None:
    """This fails if the folder of the job is in the backup without its version, or the version by halves."""
    for step in itertools.count(1):
        before, after, path = (tmp_path / f"{step}{name}" for name in ("before", "after", ".tar"))
        sleeper = run_until(step, signal.SIGSTOP, publish_once, before)
        slept = sleeper.is_alive()
        back_up(path, before, store)
        if slept:
            assert sleeper.pid is not None
            os.kill(sleeper.pid, signal.SIGKILL)
        sleeper.join()
        put_back(path, after, store)
        shown = published(after)
        manifest = publish_once(after)  # the next run of the job
        assert published(after) == [manifest.version]
        assert shown in ([], [manifest.version])
        if not slept:
            assert shown
            break
    assert step > 15


def test_whenever_a_version_is_removed_it_is_in_the_backup_as_a_whole_or_not_at_all(
    store: CopyStore, tmp_path: Path
) -> None:
    for step in itertools.count(1):
        before, after, path = (tmp_path / f"{step}{name}" for name in ("before", "after", ".tar"))
        publish(before)
        sleeper = run_until(step, signal.SIGSTOP, remove_once, before)
        slept = sleeper.is_alive()
        back_up(path, before, store)
        if slept:
            assert sleeper.pid is not None
            os.kill(sleeper.pid, signal.SIGKILL)
        sleeper.join()
        put_back(path, after, store)
        assert list_own(after) in ([], [NEXT["dcgan"]])
        assert publish(after).version == NEXT["dcgan"] + 1
        if not slept:
            break
    assert step > 8


def test_a_version_that_goes_while_its_files_are_opened_is_left_out(
    store: CopyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This fails if a file is written before all are open."""
    version = publish(tmp_path / "before").version
    open_ = Path.open

    def remove_first(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == FILES[0]:
            file = open_(self, *arguments, **options)
            removal.remove(tmp_path / "before", "dcgan", version)
            return file
        return open_(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", remove_first)
        assert back_up(tmp_path / "file.tar", tmp_path / "before", store).versions == 0
    assert put_back(tmp_path / "file.tar", tmp_path / "after", store).versions == 0


@pytest.mark.parametrize("how", ["hidden", "given", "removed", "damaged"])
@pytest.mark.parametrize("has_own", [False, True])
def test_one_version_that_can_draw_stays(store: CopyStore, tmp_path: Path, how: str, has_own: bool) -> None:
    """Whatever the backup says, unless it brings one itself."""
    numbers = SHIPPED["wgan"]
    own = publish(tmp_path / "before", "wgan").version if has_own else None
    if how == "hidden":
        for number in numbers:
            choices.hide(tmp_path / "before", "wgan", number)
    for number in numbers if how in ("given", "removed") else []:
        (tmp_path / "before" / "wgan" / versions.NUMBERS / str(number)).mkdir(parents=True, exist_ok=True)
        if how == "removed":
            removal.mark(tmp_path / "before", "wgan", number)
    for number in numbers if how == "damaged" else []:
        shutil.copytree(versions.PRETRAINED / "wgan" / str(number), tmp_path / "before" / "wgan" / str(number))
        (tmp_path / "before" / "wgan" / str(number) / GENERATOR).write_bytes(b"damaged")
    back_up(tmp_path / "file.tar", tmp_path / "before", store)
    done = put_back(tmp_path / "file.tar", tmp_path / "after", store)
    found = versions.find_folders(tmp_path / "after")
    usable = [number for (arch, number), folder in found.items() if arch == "wgan" and can_draw(folder)]
    assert usable == ([own] if has_own else [numbers[-1]])
    assert done.shown == (set() if has_own else {f"wgan {numbers[-1]}"})


def can_draw(folder: Path) -> bool:
    try:
        versions.read_generator(folder)
    except InvalidVersionError:
        return False
    return True


Files = dict[str, bytes]
Change = Callable[[Files], Any]


def make_link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


def change_job(**changes: Any) -> Change:
    def change(members: Files) -> None:
        name = next(name for name in members if name.startswith("jobs/"))
        job = json.loads(members[name])
        job["record"].update({key: value for key, value in changes.items() if key != "events"})
        job["events"] = changes.get("events", job["events"])
        members[name] = json.dumps(job).encode()

    return change


def put(name: str, data: bytes) -> Change:
    return lambda members: members.__setitem__(name, data)


LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE]
STATE = "models/.runs/a-job/state-000000001.pt"

# What a backup says in place of what it should, with right sums → a word of the error.
HOSTILE: dict[str, tuple[Change, str]] = {
    "a path upwards": (put("models/../../evil", b""), "does not belong"),
    "a path upwards in an id": (put("models/.runs/../state-000000001.pt", b""), "does not belong"),
    "an absolute path": (put("/tmp/evil", b""), "does not belong"),
    "another architecture": (put(f"models/biggan/1/{MANIFEST}", b"{}"), "does not belong"),
    "another file": (put("models/dcgan/3/evil.pkl", b""), "does not belong"),
    "a line break": (put("jobs/a\n.json", b""), "does not belong"),
    "a number with a zero": (put(f"models/dcgan/03/{MANIFEST}", b"{}"), "does not belong"),
    "a large manifest": (put(f"models/dcgan/3/{MANIFEST}", bytes(2**20 + 1)), "more than"),
    "no manifest": (put(f"models/dcgan/99/{FILES[0]}", b"x"), "has no manifest.json"),
    "another format": (put(HEAD, b'{"format": 2, "created_at": "2026-01-01", "has_jobs": true}'), "format 2"),
    "no format": (put(HEAD, b"{}"), "format"),
    "no choices": (lambda members: members.pop(CHOICES), "is missing"),
    "choices of none": (put(CHOICES, b"{}"), "says nothing of dcgan"),
    "a huge number": (put(CHOICES, b'{"dcgan": {"pinned": 1e30, "hidden": [], "given": [], "removed": []}}'), "pinned"),
    "a nested file": (put(CHOICES, b"[" * 100_000), "choices.json"),
    "keys that are none": (put(KEYS, b'[{"key": ""}]'), "keys.json"),
    "a job that is none": (put("jobs/a-job.json", b"{}"), "a-job.json"),
    "another id": (change_job(id="another"), "is another job"),
    "an odd id": (change_job(id="../x"), "unreadable"),
    "an odd state": (change_job(state="flying"), "state"),
    "no time": (change_job(created_at="nan"), "created_at"),
    "an end without a time": (change_job(state="failed"), "ended_at"),
    "an odd number": (change_job(attempt="x"), "attempt"),
    "an unreadable job": (change_job(state="unreadable"), "unreadable"),
    "events in disorder": (change_job(events=[["2-0", "queued", "{}"], ["1-0", "queued", "{}"]]), "increase"),
    "the last possible event": (change_job(events=[["18446744073709551615-1", "queued", "{}"]]), "events.0.0"),
    "an event of no kind": (change_job(events=[["1-0", "queued\nid: 9", "{}"]]), "events.0.1"),
    "an event of two lines": (change_job(events=[["1-0", "queued", '{"a":\n1}']]), "one line"),
    "an event that is no object": (change_job(events=[["1-0", "queued", "[]"]]), "object"),
}  # fmt: skip


@pytest.fixture
def good(store: CopyStore, tmp_path: Path) -> Path:
    """A small backup. Redis is empty now."""
    publish(tmp_path / "good")
    run(store, create(store), tmp_path / "good")
    back_up(tmp_path / "good.tar", tmp_path / "good", store)
    connect_to(store).flushdb()
    return tmp_path / "good.tar"


def read_members(path: Path) -> Files:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def write_members(path: Path, members: Files, more: tarfile.TarInfo | None = None, sums: bool = True) -> Path:
    if sums:
        members.pop(SUMS, None)
        lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in members.items()]
        members[SUMS] = "".join(lines).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            if name == SUMS and more:
                tar.addfile(more, io.BytesIO())
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def require_refused(path: Path, folder: Path, store: CopyStore, said: str) -> None:
    with pytest.raises(InvalidBackupError) as refused:
        put_back(path, folder / "after", store)
    assert said in str(refused.value)
    assert list((folder / "after").iterdir()) == []
    assert [key for key in connect_to(store).keys("digits:*") if "job" in key or "key" in key] == []


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_backup_changes_nothing(good: Path, store: CopyStore, tmp_path: Path, what: str) -> None:
    change, said = HOSTILE[what]
    members = read_members(good)
    change(members)
    require_refused(write_members(tmp_path / "bad.tar", members), tmp_path, store, said)


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", [STATE, f"models/dcgan/99/{MANIFEST}"])
def test_only_regular_files_are_unpacked(good: Path, store: CopyStore, tmp_path: Path, kind: bytes, name: str) -> None:
    path = write_members(tmp_path / "bad.tar", read_members(good), make_link(name, kind))
    require_refused(path, tmp_path, store, "does not belong")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize("size", [2**20, 2**33 - 1, 2**62])
def test_a_large_header_is_not_read(store: CopyStore, tmp_path: Path, kind: bytes, size: int) -> None:
    header = tarfile.TarInfo(HEAD)
    header.type, header.size = kind, size
    path = tmp_path / "bad.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    with path.open("ab") as file:
        file.truncate(2**34)  # all of it is a hole
    require_refused(path, tmp_path, store, "too large" if size > 2**20 else "cannot be read")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_headers_are_refused(store: CopyStore, tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo(HEAD)
    header.type, header.size = kind, 9
    (tmp_path / "bad.tar").write_bytes(2_000 * (header.tobuf(tarfile.GNU_FORMAT) + b"9 a=bcde\n".ljust(512, b"\0")))
    require_refused(tmp_path / "bad.tar", tmp_path, store, "too many headers")


def test_sums_decide(good: Path, store: CopyStore, tmp_path: Path) -> None:
    members = read_members(good)
    name = next(name for name in members if name.endswith(".pt"))
    whole, bad = dict(members), tmp_path / "bad.tar"
    members[name] = b"B state"
    require_refused(write_members(bad, members, sums=False), tmp_path, store, f"{name} has another sha256")
    members = {one: data for one, data in whole.items() if one != name}
    require_refused(write_members(bad, members, sums=False), tmp_path, store, f"{name} is missing")
    members = {one: data for one, data in whole.items() if one != SUMS}
    require_refused(write_members(bad, members, sums=False), tmp_path, store, "it is not whole")
    require_refused(write_members(bad, {**whole, STATE: b""}, sums=False), tmp_path, store, "comes after")
    twice = tarfile.TarInfo(name)
    require_refused(write_members(bad, whole, twice), tmp_path, store, "twice")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b" + bytes(600), bytes(10_240)])
def test_what_is_no_backup_is_said(store: CopyStore, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    require_refused(tmp_path / "bad.tar", tmp_path, store, "")


def test_a_damaged_backup_is_refused_wherever_the_damage_is(good: Path, store: CopyStore, tmp_path: Path) -> None:
    """Cut off anywhere, or with one byte changed in a head: it comes back as it was, or not at all."""
    whole, bad = good.read_bytes(), tmp_path / "bad.tar"
    for size in range(0, len(whole) - 10_240, len(whole) // 50):
        bad.write_bytes(whole[:size])
        require_refused(bad, tmp_path, store, "")
    with tarfile.open(good) as tar:
        heads = [member.offset for member in tar]
    refused = 0
    for number, (head, byte) in enumerate(itertools.product(heads, range(0, 512, 37))):
        changed = bytearray(whole)
        changed[head + byte] ^= 0xFF >> number % 8
        bad.write_bytes(changed)
        connect_to(store).flushdb()
        try:
            put_back(bad, tmp_path / str(number), store)
        except InvalidBackupError:
            refused += 1
            assert list((tmp_path / str(number)).iterdir()) == []
        else:
            assert list_own(tmp_path / str(number)) == [NEXT["dcgan"]]
        shutil.rmtree(tmp_path / str(number))
    assert refused > 50


def test_a_job_whose_states_are_replaced_meanwhile_keeps_one(
    store: CopyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This fails if the states are looked for once."""
    job_id = create(store)
    run(store, job_id, tmp_path / "before")
    find, folder = saved.find_states, saved.open_folder(tmp_path / "before", job_id)
    steps = iter(range(2, 6))

    def find_and_train(model_dir: Path, job_id: str) -> list[Path]:
        found = find(model_dir, job_id)
        for step in itertools.islice(steps, saved.KEPT):
            saved.write(folder, step, b"a newer state")
        return found

    monkeypatch.setattr(saved, "find_states", find_and_train)
    back_up(tmp_path / "file.tar", tmp_path / "before", store)
    monkeypatch.undo()
    connect_to(store).flushdb()
    put_back(tmp_path / "file.tar", tmp_path / "after", store)
    assert find(tmp_path / "after", job_id)
