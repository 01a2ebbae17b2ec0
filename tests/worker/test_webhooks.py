"""The webhooks of jobs in Redis: due, taken, settled. tests/app/test_webhooks.py sends them."""

import threading

import pytest

from tests.processes import run_in_threads
from worker.copies import CopyStore
from worker.jobs import MAX_ENDED, MAX_LOST, MAX_PER_RECEIVER, Job, JobState, JobStore, Notice, TrainRequest
from worker.webhooks import DeliveryState

SECRET = "whsec_" + "c2VjcmV0" * 5  # 30 bytes


def queue_job(store: JobStore, url: str = "https://receiver.example/jobs") -> Job:
    webhook = {"url": url, "secret": SECRET}
    return store.create(TrainRequest.model_validate({"arch": "wgan", "webhook": webhook}))[0]


def end_job(store: JobStore, url: str = "https://receiver.example/jobs") -> str:
    job = queue_job(store, url)
    store.cancel(job.id)
    return job.id


def take_one(store: JobStore) -> Notice:
    (notice,) = store.take_webhooks(10)
    return notice


def let_claims_run_out(store: JobStore) -> None:
    for job_id in store._redis.zrange("digits:sending", 0, -1):
        store._redis.zadd("digits:sending", {str(job_id): 0})


def be_due(store: JobStore) -> None:
    for job_id in store._redis.zrange("digits:webhooks", 0, -1):
        store._redis.zadd("digits:webhooks", {str(job_id): 0})


def count_waiting(store: JobStore) -> int:
    return int(store._redis.zcard("digits:webhooks") + store._redis.zcard("digits:sending"))


def finish(state: JobState, store: JobStore, job_id: str) -> None:
    claim = store.claim(job_id, "worker")
    assert claim is not None
    store.finish(claim, state)


def lose(store: JobStore, job_id: str) -> None:
    for _ in range(MAX_LOST):
        store.claim(job_id, "worker")
        store.lose(job_id, "worker")


def lose_leases(store: JobStore, job_id: str) -> None:
    for _ in range(MAX_LOST):
        store.claim(job_id, "worker")
        store._redis.zadd("digits:leases", {job_id: 0})
        store._redis.set("digits:reconciled", store._redis.time()[0])
        store.reconcile(0, at_once=True)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (lambda store, job_id: finish(JobState.SUCCEEDED, store, job_id), "succeeded"),
        (lambda store, job_id: finish(JobState.FAILED, store, job_id), "failed"),
        (lambda store, job_id: store.cancel(job_id), "canceled"),
        (lose, "failed"),
        (lose_leases, "failed"),
    ],
    ids=["succeeded", "failed", "canceled", "its workers died", "its leases ran out"],
)
def test_every_end_is_to_be_told_once(store: JobStore, end: object, state: str) -> None:
    job = queue_job(store)
    assert store.take_webhooks(10) == []
    assert callable(end)
    end(store, job.id)
    notice = take_one(store)
    assert (notice.job.id, notice.job.state, notice.webhook.tries) == (job.id, state, 1)
    assert notice.secret.get_secret_value() == SECRET
    store.settle_webhook(notice, DeliveryState.DELIVERED)
    let_claims_run_out(store)
    assert store.take_webhooks(10) == []
    assert count_waiting(store) == 0


def test_without_a_webhook_nobody_is_told(store: JobStore) -> None:
    job = store.create(TrainRequest.model_validate({"arch": "wgan"}))[0]
    store.cancel(job.id)
    assert job.webhook is None
    assert store.take_webhooks(10) == []


def test_one_of_many_takes_it(store: JobStore) -> None:
    end_job(store)
    ready = threading.Barrier(8)
    taken: list[Notice] = []

    def take() -> None:
        ready.wait()
        taken.extend(store.take_webhooks(1))

    run_in_threads(take, 8)
    assert len(taken) == 1


def test_one_that_failed_waits_and_one_whose_sender_died_is_due_again(store: JobStore) -> None:
    job_id = end_job(store)
    store.settle_webhook(take_one(store), DeliveryState.WAITING, "no answer", 60)
    assert store.take_webhooks(10) == []
    be_due(store)
    second = take_one(store)
    assert (second.webhook.tries, second.webhook.error) == (2, "no answer")
    assert store.take_webhooks(10) == []
    let_claims_run_out(store)
    assert take_one(store).webhook.tries == 3
    job = store.get(job_id)
    assert job is not None
    assert job.webhook == second.webhook.model_copy(update={"tries": 3})


