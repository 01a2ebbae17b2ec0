import threading

import pytest
from pydantic import ValidationError

from models import seeds
from worker.jobs import MAX_EPOCHS, Job, JobState, JobStore, KeyReusedError, Standing, TrainRequest
from worker.queue import connect
from worker.recipes import RECIPES, ArchName


def queue_job(store: JobStore, **fields: object) -> Job:
    return store.create(TrainRequest.model_validate({"arch": "wgan", **fields}))[0]


def test_a_new_job_is_queued_with_every_choice_made(store: JobStore) -> None:
    job = queue_job(store)
    assert job.state is JobState.QUEUED
    assert job.epochs == RECIPES["tuned"]["wgan"].epochs
    assert 0 <= job.seed <= seeds.MAX_SEED
    assert store.get(job.id) == job


def test_choices_are_kept(store: JobStore) -> None:
    job = queue_job(store, recipe="book", epochs=3, seed=0, measure_every=2)
    assert (job.recipe, job.epochs, job.seed, job.measure_every) == ("book", 3, 0, 2)


def test_an_unknown_id_is_no_job(store: JobStore) -> None:
    assert store.get("nothing") is None
    assert store.claim("nothing") is None
    assert store.cancel("nothing") is None


def test_jobs_are_listed_newest_first(store: JobStore) -> None:
    ids = [queue_job(store).id for _ in range(5)]
    assert [job.id for job in store.newest(3)] == ids[:1:-1]


def test_a_job_goes_through_its_states(store: JobStore) -> None:
    job_id = queue_job(store).id
    claimed = store.claim(job_id)
    assert claimed is not None
    assert claimed.state is JobState.RUNNING
    assert claimed.started_at is not None
    assert store.report(claimed, epoch=2, d_loss=0.5) is Standing.HELD
    store.leave(job_id, JobState.SUCCEEDED, version=7)
    job = store.get(job_id)
    assert job is not None
    assert (job.state, job.epoch, job.d_loss, job.version) == (JobState.SUCCEEDED, 2, 0.5, 7)
    assert job.ended_at is not None


def test_one_of_many_claims_wins(store: JobStore) -> None:
    job_id = queue_job(store).id
    ready = threading.Barrier(8)
    won: list[Job] = []

    def claim() -> None:
        ready.wait()
        if job := store.claim(job_id):
            won.append(job)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_an_ended_job_never_changes(store: JobStore) -> None:
    job_id = queue_job(store).id
    claimed = store.claim(job_id)
    assert claimed is not None
    store.leave(job_id, JobState.FAILED, error="broken")
    ended = store.get(job_id)
    assert store.report(claimed, epoch=9) is Standing.LOST
    assert store.claim(job_id) is None
    store.leave(job_id, JobState.SUCCEEDED, version=1)
    assert store.cancel(job_id) == ended == store.get(job_id)


def test_a_returned_job_can_be_claimed_again(store: JobStore) -> None:
    job_id = queue_job(store).id
    queued = store.get(job_id)
    claimed = store.claim(job_id)
    assert claimed is not None
    store.report(claimed, epoch=1, d_loss=0.5)
    store.leave(job_id, JobState.QUEUED)
    assert store.queued() == [job_id]
    assert queued is not None
    assert store.get(job_id) == queued.model_copy(update={"attempt": 1})  # its progress is forgotten
    assert store.claim(job_id) is not None
    assert store.queued() == []


def let_lease_run_out(store: JobStore, job: Job) -> None:
    store._redis.zadd("digits:leases", {job.id: 0})


def test_a_job_whose_lease_ran_out_returns_to_the_queue(store: JobStore) -> None:
    lost = store.claim(queue_job(store).id)
    held = store.claim(queue_job(store).id)
    assert lost is not None
    assert held is not None
    let_lease_run_out(store, lost)
    assert store.reap() == [lost.id]
    assert store.reap() == []
    assert store.queued() == [lost.id]
    assert store.report(held) is Standing.HELD


