import json
import threading

import pytest
from pydantic import ValidationError

from models import seeds
from tests.processes import run_in_threads
from worker.connections import connect
from worker.jobs import (
    KEPT_SECONDS,
    LEASE_SECONDS,
    MAX_ENDED,
    MAX_EPOCHS,
    MAX_EVENTS,
    MAX_LOST,
    MAX_SAMPLES,
    QUIET_SECONDS,
    RECONCILE_SECONDS,
    Claim,
    Event,
    Job,
    JobState,
    JobStore,
    KeyReusedError,
    Standing,
    TrainRequest,
)
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
    assert store.has_ended("nothing") is None
    assert store.claim("nothing", "worker") is None
    assert store.cancel("nothing") is None


def test_jobs_are_listed_newest_first(store: JobStore) -> None:
    ids = [queue_job(store).id for _ in range(5)]
    assert [job.id for job in store.list_newest(3)] == ids[:1:-1]


def claimed(store: JobStore, job_id: str | None = None) -> Claim:
    claim = store.claim(job_id or queue_job(store).id, "worker")
    assert claim is not None
    return claim


def found(store: JobStore, claim: Claim) -> Job:
    job = store.get(claim.job.id)
    assert job is not None
    return job


def test_a_job_goes_through_its_states(store: JobStore) -> None:
    claim = claimed(store)
    assert claim.job.state is JobState.RUNNING
    assert claim.job.started_at is not None
    assert store.has_ended(claim.job.id) is False
    assert store.report(claim, {"epoch": 2, "d_loss": 0.5}) is Standing.HELD
    assert store.finish(claim, JobState.SUCCEEDED, version=7)
    job = found(store, claim)
    assert (job.state, job.epoch, job.d_loss, job.version) == (JobState.SUCCEEDED, 2, 0.5, 7)
    assert job.ended_at is not None
    assert store.has_ended(job.id) is True


def test_one_of_many_claims_wins(store: JobStore) -> None:
    job_id = queue_job(store).id
    ready = threading.Barrier(8)
    won: list[Claim] = []

    def claim() -> None:
        ready.wait()
        if claim := store.claim(job_id, "worker"):
            won.append(claim)

    run_in_threads(claim, 8)
    assert len(won) == 1


def test_an_ended_job_never_changes(store: JobStore) -> None:
    claim = claimed(store)
    store.finish(claim, JobState.FAILED, error="broken")
    ended = found(store, claim)
    assert store.report(claim, {"epoch": 9}) is Standing.LOST
    assert store.start_publishing(claim) is Standing.LOST
    assert store.claim(ended.id, "worker") is None
    assert not store.finish(claim, JobState.SUCCEEDED, version=1)
    assert not store.give_back(claim)
    assert not store.lose(ended.id, "worker")
    assert store.cancel(ended.id) == ended == found(store, claim)


def test_an_ended_job_and_its_events_are_kept_for_a_month(store: JobStore) -> None:
    claim = claimed(store)
    names = (f"digits:job:{claim.job.id}", f"digits:events:{claim.job.id}")
    assert [store._redis.ttl(name) for name in names] == [-1, -1]
    store.finish(claim, JobState.SUCCEEDED, version=1)
    assert all(0 <= KEPT_SECONDS - store._redis.ttl(name) < 60 for name in names)
    store._redis.delete(*names)
    store._redis.zadd("digits:jobs", {claim.job.id: 0})
    store.reconcile(0, at_once=True)
    assert store._redis.zcard("digits:jobs") == 0  # the list does not keep it either


def test_a_job_that_was_given_back_can_be_claimed_again_and_the_attempt_does_not_count(store: JobStore) -> None:
    first = claimed(store)
    store.report(first, {"epoch": 1, "d_loss": 0.5})
    assert store.give_back(first)
    job = found(store, first)
    assert (job.state, job.attempt, job.lost_leases, job.epoch) == (JobState.QUEUED, 0, 0, 1)
    second = claimed(store, job.id)
    assert second.job.attempt == 1
    assert second.token != first.token  # if the first run wakes up, it can write nothing
    assert store.report(first) is Standing.LOST


def let_lease_run_out(store: JobStore, claim: Claim) -> None:
    store._redis.zadd("digits:leases", {claim.job.id: 0})


