"""One job from claim to version: where job, training and checkpoint meet.

The only module of the worker that imports both torch and the job records; the queue imports it
in the training child alone.
"""

import base64
import io
import logging
import pickle
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from models import checkpoint, classifier, device, mnist, sampling
from models import metrics as measures
from models.archs import ARCHS
from worker import saved, training
from worker.jobs import MAX_LOST, JobState, Standing
from worker.lease import Lease
from worker.recipes import RECIPES, Recipe
from worker.settings import Settings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # between two looks whether a measurement is to be broken off
SHOWN = 4  # columns and rows of the picture in a sample event


class _StoppedError(Exception):
    """The run was told to stop."""


class WorkerLostError(Exception):
    """The job's workers were lost, one after the other."""


def run_job(lease: Lease, settings: Settings) -> JobState | None:
    """Train for a claimed job, publish; record how it ended.

    Returns the state in which it leaves the job, QUEUED where the worker is about to end (it then
    needs another wake-up); None where the job is another worker's by now.
    """
    job = lease.job
    end, facts = _outcome(lease, settings)
    if not (lease.give_back() if end is JobState.QUEUED else lease.finish(end, **facts)):
        logger.warning("the end of job %s could not be recorded: it is another worker's, or redis is away", job.id)
        return None
    if end is not JobState.QUEUED:
        saved.remove(settings.model_dir, job.id)
    logger.info("job %s: %s %s", job.id, end.value, facts or "")
    return end


def _outcome(lease: Lease, settings: Settings) -> tuple[JobState, dict[str, int | str]]:
    """How a run ends, with its version or its error."""
    job = lease.job
    try:
        return JobState.SUCCEEDED, {"version": _publish_once(lease, settings)}
    except _StoppedError:
        end, error = JobState.CANCELED if lease.standing is Standing.CANCELED else JobState.QUEUED, None
    except Exception as exception:  # whatever it was, the job must not stay running
        if lease.standing is not Standing.LOST:
            logger.exception("job %s failed", job.id)
        canceled = lease.standing is Standing.CANCELED
        end, error = (JobState.CANCELED, None) if canceled else (JobState.FAILED, _said(exception))
    if end is not JobState.QUEUED and lease.may_be_published and lease.is_held():
        try:
            if version := checkpoint.close(settings.model_dir, job.arch, job.id):
                return JobState.SUCCEEDED, {"version": version.version}
        except OSError as exception:
            logger.warning("cannot close job %s: %s", job.id, exception)
    return end, {"error": error} if error else {}


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, WorkerLostError) else f"{type(error).__name__}: {error}"


def _publish_once(lease: Lease, settings: Settings) -> int:
    """The version of a job: the one that an earlier run of it has made, or what training gives.

    Raises:
        _StoppedError: the run was told to stop.
        NotHeldError: the job is another worker's.
        WorkerLostError: the job has lost too many workers to be tried again.
    """
    job = lease.job
    if before := checkpoint.published(settings.model_dir, job.arch, job.id):
        return before.version
    if job.cancel_requested:  # while its version might have been published: only now it can be canceled
        lease.standing = Standing.CANCELED
        raise _StoppedError
    if job.lost_leases >= MAX_LOST:  # likewise
        raise WorkerLostError(f"worker lost: {job.lost_leases} attempts ended without a word")
    checkpoint.require_writable(settings.model_dir, job.arch)
    folder = saved.open_folder(settings.model_dir, job.id)
    where = device.resolve(settings.device)
    recipe = replace(RECIPES[job.recipe][job.arch], epochs=job.epochs)
    watch = _Watch(lease, folder)
    measure = watch.breaking_off(measuring(recipe, settings.data_dir))
    trained = training.train(
        recipe=recipe,
        images=mnist.load(settings.data_dir),
        seed=job.seed,
        device=where,
        on_progress=watch.on_progress,
        should_stop=lease.should_stop,
        measure=measure,
        measure_every=job.measure_every,
        on_state=watch.on_state,
        resume=watch.resumed(recipe),
    )
    if trained is None or trained.history[-1].epoch < recipe.epochs:
        raise _StoppedError
    figures = final_metrics(trained, recipe, measure)
    if not trained.history[-1].metrics:  # which would have been told of
        lease.tell("metric", {"epoch": recipe.epochs, **figures})
    if not lease.start_publishing():
        raise _StoppedError
    return publish(
        trained,
        recipe,
        seed=job.seed,
        where=where,
        model_dir=settings.model_dir,
        metrics=figures,
        job=job.id,
        scratch=folder,
    ).version