def test_a_report_renews_the_lease(store: JobStore) -> None:
    job = store.claim(queue_job(store).id)
    assert job is not None
    let_lease_run_out(store, job)
    assert store.report(job) is Standing.HELD
    assert store.reap() == []


def test_a_run_that_lost_its_lease_can_write_nothing(store: JobStore) -> None:
    first = store.claim(queue_job(store).id)
    assert first is not None
    let_lease_run_out(store, first)
    store.reap()
    assert store.report(first) is Standing.LOST
    second = store.claim(first.id)
    assert second is not None
    assert (first.attempt, second.attempt) == (1, 2)
    assert store.report(first, epoch=9) is Standing.LOST
    store.leave(first.id, JobState.SUCCEEDED, first.attempt, version=9)
    assert store.get(first.id) == second
    store.leave(second.id, JobState.SUCCEEDED, second.attempt, version=2)
    ended = store.get(first.id)
    assert ended is not None
    assert (ended.state, ended.version) == (JobState.SUCCEEDED, 2)
    assert store.reap() == []


def test_a_lost_job_that_was_to_be_canceled_is(store: JobStore) -> None:
    job = store.claim(queue_job(store).id)
    assert job is not None
    store.cancel(job.id)
    let_lease_run_out(store, job)
    assert store.reap() == []
    ended = store.get(job.id)
    assert ended is not None
    assert ended.state is JobState.CANCELED


def test_a_queued_job_is_canceled_at_once(store: JobStore) -> None:
    job_id = queue_job(store).id
    for _ in range(2):
        job = store.cancel(job_id)
        assert job is not None
        assert job.state is JobState.CANCELED
    assert store.claim(job_id) is None


def test_a_running_job_learns_that_it_is_to_be_canceled(store: JobStore) -> None:
    claimed = store.claim(queue_job(store).id)
    assert claimed is not None
    job = store.cancel(claimed.id)
    assert job is not None
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)
    assert store.report(claimed, epoch=1) is Standing.CANCELED


def test_a_key_names_its_job_again(store: JobStore) -> None:
    request = TrainRequest(arch=ArchName("wgan"))
    first, new = store.create(request, "key")
    again, new_again = store.create(request, "key")
    assert (first, new, new_again) == (again, True, False)
    assert store.create(request, "other key")[1] is True


def test_a_key_with_another_request_is_refused(store: JobStore) -> None:
    store.create(TrainRequest(arch=ArchName("wgan")), "key")
    with pytest.raises(KeyReusedError):
        store.create(TrainRequest(arch=ArchName("dcgan")), "key")


def test_a_discarded_job_is_forgotten_and_frees_its_key(store: JobStore) -> None:
    request = TrainRequest(arch=ArchName("wgan"))
    job, _ = store.create(request, "key")
    store.discard(job.id)
    assert store.get(job.id) is None
    assert store.newest(10) == []
    assert store.create(request, "key")[1] is True


def test_a_job_and_its_place_in_the_list_are_written_together(store: JobStore, valkey_url: str) -> None:
    """No reader ever sees one without the other."""
    torn: list[str] = []
    stop = threading.Event()

    def look() -> None:
        client = connect(valkey_url)
        while not stop.is_set():
            torn.extend(str(job_id) for job_id in client.zrange("digits:jobs", 0, -1) if not store.get(str(job_id)))

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(200):
        queue_job(store)
    stop.set()
    reader.join()
    assert torn == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arch", "biggan"), ("recipe", "secret"), ("epochs", 0), ("epochs", MAX_EPOCHS + 1), ("epochs", "x"),
        ("seed", -1), ("seed", seeds.MAX_SEED + 1), ("batch", 64),
    ],
)  # fmt: skip
def test_bad_requests_name_the_field(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        TrainRequest.model_validate({"arch": "wgan", field: value})