def reconcile(store: JobStore, waiting: int = 0) -> list[str]:
    """A pass as if the last one was a moment ago, so that Redis was not away."""
    now = store._redis.time()
    store._redis.set("digits:reconciled", now[0])
    return store.reconcile(waiting, at_once=True)


def test_a_job_whose_lease_ran_out_returns_to_the_queue(store: JobStore) -> None:
    lost, held = claimed(store), claimed(store)
    let_lease_run_out(store, lost)
    assert reconcile(store) == [lost.job.id]
    assert reconcile(store) == []
    assert (found(store, lost).state, found(store, lost).lost_leases) == (JobState.QUEUED, 1)
    assert store.report(held) is Standing.HELD


def test_a_report_renews_the_lease(store: JobStore) -> None:
    claim = claimed(store)
    let_lease_run_out(store, claim)
    assert store.report(claim) is Standing.HELD
    reconcile(store)
    assert store.report(claim) is Standing.HELD


def test_no_lease_is_taken_for_lost_for_a_while_after_redis_was_away(store: JobStore) -> None:
    reconcile(store)
    claim = claimed(store)
    let_lease_run_out(store, claim)
    store._redis.set("digits:reconciled", store._redis.time()[0] - LEASE_SECONDS)  # as if the last pass was then
    assert store.reconcile(0, at_once=True) == []
    assert reconcile(store) == []
    assert 0 <= QUIET_SECONDS - store._redis.ttl("digits:quiet") < 10
    store._redis.delete("digits:quiet")  # as if time has passed
    assert reconcile(store) == [claim.job.id]


def test_one_of_many_reconciles_at_a_time(store: JobStore) -> None:
    reconcile(store)
    claim = claimed(store)
    let_lease_run_out(store, claim)
    assert store.reconcile(0) == []
    assert 0 < store._redis.pttl("digits:reconciling") <= RECONCILE_SECONDS * 1000
    store._redis.delete("digits:reconciling")
    assert store.reconcile(0) == [claim.job.id]


def test_a_queued_job_gets_another_wake_up_only_where_one_is_missing(store: JobStore) -> None:
    job = queue_job(store)
    assert reconcile(store) == []  # it has just got one
    store._redis.hset(f"digits:job:{job.id}", "woken_at", 0)
    assert reconcile(store, waiting=1) == []  # its wake-up is still in the queue
    assert reconcile(store) == [job.id]
    assert reconcile(store) == []


def test_a_run_that_lost_its_lease_can_write_nothing(store: JobStore) -> None:
    first = claimed(store)
    let_lease_run_out(store, first)
    reconcile(store)
    assert store.report(first) is Standing.LOST
    second = claimed(store, first.job.id)
    assert (second.job.attempt, second.job.lost_leases) == (2, 1)
    assert store.report(first, {"epoch": 9}, [(1, "epoch", "{}")]) is Standing.LOST
    assert store.start_publishing(first) is Standing.LOST
    assert not store.finish(first, JobState.SUCCEEDED, version=9)
    assert not store.give_back(first)
    assert found(store, first) == second.job
    assert store.finish(second, JobState.SUCCEEDED, version=2)
    assert (found(store, first).state, found(store, first).version) == (JobState.SUCCEEDED, 2)


def test_a_job_that_lost_its_worker_three_times_in_a_row_has_failed(store: JobStore) -> None:
    job_id = queue_job(store).id
    for attempt in range(1, MAX_LOST + 1):
        claim = claimed(store, job_id)
        assert claim.job.attempt == attempt
        assert not store.lose(job_id, "another worker")
        assert store.lose(job_id, "worker")
    job = found(store, claim)
    assert (job.state, job.lost_leases, job.lost_in_a_row) == (JobState.FAILED, 3, 3)
    assert job.error == "worker lost: 3 attempts in a row ended without a word or a new state"


def test_a_job_that_comes_further_between_losses_goes_on(store: JobStore) -> None:
    job_id = queue_job(store).id
    for step in range(1, 2 * MAX_LOST + 1):
        store.lose(claimed(store, job_id).job.id, "worker")
        claim = claimed(store, job_id)
        store.report(claim, {"saved_step": step})
        store.lose(job_id, "worker")
    job = found(store, claim)
    assert (job.state, job.lost_leases, job.lost_in_a_row) == (JobState.QUEUED, 4 * MAX_LOST, 1)


