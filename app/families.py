"""What the metrics say at the time of a scrape: the versions as this process sees them, and the jobs as Redis does.

The jobs are the same for every API of one Redis, with workers on any number of hosts.
"""

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version

import torch
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from app.dependencies import JobQueue, Resources
from app.entries import Entry
from app.errors import UnavailableError
from models.archs import ARCHS
from worker.jobs import Job, JobState, Survey

_ENDS = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED)

# What is told of a running job: the name of the metric → its field in the record, and a description.
_TRAINING = {
    "epoch": ("epoch", "The current epoch, from 1."),
    "epochs": ("epochs", "How many epochs the job trains."),
    "images_per_second": ("images_per_second", "Training images a second, since the run began."),
    "remaining_seconds": ("eta_seconds", "Until the last epoch is finished, at the speed until now."),
}
_LOSSES = {"discriminator": "d_loss", "generator": "g_loss"}

_COUNTS = {
    "accepted": "Jobs that were queued by a request.",
    "attempts": "Times that a worker took a job.",
    "given_back": "Times that a worker gave a job back because it was told to end.",
    "lost_leases": "Times that a running job lost its worker.",
    "resumes": "Times that a run went on from a saved state.",
}


class Told(Collector):
    """Families that are there already."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def collect(resources: Resources) -> Told:
    """Everything that is told now. Without an answer of Redis nothing of jobs is, within about two seconds."""
    told: list[Metric] = [_describe_build(), *_count_versions(resources.generators.entries)]
    if resources.job_queue:
        survey = await _ask(resources.job_queue)
        told.append(GaugeMetricFamily("digits_redis_up", "Whether Redis answers.", value=survey is not None))
        told += [*_tell_jobs(survey), *_tell_trainings(survey.running)] if survey else []
    return Told(told)


@cache
def _describe_build() -> Metric:
    facts = {"version": version("digits"), "python": platform.python_version(), "torch": torch.__version__}
    return InfoMetricFamily("digits_build", "What answers.", value=facts)


def _count_versions(entries: Sequence[Entry]) -> list[Metric]:
    usable = Counter(entry.arch for entry in entries if entry.is_usable)
    rejected = Counter(entry.arch for entry in entries if not entry.is_usable)
    texts = {
        "usable": ("Versions that can draw.", usable),
        "rejected": ("Versions that are damaged; /models has the reasons.", rejected),
    }
    return [
        _gauge(f"digits_versions_{name}", text, ("arch",), [((arch,), counts[arch]) for arch in ARCHS])
        for name, (text, counts) in texts.items()
    ]


async def _ask(queue: JobQueue) -> Survey | None:
    try:
        return await queue.ask(queue.jobs.survey)
    except (RedisError, UnavailableError):  # the reconciler logs it
        return None


def _tell_jobs(survey: Survey) -> list[Metric]:
    ended = CounterMetricFamily("digits_jobs_ended", "Jobs that have ended, by how.", labels=["state"])
    for state in _ENDS:
        ended.add_metric([state], survey.totals.get(state, 0))
    states = [((JobState.QUEUED,), survey.queued), ((JobState.RUNNING,), len(survey.running))]
    waits = "Seconds since the oldest queued job was accepted; 0 if none waits."
    return [
        GaugeMetricFamily("digits_workers", "Workers that are alive.", value=survey.workers),
        _gauge("digits_jobs", "Jobs that have not ended.", ("state",), states),
        GaugeMetricFamily("digits_jobs_oldest_queued_seconds", waits, value=survey.oldest_queued_seconds),
        ended,
        *(
            CounterMetricFamily(f"digits_jobs_{name}", text, value=survey.totals.get(name, 0))
            for name, text in _COUNTS.items()
        ),
    ]


def _tell_trainings(running: Sequence[Job]) -> list[Metric]:
    """Only of running jobs: so there are never many. Not ``job``: Prometheus has a label of that name."""
    found = []
    for name, (field, text) in _TRAINING.items():
        of_jobs = [((job.id, job.arch), getattr(job, field)) for job in running]
        found.append(_gauge(f"digits_training_{name}", text, ("job_id", "arch"), of_jobs))
    began = [((job.id, job.arch), job.started_at.timestamp()) for job in running if job.started_at]
    text = "When the present attempt began, in seconds since 1970."
    found.append(_gauge("digits_training_started_timestamp_seconds", text, ("job_id", "arch"), began))
    text = "The mean of the last finished epoch."
    losses = [((job.id, job.arch, name), getattr(job, field)) for job in running for name, field in _LOSSES.items()]
    return [*found, _gauge("digits_training_loss", text, ("job_id", "arch", "network"), losses)]


def _gauge(
    name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float | None]]
) -> GaugeMetricFamily:
    """A gauge with a value for each of the combinations of labels; None: it is not known."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for combination, value in samples:
        if value is not None:
            family.add_metric(combination, value)
    return family