def measuring(recipe: Recipe, data_dir: Path) -> training.Measure:
    """A function that measures a generator of ``recipe`` by the images of the seeds 0, 1, 2 ….

    It takes about ten seconds.

    Raises:
        mnist.DatasetError: the test images are missing or damaged.
    """
    test_images = mnist.load(data_dir, mnist.TEST_IMAGES)

    @cache  # seconds of work that a run which never measures does without
    def real() -> measures.Real:
        return measures.Real.of(test_images, classifier.load())

    def measure(G: nn.Module) -> dict[str, float]:
        z = sampling.latents(range(measures.IMAGES), ARCHS[recipe.arch].latent_shape, recipe.latents)
        return measures.measure(torch.cat([sampling.images(G, some) for some in z.split(1_000)]), real())

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
    scratch: Path | None = None,
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
        scratch=scratch,
    )


def final_metrics(trained: training.Trained, recipe: Recipe, measure: training.Measure) -> Mapping[str, float]:
    """Those of the last finished epoch; measured now, unless the run has just done so."""
    if trained.history[-1].metrics:
        return trained.history[-1].metrics
    G = ARCHS[recipe.arch].generator()
    G.load_state_dict(trained.generator)
    return measure(G.eval())


class _Watch:
    """The callbacks of a job's training: progress and events for the record, states for the folder."""

    def __init__(self, lease: Lease, folder: Path) -> None:
        self._lease = lease
        self._folder = folder
        self._told = 0  # the last epoch that was told of
        self._measured = 0  # the last one whose metrics were

    def on_progress(self, progress: training.Progress) -> None:
        fields: dict[str, float] = {
            "epoch": progress.epoch,
            "step": progress.step,
            "steps": progress.steps,
            "images_per_second": round(progress.images_per_second, 1),
            "eta_seconds": round(progress.eta_seconds, 1),
        }
        if last := progress.last:
            fields |= {name: getattr(last, name) for name in ("d_loss", "g_loss", "d_real", "d_fake")}
            if last.metrics and last.epoch > self._measured:
                self._measured = last.epoch
                self._lease.tell("metric", {"epoch": last.epoch, **last.metrics})
        self._lease.show(fields)

    def on_state(self, state: training.State) -> None:
        """Save the state; tell of an epoch that has just ended."""
        self._lease.require()
        if self._lease.standing is Standing.CANCELED:
            return
        content = io.BytesIO()
        torch.save(state, content)
        saved.write(self._folder, state["number"], content.getvalue())
        if state["history"] and state["history"][-1]["epoch"] > self._told:
            self._tell(state["history"][-1], state["samples"][-1])

    def resumed(self, recipe: Recipe) -> training.State | None:
        """The newest state that an earlier run of the job has left and this one can go on from, if any."""
        job = self._lease.job
        for content in saved.read(self._folder):
            try:
                state: training.State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
                logger.warning("a saved state of job %s cannot be read: %s", job.id, error)
                continue
            if not training.fits(state, recipe, job.seed):
                logger.warning("a saved state of job %s is of another recipe or release: left out", job.id)
                continue
            logger.info("job %s goes on at step %d", job.id, state["number"])
            self._lease.show({"resumes": job.resumes + 1})
            self._measured = max((epoch["epoch"] for epoch in state["history"] if epoch["metrics"]), default=0)
            if state["history"]:  # again: the run that wrote this may have died before it was heard
                self._tell(state["history"][-1], state["samples"][-1])
            return state
        return None

    def breaking_off(self, measure: training.Measure) -> training.Measure:
        """``measure``, but it ends with a _StoppedError as soon as the run is to stop."""

        def breaks_off(G: nn.Module) -> Mapping[str, float]:
            found: list[Mapping[str, float] | Exception] = []

            def call() -> None:
                try:
                    found.append(measure(G))
                except Exception as error:
                    found.append(error)

            thread = threading.Thread(target=call, daemon=True, name="measure")
            thread.start()
            while thread.is_alive():
                thread.join(POLL_SECONDS)
                if self._lease.should_stop():
                    raise _StoppedError  # the process, which ends soon, takes the thread along
            if isinstance(found[0], Exception):
                raise found[0]
            return found[0]

        return breaks_off

    def _tell(self, epoch: Mapping[str, object], samples: Tensor) -> None:
        self._told = int(str(epoch["epoch"]))
        self._lease.tell("epoch", {name: value for name, value in epoch.items() if name != "metrics"})
        self._lease.tell("sample", {"epoch": self._told, "png": base64.b64encode(_png(samples)).decode()})


def _png(samples: Tensor) -> bytes:
    """The first 16 of ``[n, 28, 28]`` uint8 as a square picture."""
    rows = samples[: SHOWN**2].unflatten(0, (SHOWN, SHOWN)).transpose(1, 2).flatten(0, 1).flatten(1)
    content = io.BytesIO()
    Image.fromarray(rows.numpy()).save(content, "png")
    return content.getvalue()
