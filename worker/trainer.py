"""One training, from data to version: train, measure, publish. Jobs and the command line use it.

It adds what ``worker.training`` must not know: files, the settings of the environment, the metrics.
"""

import logging
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from models import classifier, device, measuring, mnist, publishing
from models.archs import ARCHS
from models.manifest import Manifest, Origin
from worker import threads, training
from worker.linux import count_cores
from worker.recipes import Recipe, find_recipe
from worker.settings import Settings
from worker.state import State
from worker.step import trains_in_bfloat16
from worker.training import Measure, Progress, Trained

logger = logging.getLogger(__name__)


class Trainer:
    """A recipe, its data and its device on this machine."""

    def __init__(
        self,
        settings: Settings,
        *,
        arch: str,
        recipe: str,
        epochs: int | None,
        seed: int,
        wrap_measure: Callable[[Measure], Measure] = lambda measure: measure,
    ) -> None:
        """``epochs``: None for the number in the recipe. ``wrap_measure`` can make a measurement stop early.

        Raises:
            NoRecipeError: there is no such recipe for ``arch``.
            OSError: no version of ``arch`` can be published to the model directory.
            UnavailableDeviceError: the device of the settings does not exist here.
            mnist.DatasetError: the data set is missing or damaged.
        """
        row = find_recipe(recipe, arch)
        self.recipe = replace(row, epochs=epochs or row.epochs)
        self.seed = seed
        self._model_dir = settings.model_dir
        self._threads = settings.training_threads
        publishing.require_writable(settings.model_dir, arch)
        self._device = device.resolve(settings.device)
        self._data_dir = settings.data_dir
        self._images, self.dataset_sha256 = mnist.load_summed(settings.data_dir)
        self._test_images, self._test_sha256 = measuring.load_test(settings.data_dir)
        self._measure = wrap_measure(make_measure(self.recipe, self._test_images))

    def train(
        self,
        *,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool],
        measure_every: int | None,
        on_state: Callable[[State], None] = lambda state: None,
        resume: State | None = None,
    ) -> Trained | None:
        """As :func:`worker.training.train`. On the CPU, a run that resumes keeps its number of threads.

        Raises:
            TrainingError: as there. Errors of the callbacks are raised, too.
        """
        self._threads = self._find_threads(resume)
        return training.train(
            recipe=self.recipe,
            images=self._images,
            seed=self.seed,
            device=self._device,
            on_progress=on_progress,
            should_stop=should_stop,
            measure=self._measure,
            measure_every=measure_every,
            on_state=lambda state: on_state(state | {"dataset_sha256": self.dataset_sha256}),
            resume=resume,
            threads=self._threads,
        )

    def _find_threads(self, resume: State | None) -> int | None:
        """How many threads torch uses: another number could change the last bits of the weights. None: any."""
        if self._device.type == "cuda":
            return None
        if resume:  # a state of an earlier release does not say it: then it was torch's own number
            found = int(resume.get("threads", torch.get_num_threads()))
        else:
            found = self._threads or threads.choose(self.recipe, self._images)
        found = min(found, count_cores())
        logger.info("the training uses %d of %d cores", found, count_cores())
        return found

    def _measure_floors(self) -> dict[str, float]:
        """The metrics of training images of a set that is not MNIST."""
        from models import metrics

        real = metrics.Real.of(self._test_images, classifier.load())
        return metrics.measure(metrics.sample(self._images, metrics.IMAGES), real)

    def measure(self, trained: Trained) -> Mapping[str, float]:
        """The metrics of the last finished epoch, measured now unless the run has measured them."""
        if trained.history[-1].metrics:
            return trained.history[-1].metrics
        G = ARCHS[self.recipe.arch].generator()
        G.load_state_dict(trained.generator)
        return self._measure(G.eval())

    def publish(
        self, trained: Trained, metrics: Mapping[str, float], *, job: str | None = None, scratch: Path | None = None
    ) -> Manifest:
        """Publish the result of a run as a new version, with everything that is needed to repeat the run.

        Raises:
            OSError, JobClosedError: as :func:`models.publishing.publish`.
        """
        recipe, where, last = self.recipe, self._device, trained.history[-1]
        arch = ARCHS[recipe.arch]
        origin = Origin(
            arch=arch.name,
            latent_shape=arch.latent_shape,
            latents=recipe.latents,
            recipe=asdict(recipe),
            seed=self.seed,
            epochs=last.epoch,
            dataset=mnist.TRAIN_IMAGES,
            dataset_sha256=self.dataset_sha256,
            test_sha256=self._test_sha256,
            device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
            threads=self._threads or torch.get_num_threads(),
            bfloat16=trains_in_bfloat16(arch, where),
            torch=torch.__version__,
            wall_seconds=round(last.seconds, 1),
            created_at=datetime.now(UTC),
            command=(
                (f"DIGITS_DATA_DIR={shlex.quote(str(self._data_dir))} " if self._test_sha256 else "")
                + (f"DIGITS_TRAINING_THREADS={self._threads} " if self._threads else "")
                + f"digits train --arch {arch.name} --recipe {recipe.name} --epochs {recipe.epochs} --seed {self.seed}"
            ),
            job=job,
            metrics=dict(metrics),
            floors=self._measure_floors() if self._test_sha256 else classifier.facts().floors,
            classifier_sha256=classifier.sha256(),
        )
        return publishing.publish(
            self._model_dir,
            origin,
            generator=trained.generator,
            discriminator=trained.discriminator,
            samples=torch.stack(trained.samples),
            history=[epoch.describe() for epoch in trained.history],
            scratch=scratch,
        )


def make_measure(recipe: Recipe, test_images: Tensor) -> Measure:
    """A function that measures a generator of ``recipe`` by its images of the seeds 0, 1, 2, …"""
    return measuring.make_measure(ARCHS[recipe.arch].latent_shape, recipe.latents, test_images)
