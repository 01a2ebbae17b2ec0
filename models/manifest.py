"""The description of a version: ``manifest.json``, and the names of the files beside it.

The manifest holds how the version was made, its metrics, and size and SHA-256 of every other file.
"""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError

from models import files

GENERATOR, DISCRIMINATOR = "generator.safetensors", "discriminator.safetensors"
SAMPLES, HISTORY, MANIFEST = "samples.npz", "history.jsonl", "manifest.json"
FILES = (GENERATOR, DISCRIMINATOR, SAMPLES, HISTORY)  # whose sums the manifest holds

SCHEMA_VERSION = 1

MAX_MANIFEST_BYTES = 2**20  # a real one has 3 KB
MAX_FILE_BYTES = 2**28  # a real one has at most 50 MB: the samples of 1,000 epochs


class InvalidVersionError(Exception):
    """A version's folder is incomplete, damaged or of an unknown schema, as the message says; train it again."""


class ImportedFile(BaseModel):
    """A file that a version was imported from."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Its name, without its folder."""
    sha256: str
    """Its SHA-256."""


class Origin(BaseModel):
    """How a version was made: enough to rebuild its networks and to run the training again."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    arch: str
    """The architecture."""
    latent_shape: tuple[int, ...]
    """The shape of the latents of one image."""
    latents: str
    """The distribution of the latents: a row of models.sampling.LATENTS."""
    recipe: dict[str, Any]
    """Every hyperparameter."""
    seed: int
    """The seed of its weights, its shuffling and its latents."""
    epochs: int
    """How many epochs are finished; 0: an imported one does not say it."""
    dataset: str
    """The file of the training images; unknown for an imported version, as its device."""
    dataset_sha256: str
    """The SHA-256 of that file, uncompressed; empty if the file is unknown."""
    test_sha256: str | None = None
    """The SHA-256 of the file of the test images of the metrics, uncompressed; null: MNIST's."""
    device: str
    """cpu, or the name of the GPU that trained."""
    threads: int
    """How many threads trained, on the CPU."""
    bfloat16: bool = False
    """Its training multiplied in bfloat16, not in float32."""
    torch: str
    """The release of torch."""
    wall_seconds: float
    """Seconds of training, without measuring."""
    created_at: datetime
    """When the training had ended, or when the version was imported."""
    command: str
    """It runs the training, or the import, again."""
    job: str | None = None
    """The id of the job that made it; null: the command line did."""
    metrics: dict[str, FiniteFloat] = {}
    """Those of models.metrics.measure, without unit."""
    floors: dict[str, FiniteFloat] = {}
    """The same metrics of real training images."""
    classifier_sha256: str | None = None
    """The SHA-256 of the classifier that measured the metrics."""
    imported: dict[str, ImportedFile] = {}
    """The files that an imported version was read from: generator, discriminator, samples. Empty: it was trained."""

    @property
    def recipe_name(self) -> str:
        return str(self.recipe.get("name"))


class FileSum(BaseModel):
    """Size and SHA-256 of one file of a version."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    bytes: int = Field(ge=0, le=MAX_FILE_BYTES)
    """Its size."""
    sha256: str
    """Its SHA-256."""


class Manifest(Origin):
    """``manifest.json``: how a version was made, and the sums of its files."""

    schema_version: Literal[1] = 1
    """The version of this format."""
    version: PositiveInt
    """Its number."""
    files: dict[str, FileSum]
    """Size and sum of each file beside the manifest."""

    @property
    def file_names(self) -> tuple[str, ...]:
        """The files that the version must have: all, but an imported one may have no discriminator."""
        may_lack = {DISCRIMINATOR} - self.files.keys() if self.imported else set[str]()
        return tuple(name for name in FILES if name not in may_lack)

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of the generator's file."""
        return self.files[GENERATOR].sha256

    def is_comparable(self, classifier_sha256: str) -> bool:
        """Whether the classifier with that SHA-256 has measured it, against MNIST: other metrics cannot be compared."""
        return self.classifier_sha256 == classifier_sha256 and self.test_sha256 is None

    def rank(self, classifier_sha256: str) -> tuple[float, int, int]:
        """A sort key that puts the best version last: by FID, then by epochs, then by number.

        Epochs decide between versions without an FID, so that no short trial wins. An FID counts only if it
        :meth:`is_comparable`.
        """
        fid = self.metrics.get("fid", math.inf) if self.is_comparable(classifier_sha256) else math.inf
        return -fid, self.epochs, self.version


def read_manifest(folder: Path) -> Manifest:
    """The manifest of ``<arch>/<version>``. The files that it names are not checked.

    Raises:
        InvalidVersionError: it is missing, damaged, of another schema, or of another folder.
        OSError: it cannot be read just now.
    """
    try:
        raw = json.loads(files.read(folder / MANIFEST, MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and files.is_passing(error):
            raise
        raise InvalidVersionError(f"{MANIFEST} cannot be read: {error}") from error
    schema = raw.get("schema_version") if isinstance(raw, dict) else None
    if schema != SCHEMA_VERSION:
        raise InvalidVersionError(f"unknown schema version {schema!r}; this release reads {SCHEMA_VERSION}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidVersionError(f"{MANIFEST}: {field}: {first['msg']}") from error
    if (manifest.arch, str(manifest.version)) != (folder.parent.name, folder.name):
        raise InvalidVersionError(f"{MANIFEST} is of {manifest.arch} version {manifest.version}, not of this folder")
    return manifest
