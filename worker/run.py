"""One job from claim to version: where job, training and checkpoint meet.

The only module of the worker that imports both torch and the job records; the queue imports it
in the training child alone.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch
from redis.exceptions import RedisError
from torch import nn

from models import checkpoint, classifier, device, mnist, sampling
from models import metrics as measures
from models.archs import ARCHS
from worker import training
from worker.jobs import Job, JobState, JobStore, Standing
from worker.recipes import RECIPES, Recipe
from worker.settings import Settings

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0  # between two writes of a job's progress, each of which reads its cancel flag
RETRY_SECONDS = 1.0  # between two tries to record how a job ended while Redis is away


def run_job(job_id: str, store: JobStore, settings: Settings, stopping: Callable[[], bool]) -> JobState | None:
    """Claim a job, train, publish; record how it ended.

    Returns the state in which it leaves the job, QUEUED where ``stopping`` ended it early (it then
    needs another wake-up); None where the job is another worker's, or was canceled before.
    """
    job = store.claim(job_id)  # where it raises, the job stays queued and gets another wake-up
    if job is None:
        logger.info("job %s is not queued: nothing to do", job_id)
        return None
    end: JobState
    facts: dict[str, int | str] = {}
    watch = _Watch(store, job, stopping)
    try:
        if version := _train_and_publish(job, settings, watch):
            end, facts = JobState.SUCCEEDED, {"version": version}
        elif watch.standing is Standing.LOST:
            logger.warning("job %s went to another worker: nothing is published here", job.id)
            return None
        elif watch.standing is Standing.CANCELED:
            end = JobState.CANCELED
        else:
            end = JobState.QUEUED
    except Exception as error:  # whatever it was, the job must not stay running
        logger.exception("job %s failed", job.id)
        end, facts = JobState.FAILED, {"error": f"{type(error).__name__}: {error}"}
    while True:
        try:
            store.leave(job.id, end, job.attempt, **facts)
            break
        except RedisError as error:
            logger.warning("cannot record the end of job %s: %s", job.id, error)
            if stopping() and end is JobState.QUEUED:
                break  # its lease will run out
            time.sleep(RETRY_SECONDS)
    logger.info("job %s: %s %s", job.id, end.value, facts or "")
    return end


def measuring(recipe: Recipe, data_dir: Path, on_progress: Callable[[], object] = lambda: None) -> training.Measure:
    """A function that measures a generator of ``recipe`` by the images of the seeds 0, 1, 2 ….

    ``on_progress`` is called now and then while it works: it takes about ten seconds.

    Raises:
        mnist.DatasetError: the test images are missing or damaged.
    """
    test_images = mnist.load(data_dir, mnist.TEST_IMAGES)

    @cache  # seconds of work that a run which never measures does without
    def real() -> measures.Real:
        return measures.Real.of(test_images, classifier.load())

    def measure(G: nn.Module) -> dict[str, float]:
        z = sampling.latents(range(measures.IMAGES), ARCHS[recipe.arch].latent_shape, recipe.latents)
        drawn = []
        for some in z.split(1_000):
            drawn.append(sampling.images(G, some))
            on_progress()
        return measures.measure(torch.cat(drawn), real())

    return measure


def publish(
    trained: training.Trained,
    recipe: Recipe,
    *,
    seed: int,
    where: torch.device,
    model_dir: Path,
    metrics: Mapping[str, float],
    job: str | None = None,
) -> checkpoint.Manifest:
    """Publish what a run gave as a new version, with all that is needed to run it again."""
    arch = ARCHS[recipe.arch]
    last = trained.history[-1]
    origin = checkpoint.Origin(
        arch=arch.name,
        latent_shape=arch.latent_shape,
        latents=recipe.latents,
        recipe=asdict(recipe),
        seed=seed,
        epochs=last.epoch,
        dataset=mnist.TRAIN_IMAGES,
        dataset_sha256=mnist.SHA256[mnist.TRAIN_IMAGES],
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        bfloat16=training.in_bfloat16(arch, where),
        torch=torch.__version__,
        wall_seconds=round(last.seconds, 1),
        created_at=datetime.now(UTC),
        command=f"digits train --arch {arch.name} --recipe {recipe.name} --epochs {recipe.epochs} --seed {seed}",
        job=job,
        metrics=dict(metrics),
        floors=classifier.facts().floors,
        classifier_sha256=classifier.sha256(),
    )
    return checkpoint.publish(
        model_dir,
        origin,
        generator=trained.generator,
        discriminator=trained.discriminator,
        samples=torch.stack(trained.samples),
        history=[asdict(epoch) for epoch in trained.history],
    )


def final_metrics(trained: training.Trained, recipe: Recipe, measure: training.Measure) -> Mapping[str, float]:
    """Those of the last finished epoch; measured now, unless the run has just done so."""
    if trained.history[-1].metrics:
        return trained.history[-1].metrics
    G = ARCHS[recipe.arch].generator()
    G.load_state_dict(trained.generator)
    return measure(G.eval())


class _Watch:
    """The callbacks of a job's run: report progress now and then, and learn whether to stop."""

    def __init__(self, store: JobStore, job: Job, stopping: Callable[[], bool]) -> None:
        self.store = store
        self.job = job
        self.stopping = stopping
        self.standing = Standing.HELD
        self._reported = 0.0
        self._last: training.Epoch | None = None

    def on_progress(self, progress: training.Progress) -> None:
        now = time.monotonic()
        if now - self._reported < REPORT_SECONDS and progress.last is self._last:
            return
        self._reported, self._last = now, progress.last
        last = asdict(progress.last) if progress.last else {}
        try:
            self.standing = self.store.report(
                self.job,
                epoch=progress.epoch,
                step=progress.step,
                steps=progress.steps,
                images_per_second=round(progress.images_per_second, 1),
                eta_seconds=round(progress.eta_seconds, 1),
                **{name: last[name] for name in ("d_loss", "g_loss", "d_real", "d_fake") if last},
            )
        except RedisError as error:  # training goes on without Redis
            logger.warning("cannot report the progress of job %s: %s", self.job.id, error)

    def renew(self) -> None:
        """Keep the job between two reports of progress."""
        try:
            self.standing = self.store.report(self.job)
        except RedisError as error:
            logger.warning("cannot renew the lease of job %s: %s", self.job.id, error)

    def should_stop(self) -> bool:
        return self.standing is not Standing.HELD or self.stopping()

    def may_publish(self) -> bool:
        """Whether the job is still this run's; waits for Redis, since nobody else can tell."""
        while True:
            try:
                self.standing = self.store.report(self.job)
                return self.standing is Standing.HELD
            except RedisError as error:
                logger.warning("cannot ask whether job %s may be published: %s", self.job.id, error)
                if self.stopping():
                    return False
                time.sleep(RETRY_SECONDS)


def _train_and_publish(job: Job, settings: Settings, watch: _Watch) -> int | None:
    """The version made, or None where the run was stopped."""
    checkpoint.require_writable(settings.model_dir, job.arch)
    where = device.resolve(settings.device)
    recipe = replace(RECIPES[job.recipe][job.arch], epochs=job.epochs)
    measure = measuring(recipe, settings.data_dir, watch.renew)
    trained = training.train(
        recipe=recipe,
        images=mnist.load(settings.data_dir),
        seed=job.seed,
        device=where,
        on_progress=watch.on_progress,
        should_stop=watch.should_stop,
        measure=measure,
        measure_every=job.measure_every,
    )
    if trained is None or trained.history[-1].epoch < recipe.epochs:
        return None
    figures = final_metrics(trained, recipe, measure)
    if not watch.may_publish():
        return None
    return publish(
        trained, recipe, seed=job.seed, where=where, model_dir=settings.model_dir, metrics=figures, job=job.id
    ).version