@pytest.mark.parametrize("step", [1, 9])
def test_a_job_that_saves_what_was_saved_before_has_come_no_further(store: JobStore, step: int) -> None:
    """For example if its model directory is lost with each worker."""
    job_id = queue_job(store).id
    store.report(claimed(store, job_id), {"saved_step": 9})
    store.lose(job_id, "worker")
    for _ in range(2, MAX_LOST + 1):
        claim = claimed(store, job_id)
        store.report(claim, {"saved_step": step})
        store.report(claim, {"epoch": 1})
        store.lose(job_id, "worker")
    job = found(store, claim)
    assert (job.state, job.lost_in_a_row, job.saved_step) == (JobState.FAILED, 3, 9)


def test_a_job_that_may_have_been_published_does_not_fail_before_a_worker_has_looked(store: JobStore) -> None:
    job_id = queue_job(store).id
    for _ in range(MAX_LOST):
        claim = claimed(store, job_id)
        store.start_publishing(claim)
        store.lose(job_id, "worker")
    assert (found(store, claim).state, found(store, claim).lost_leases) == (JobState.QUEUED, 3)
    assert claimed(store, job_id).may_be_published


def test_what_has_no_record_is_dropped_and_the_rest_looked_after(store: JobStore) -> None:
    lost, asleep, gone, gone_too = claimed(store), queue_job(store), claimed(store), queue_job(store)
    for claim in (lost, gone):
        let_lease_run_out(store, claim)
    store._redis.hset(f"digits:job:{asleep.id}", "woken_at", 0)
    store._redis.delete(f"digits:job:{gone.job.id}", f"digits:job:{gone_too.id}")
    assert sorted(reconcile(store)) == sorted([lost.job.id, asleep.id])
    assert store.get(gone.job.id) is None
    assert sorted(store._redis.zrange("digits:queued", 0, -1)) == sorted([lost.job.id, asleep.id])
    assert store._redis.zcard("digits:leases") == 0


def test_no_more_wake_ups_are_sent_than_are_missing(store: JobStore) -> None:
    jobs = [queue_job(store) for _ in range(5)]
    for job in jobs:
        store._redis.hset(f"digits:job:{job.id}", "woken_at", 0)
    assert reconcile(store, waiting=3) == [job.id for job in jobs[:2]]


def test_a_job_that_is_given_back_while_it_is_canceled_is(store: JobStore) -> None:
    claim = claimed(store)
    store.cancel(claim.job.id)
    assert store.give_back(claim)
    assert found(store, claim).state is JobState.CANCELED


def test_a_lost_job_that_was_to_be_canceled_is(store: JobStore) -> None:
    claim = claimed(store)
    store.cancel(claim.job.id)
    let_lease_run_out(store, claim)
    assert reconcile(store) == []
    assert found(store, claim).state is JobState.CANCELED


def test_a_job_that_may_have_been_published_only_a_worker_cancels(store: JobStore) -> None:
    claim = claimed(store)
    assert store.start_publishing(claim) is Standing.HELD
    store.cancel(claim.job.id)
    assert store.lose(claim.job.id, "worker")
    assert found(store, claim).state is JobState.QUEUED
    job = store.cancel(claim.job.id)
    assert job is not None
    assert (job.state, job.cancel_requested) == (JobState.QUEUED, True)


def test_a_canceled_job_is_not_published(store: JobStore) -> None:
    claim = claimed(store)
    store.cancel(claim.job.id)
    assert store.start_publishing(claim) is Standing.CANCELED


def test_a_queued_job_is_canceled_at_once(store: JobStore) -> None:
    job_id = queue_job(store).id
    for _ in range(2):
        job = store.cancel(job_id)
        assert job is not None
        assert job.state is JobState.CANCELED
    assert store.claim(job_id, "worker") is None


