"""One run of a job: claim → train → measure → publish, and the record of how it ended.

Importing this does not import torch, since the worker's parent process imports it. A run imports
torch only when it has claimed a job: for most messages that come twice, there is no job to claim.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker import logs, saved
from worker.jobs import MAX_LOST, Job, JobState, JobStore, Standing
from worker.lease import CanceledError, Lease, StoppedError
from worker.settings import Settings

if TYPE_CHECKING:
    from models.manifest import Manifest

logger = logging.getLogger(__name__)

Facts = dict[str, int | str]  # about the end of a job: its version or its error


class AttemptsUsedUpError(Exception):
    """The job has lost too many workers in a row; look into their logs, then queue a new job."""


def run_job(
    job_id: str, store: JobStore, holder: str, settings: Settings, stopping: Callable[[], bool]
) -> JobState | None:
    """Make the version of a queued job and record how that ended.

    ``holder`` names the process that will notice if this one dies. ``stopping`` says whether the
    worker is about to end. Returns the new state of the job. It is QUEUED if the worker is about to
    end; the job then needs another wake-up. Returns None if the job is not this run's.
    """
    logs.begin_work({"job": job_id})
    claim = store.claim(job_id, holder)  # if it raises, the job gets another wake-up
    if claim is None:
        logger.info("job %s is not queued: nothing to do", job_id)
        return None
    logs.begin_work(claim.job.list_facts())
    with Lease(store, claim, stopping) as lease:
        end, facts = _attempt(lease, settings)
        if not (lease.give_back() if end is JobState.QUEUED else lease.finish(end, **facts)):
            logger.warning("the end of job %s could not be recorded: it is another worker's, or redis is away", job_id)
            return None
    if end is not JobState.QUEUED:
        saved.remove(settings.model_dir, job_id)
    logger.info("job %s: %s %s", job_id, end.value, facts or "")
    return end


def _attempt(lease: Lease, settings: Settings) -> tuple[JobState, Facts]:
    """Make the job's version; return how that ended, also after an error."""
    job = lease.job
    try:
        return _describe_version(job, _make_version(lease, settings))
    except StoppedError as stopped:
        is_canceled = lease.standing is Standing.CANCELED or isinstance(stopped, CanceledError)
        end, facts = JobState.CANCELED if is_canceled else JobState.QUEUED, Facts()
    except Exception as error:  # whatever it is, the job must not stay in the state running
        if lease.standing is not Standing.LOST:
            logger.exception("job %s failed", job.id)
        if lease.standing is Standing.CANCELED:
            end, facts = JobState.CANCELED, Facts()
        else:
            end, facts = JobState.FAILED, {"error": _describe(error)}
    if end is not JobState.QUEUED and lease.may_be_published and lease.is_held():
        try:
            from models import publishing

            if version := publishing.close_job(settings.model_dir, job.arch, job.id):
                return _describe_version(job, version)
        except Exception as error:
            logger.warning("cannot close job %s: %s", job.id, error)
    return end, facts


def _describe_version(job: Job, version: "Manifest") -> tuple[JobState, Facts]:
    """The end of a job that has a version: canceled if it was stopped before its last epoch."""
    return JobState.SUCCEEDED if version.epochs >= job.epochs else JobState.CANCELED, {"version": version.version}


def _make_version(lease: Lease, settings: Settings) -> "Manifest":
    """The version of a job: the one that an earlier run has made, or a new one.

    Raises:
        StoppedError: the run was told to stop.
        NotHeldError: another worker has the job.
        AttemptsUsedUpError: the job has lost too many workers in a row to be tried again.
    """
    from models import publishing
    from worker.trainer import Trainer
    from worker.watch import Watch

    job = lease.job
    if before := publishing.finish_publication(settings.model_dir, job.arch, job.id):
        return before
    if job.cancel_requested and not job.keep:  # only now: before, its version might have been published
        raise CanceledError
    if job.lost_in_a_row >= MAX_LOST:  # likewise
        raise AttemptsUsedUpError(
            f"worker lost: {job.lost_in_a_row} attempts in a row ended without a word or a new state"
        )
    folder = saved.open_folder(settings.model_dir, job.id)
    watch = Watch(lease, folder)
    trainer = Trainer(
        settings, arch=job.arch, recipe=job.recipe, epochs=job.epochs, seed=job.seed, wrap_measure=watch.break_off
    )
    trained = trainer.train(
        on_progress=watch.on_progress,
        should_stop=watch.should_stop,
        measure_every=job.measure_every,
        on_state=watch.on_state,
        resume=watch.find_state(trainer.recipe, trainer.dataset_sha256),
    )
    if trained is None and lease.standing is Standing.KEEP and not lease.should_give_up():
        raise CanceledError
    if trained is None or (trained.history[-1].epoch < job.epochs and lease.should_give_up()):
        raise StoppedError
    metrics = trainer.measure(trained)
    watch.tell_metrics(trained.history[-1].epoch, metrics)
    if not lease.start_publishing():
        raise StoppedError
    return trainer.publish(trained, metrics, job=job.id, scratch=folder)


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, AttemptsUsedUpError) else f"{type(error).__name__}: {error}"