def test_a_late_word_counts_only_of_a_delivery(store: JobStore) -> None:
    job_id = end_job(store)
    first = take_one(store)
    let_claims_run_out(store)
    second = take_one(store)
    for state in (DeliveryState.WAITING, DeliveryState.GAVE_UP):
        store.settle_webhook(first, state, "late", 0)
        assert store.take_webhooks(10) == []
    store.settle_webhook(first, DeliveryState.DELIVERED)
    store.settle_webhook(second, DeliveryState.WAITING, "later", 0)
    job = store.get(job_id)
    assert job is not None
    assert job.webhook is not None
    assert (job.webhook.state, job.webhook.error, count_waiting(store)) == (DeliveryState.DELIVERED, None, 0)


@pytest.mark.parametrize("state", [DeliveryState.DELIVERED, DeliveryState.GAVE_UP])
def test_the_secret_is_kept_while_it_is_needed(store: JobStore, state: DeliveryState) -> None:
    name = f"digits:job:{end_job(store)}"
    notice = take_one(store)
    assert store._redis.hget(name, "webhook_secret") == SECRET
    assert SECRET not in repr(notice)
    store.settle_webhook(notice, state)
    assert SECRET not in str(store._redis.hgetall(name))


def test_a_slow_receiver_does_not_take_the_places_of_others(store: JobStore) -> None:
    for number in range(MAX_PER_RECEIVER + 2):
        end_job(store, f"https://Slow.example:8443/{number}")
    end_job(store, "https://slow.example/other-port")
    taken = store.take_webhooks(100)
    assert len(taken) == MAX_PER_RECEIVER + 1
    assert taken[-1].webhook.url == "https://slow.example/other-port"
    assert store.take_webhooks(100) == []  # though two are due
    store.settle_webhook(taken[0], DeliveryState.DELIVERED)
    assert take_one(store).webhook.url == f"https://Slow.example:8443/{MAX_PER_RECEIVER}"


def test_what_is_forgotten_leaves_nothing(store: JobStore) -> None:
    for _ in range(MAX_PER_RECEIVER + 1):
        end_job(store)
    assert len(store.take_webhooks(100)) == MAX_PER_RECEIVER
    assert count_waiting(store) == MAX_PER_RECEIVER + 1
    with store._redis.pipeline() as pipe:
        for number in range(MAX_ENDED - 1):
            pipe.zadd("digits:ended", {f"other-{number}": 1e11})
        pipe.execute()
    end_job(store, "https://other.example/")
    assert count_waiting(store) == 1


def test_a_record_that_is_gone_or_damaged_stands_in_no_way(store: JobStore) -> None:
    gone, damaged, wrong_type, unreadable = (end_job(store, f"https://{name}.example/") for name in "abcd")
    good = end_job(store)
    for job_id in (gone, wrong_type):
        store._redis.delete(f"digits:job:{job_id}")
    store._redis.set(f"digits:job:{wrong_type}", "text")
    store._redis.hset(f"digits:job:{damaged}", "webhook_tries", "many")
    store._redis.hset(f"digits:job:{unreadable}", "epochs", "many")
    found = [(notice.job.id, notice.job.state.value) for notice in store.take_webhooks(10)]
    assert found == [(unreadable, "unreadable"), (good, "canceled")]
    assert count_waiting(store) == 2


def test_after_a_restore_what_waited_is_due(store: JobStore) -> None:
    copies = CopyStore(store._redis)
    delivered = end_job(store)
    store.settle_webhook(take_one(store), DeliveryState.DELIVERED)
    ended, queued = end_job(store), queue_job(store).id
    kept = [copies.copy(job_id) for job_id in (delivered, ended, queued)]
    store._redis.flushdb()
    for copy in kept:
        assert copy is not None
        copies.restore(copy)
    notice = take_one(store)
    assert (notice.job.id, notice.secret.get_secret_value()) == (ended, SECRET)
    store.settle_webhook(notice, DeliveryState.DELIVERED)
    assert count_waiting(store) == 0
    store.cancel(queued)
    assert take_one(store).job.id == queued