def test_a_running_job_learns_that_it_is_to_be_canceled(store: JobStore) -> None:
    claim = claimed(store)
    job = store.cancel(claim.job.id)
    assert job is not None
    assert (job.state, job.cancel_requested) == (JobState.RUNNING, True)
    assert store.report(claim, {"epoch": 1}) is Standing.CANCELED


def test_a_record_that_cannot_be_read_hides_no_other(store: JobStore, valkey_url: str) -> None:
    redis = connect(valkey_url)
    good, damaged, wrong_type = (store.create(TrainRequest(arch=ArchName("wgan")))[0].id for _ in range(3))
    redis.hset(f"digits:job:{damaged}", "state", "dreaming")
    redis.delete(f"digits:job:{wrong_type}")
    redis.set(f"digits:job:{wrong_type}", "text")
    listed = store.list_newest(10)
    assert [(job.id, job.state.value) for job in listed] == [
        (wrong_type, "unreadable"), (damaged, "unreadable"), (good, "queued")
    ]  # fmt: skip
    assert "state" in (listed[1].error or "")
    assert "wrong kind of value" in (listed[0].error or "")
    job = store.get(damaged)
    assert job is not None
    assert job.state is JobState.UNREADABLE
    assert store.reconcile(0, at_once=True) == []  # all were woken a moment ago


def read_events(store: JobStore, job_id: str, after: str = "0", count: int = MAX_EVENTS + 1) -> list[Event]:
    news = store.read_events({job_id: after}, count)[job_id]
    assert news is not None
    return news.events


def test_what_happens_to_a_job_can_be_read_from_any_event(store: JobStore) -> None:
    claim = claimed(store)
    told = [(1, "epoch", '{"epoch": 1}'), (2, "sample", '{"png": ""}')]
    store.report(claim, {"epoch": 1}, told[:1])
    store.report(claim, {"epoch": 1}, told)  # again, as if the answer was lost
    store.finish(claim, JobState.SUCCEEDED, version=7)
    events = read_events(store, claim.job.id)
    assert [(event.kind, json.loads(event.data)) for event in events] == [
        ("queued", {}),
        ("started", {"attempt": 1}),
        ("epoch", {"epoch": 1}),
        ("sample", {"png": ""}),
        ("published", {"version": 7}),
        ("ended", {"state": "succeeded"}),
    ]
    assert read_events(store, claim.job.id, events[2].id) == events[3:]
    assert read_events(store, claim.job.id, events[1].id, count=2) == events[2:4]
    assert read_events(store, claim.job.id, "9999999999999-0") == []


def test_the_events_of_several_jobs_are_read_at_once(store: JobStore) -> None:
    one, other = claimed(store).job.id, claimed(store).job.id
    first = read_events(store, one)[0]
    found = store.read_events({one: first.id, "nothing": "0", other: "0"}, 10)
    assert [news and [event.kind for event in news.events] for news in found.values()] == [
        ["started"],
        None,
        ["queued", "started"],
    ]


def test_the_events_of_a_job_are_capped(store: JobStore) -> None:
    claim = claimed(store)
    store.report(claim, {}, [(n, "epoch", f'{{"epoch": {n}}}') for n in range(1, MAX_EVENTS + 10)])
    store.finish(claim, JobState.FAILED, error="broken")
    events = read_events(store, claim.job.id)
    assert len(events) == MAX_EVENTS
    assert json.loads(events[-1].data) == {"state": "failed", "error": "broken"}


def test_what_a_job_keeps_is_bounded(store: JobStore, valkey_url: str) -> None:
    redis, claim = connect(valkey_url), claimed(store)
    before = redis.info("memory")["used_memory"]
    sample, epoch = json.dumps({"png": "x" * 7_600}), json.dumps({"epoch": 1, "d_loss": 0.12345678, "g_loss": 1.2345})
    for number in range(1, 1_000, 2):
        store.report(claim, {}, [(number, "epoch", epoch), (number + 1, "sample", sample)])
    assert redis.info("memory")["used_memory"] - before < 2**20
    kinds = [event.kind for event in read_events(store, claim.job.id)]
    assert (kinds.count("sample"), kinds.count("epoch")) == (MAX_SAMPLES, 500)
    assert kinds[-1] == "sample"
    store.finish(claim, JobState.SUCCEEDED, version=1)
    assert redis.info("memory")["used_memory"] - before < 2**18
    kinds = [event.kind for event in read_events(store, claim.job.id)]
    assert kinds[-3:] == ["sample", "published", "ended"]
    assert kinds.count("sample") == 1


