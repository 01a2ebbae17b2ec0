"""The callbacks of a job's training: they write fields and events of the job, and save states."""

import base64
import io
import logging
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from worker import saved
from worker.jobs import EPOCH, METRIC, SAMPLE, Standing
from worker.lease import Lease, StoppedError
from worker.recipes import Recipe
from worker.state import State, fits, read_history
from worker.training import Measure, Progress

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # between two checks whether a measurement must stop
TOLD = ("d_loss", "g_loss", "d_real", "d_fake", "d_output", "wasserstein")  # of the last epoch, in the job's record
SHOWN = 4  # columns and rows of the picture in a sample event


class Watch:
    """The callbacks of one job's training."""

    def __init__(self, lease: Lease, folder: Path) -> None:
        self._lease = lease
        self._folder = folder
        self._told_epoch = 0  # the last epoch that has an event
        self._measured_epoch = 0  # the last epoch whose metrics have an event
        self._finished_epoch = 0  # the last one
        self._refused: list[Path] = []  # states from which this run could not go on
        self._half_epoch = 0  # the run went on from within the epoch after this one; 0: it did not

    def on_progress(self, progress: Progress) -> None:
        fields: dict[str, float | str] = {
            "epoch": progress.epoch,
            "step": progress.step,
            "steps": progress.steps,
            "images_per_second": round(progress.images_per_second, 1),
            "eta_seconds": round(progress.eta_seconds, 1),
        }
        if last := progress.last:
            self._finished_epoch = last.epoch
            told = ((name, getattr(last, name)) for name in TOLD)
            fields |= {name: value for name, value in told if value is not None}
            if last.metrics and last.epoch > self._measured_epoch:
                self.tell_metrics(last.epoch, last.metrics)
        self._lease.show(fields)

    def should_stop(self) -> bool:
        """Whether the training must stop. A run whose epochs are to be kept first ends one of its own."""
        if self._lease.standing is Standing.KEEP and self._half_epoch and self._finished_epoch <= self._half_epoch:
            return self._lease.should_give_up()
        return self._lease.should_stop()

    def tell_metrics(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Add the event with an epoch's metrics, once."""
        if epoch > self._measured_epoch:
            self._measured_epoch = epoch
            self._lease.tell(METRIC, {"epoch": epoch, **metrics})

    def on_state(self, state: State) -> None:
        """Save the state; add the events of an epoch that has just ended.

        Raises:
            NotHeldError: another worker has the job.
            OSError: the state cannot be written.
        """
        self._lease.require()
        if self._lease.standing is Standing.CANCELED:
            return
        content = io.BytesIO()
        torch.save(state, content)
        saved.write(self._folder, state["number"], content.getvalue(), instead_of=self._refused)
        self._refused.clear()
        self._lease.show({"saved_step": state["number"]})
        if len(state["history"]) > self._told_epoch:
            self._tell(state)

    def find_state(self, recipe: Recipe, dataset_sha256: str) -> State | None:
        """The newest state of an earlier run from which this run can resume, if there is one."""
        job = self._lease.job
        for path, content in saved.read(self._folder):
            try:
                state: State = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
                logger.warning("a saved state of job %s cannot be read: %s", job.id, error)
                self._refused.append(path)
                continue
            if not fits(state, recipe, job.seed, dataset_sha256):
                logger.warning("a saved state of job %s is of another recipe, data set or release: not used", job.id)
                self._refused.append(path)
                continue
            logger.info("job %s goes on at step %d", job.id, state["number"])
            self._lease.show({"resumes": job.resumes + 1})
            self._measured_epoch = max((epoch["epoch"] for epoch in state["history"] if epoch["metrics"]), default=0)
            if len(state["order"]):
                self._half_epoch = len(state["history"])
            if state["history"]:  # again: the run that saved the state may have died before its report
                self._tell(state)
            return state
        return None

    def break_off(self, measure: Measure) -> Measure:
        """``measure``, but it raises StoppedError as soon as the run must stop."""

        def measure_or_stop(G: nn.Module) -> Mapping[str, float]:
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
                if self._lease.should_give_up():
                    raise StoppedError  # the process ends soon, and the thread with it
            if isinstance(found[0], Exception):
                raise found[0]
            return found[0]

        return measure_or_stop

    def _tell(self, state: State) -> None:
        """Add the events of the last finished epoch."""
        last = read_history(state)[-1]
        self._told_epoch = last.epoch
        self._lease.tell(EPOCH, {name: value for name, value in last.describe().items() if name != "metrics"})
        png = base64.b64encode(_draw_png(state["samples"][-1])).decode()
        self._lease.tell(SAMPLE, {"epoch": last.epoch, "png": png})


def _draw_png(samples: Tensor) -> bytes:
    """The first 16 images of ``[n, 28, 28]`` uint8 as a square picture."""
    rows = samples[: SHOWN**2].unflatten(0, (SHOWN, SHOWN)).transpose(1, 2).flatten(0, 1).flatten(1)
    content = io.BytesIO()
    Image.fromarray(rows.numpy()).save(content, "png")
    return content.getvalue()