def test_what_ended_jobs_keep_is_bounded(store: JobStore, valkey_url: str) -> None:
    """The oldest end goes, not the oldest job; a queued one stays."""
    redis, request = connect(valkey_url), TrainRequest(arch=ArchName("wgan"))
    kept = store.create(request)[0].id
    ids = [store.create(request, None, 2 * MAX_ENDED)[0].id for _ in range(MAX_ENDED + 2)]
    for job_id in reversed(ids):
        store.cancel(job_id)
    assert store.get(ids[-1]) is store.get(ids[-2]) is None
    listed = [job.id for job in store.list_newest(2 * MAX_ENDED)]
    assert listed == [*ids[-3::-1], kept]
    assert redis.exists(f"digits:events:{ids[-1]}") == 0


def test_what_has_happened_to_all_jobs_is_counted_and_outlives_their_records(store: JobStore, valkey_url: str) -> None:
    assert store.survey().totals == {}
    first, second, third = (queue_job(store, epochs=3) for _ in range(3))
    claim = claimed(store, first.id)
    store.report(claim, {"resumes": 1})
    store.report(claim, {"resumes": 1})  # told again: it has not happened again
    assert store.give_back(claim)
    claimed(store, first.id)
    assert store.lose(first.id, "worker")
    assert store.finish(claimed(store, first.id), JobState.SUCCEEDED)
    store.cancel(second.id)
    claimed(store, third.id)
    for _ in range(MAX_LOST):
        assert store.lose(third.id, "worker")
        store.claim(third.id, "worker")
    totals = {
        "accepted": 3,
        "attempts": 6,
        "given_back": 1,
        "lost_leases": 4,
        "resumes": 1,
        "succeeded": 1,
        "canceled": 1,
        "failed": 1,
    }
    assert store.survey().totals == totals
    redis = connect(valkey_url)
    redis.delete(*(f"digits:job:{job.id}" for job in (first, second, third)))
    assert store.survey().totals == totals


def test_a_key_names_its_job_again(store: JobStore) -> None:
    request = TrainRequest(arch=ArchName("wgan"))
    first, new = store.create(request, "key")
    again, new_again = store.create(request, "key")
    assert (first, new, new_again) == (again, True, False)
    assert store.create(request, "other key")[1] is True


def test_totals_that_are_damaged_stand_in_nobodys_way(store: JobStore, valkey_url: str) -> None:
    redis = connect(valkey_url)
    redis.set("digits:totals", "damaged")
    assert store.finish(claimed(store), JobState.SUCCEEDED)
    redis.delete("digits:totals")
    redis.hset("digits:totals", mapping={"attempts": "many", "failed": 1})
    assert store.finish(claimed(store), JobState.FAILED)
    assert store.survey().totals == {"accepted": 1, "failed": 2}


def test_a_survey_tells_what_all_jobs_do(store: JobStore, valkey_url: str) -> None:
    assert (store.survey().queued, store.survey().oldest_queued_seconds) == (0, 0)
    running, oldest, _ = (queue_job(store) for _ in range(3))
    store.report(claimed(store, running.id), {"epoch": 2, "images_per_second": 5.5})
    unreadable = claimed(store)
    redis = connect(valkey_url)
    redis.hset(f"digits:job:{unreadable.job.id}", "epochs", "many")
    redis.zadd("digits:queued", {oldest.id: oldest.created_at.timestamp() - 100})
    store.note_worker("a")
    store.note_worker("b")
    survey = store.survey()
    assert (survey.queued, survey.workers) == (2, 2)
    assert 100 <= survey.oldest_queued_seconds < 200
    assert [(job.id, job.epoch, job.images_per_second) for job in survey.running] == [(running.id, 2, 5.5)]


def test_a_key_with_another_request_is_refused(store: JobStore) -> None:
    store.create(TrainRequest(arch=ArchName("wgan")), "key")
    with pytest.raises(KeyReusedError):
        store.create(TrainRequest(arch=ArchName("dcgan")), "key")


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
