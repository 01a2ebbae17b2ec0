"""Find and read versions: those in a model directory, and those that come with the code.

A version is the immutable folder ``<model dir>/<arch>/<version>/`` with ``manifest.json`` and the
files that it names (:attr:`models.manifest.Manifest.file_names`). A folder without a manifest does not exist
here. Shipped versions lie in :data:`PRETRAINED`, in the same format.

Weights are safetensors, samples an array archive that is read without pickle: nothing that is
read here can run code. Every file is checked against its size and sum before it is used.
"""

import hashlib
import io
import json
import lzma
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from models import files
from models.archs import ARCHS
from models.manifest import (
    DISCRIMINATOR,
    GENERATOR,
    HISTORY,
    MANIFEST,
    SAMPLES,
    InvalidVersionError,
    Manifest,
    read_manifest,
)
from models.sampling import LATENTS

# What numpy and zipfile raise for an archive that they cannot read, torch for one that holds no numbers.
_UNPACKING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    RuntimeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
)

PRETRAINED = Path(__file__).parent / "pretrained"
NUMBERS = ".numbers"  # of one architecture: an empty folder for each number that was ever given
HIDDEN = ".hidden"  # likewise: an empty folder for each shipped version that is left out


def find_folders(model_dir: Path) -> dict[tuple[str, int], Path]:
    """(arch, version) → folder, of all versions that have a manifest, shipped ones included.

    A number that was given in the model directory means that version for ever, even if it is deleted: a
    shipped one of the same number, of a later release, is left out. So are hidden ones.
    """
    found: dict[tuple[str, int], Path] = {}
    for arch in ARCHS:
        ours = list_numbers(model_dir / arch)
        hidden = list_numbers(model_dir / arch / HIDDEN)
        shipped = [number for number in list_shipped(model_dir, arch) if number not in hidden]
        for root, numbers in ((PRETRAINED, shipped), (model_dir, ours)):
            for number in numbers:
                folder = root / arch / str(number)
                if has_manifest(folder):
                    found[arch, number] = folder
    return dict(sorted(found.items()))


def find_problem(model_dir: Path) -> str | None:
    """Why a model directory, or the folder of an architecture in it, cannot be listed; None if all can be.

    One that does not exist is empty.
    """
    for folder in (model_dir, *(model_dir / arch for arch in ARCHS)):
        try:
            os.scandir(folder).close()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{folder} cannot be read: {error.strerror}"
    return None


def list_shipped(model_dir: Path, arch: str) -> list[int]:
    """The numbers that mean shipped versions, hidden ones included: the model directory has never given them."""
    given = {*list_numbers(model_dir / arch), *list_numbers(model_dir / arch / NUMBERS)}
    return [number for number in list_numbers(PRETRAINED / arch) if number not in given]


def has_manifest(folder: Path) -> bool:
    """Whether it has one; True for a folder that cannot be read, which is then rejected like any other."""
    try:
        return (folder / MANIFEST).is_file()
    except OSError:
        return True


def list_numbers(arch_dir: Path) -> list[int]:
    """The version numbers that are in use in a folder, by valid versions or not."""
    try:
        names = os.listdir(arch_dir)
    except OSError:  # it does not exist yet, or cannot be read
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0")


def read_fitting_manifest(folder: Path) -> Manifest:
    """The manifest of a version whose networks this release has. The files that it names are not checked.

    Raises:
        InvalidVersionError: it is missing, damaged, or does not fit the architecture.
        OSError: it cannot be read just now.
    """
    manifest = read_manifest(folder)
    arch = ARCHS[manifest.arch]
    if manifest.latents not in LATENTS:
        raise InvalidVersionError(f"unknown distribution of latents {manifest.latents!r}")
    if manifest.latent_shape != arch.latent_shape:
        raise InvalidVersionError(f"latent shape {manifest.latent_shape}, expected {arch.latent_shape}")
    return manifest


def read_generator(folder: Path) -> tuple[Manifest, nn.Sequential]:
    """A verified version: its manifest and its generator, on the CPU, in eval mode.

    Every file of the version is checked, so that a damaged one is found when it appears.

    Raises:
        InvalidVersionError: something is missing, damaged, or does not fit the architecture.
        OSError: a file cannot be read just now.
    """
    manifest = read_fitting_manifest(folder)
    content = {name: _read_verified(folder, manifest, name) for name in manifest.file_names}
    arch = ARCHS[manifest.arch]
    G = arch.generator()
    try:
        weights = safetensors.torch.load(content[GENERATOR])
        G.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise InvalidVersionError(f"{GENERATOR} does not fit {arch.name}: {error}") from error
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise InvalidVersionError(f"{GENERATOR} holds values that are not finite")
    return manifest, G.eval().requires_grad_(False)


def read_discriminator(folder: Path) -> dict[str, Tensor] | None:
    """The weights of a version's discriminator; None: it was imported without one.

    Raises:
        InvalidVersionError: the version is damaged.
        OSError: a file cannot be read just now.
    """
    manifest = read_manifest(folder)
    if DISCRIMINATOR not in manifest.file_names:
        return None
    try:
        return safetensors.torch.load(_read_verified(folder, manifest, DISCRIMINATOR))
    except SafetensorError as error:
        raise InvalidVersionError(f"{DISCRIMINATOR} cannot be read: {error}") from error


def read_samples(folder: Path) -> Tensor:
    """The images of the same latents after each epoch: ``[epochs, n, 28, 28]`` uint8.

    Raises:
        InvalidVersionError: the version is damaged.
        OSError: a file cannot be read just now.
    """
    content = _read_verified(folder, read_manifest(folder), SAMPLES)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return torch.from_numpy(archive["images"]).contiguous()
    except _UNPACKING_ERRORS as error:
        raise InvalidVersionError(f"{SAMPLES} cannot be read: {error}") from error


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The record of each epoch, in order.

    Raises:
        InvalidVersionError: the version is damaged.
        OSError: a file cannot be read just now.
    """
    content = _read_verified(folder, read_manifest(folder), HISTORY)
    try:
        return [json.loads(line) for line in content.splitlines()]
    except ValueError as error:
        raise InvalidVersionError(f"{HISTORY} cannot be read: {error}") from error


def _read_verified(folder: Path, manifest: Manifest, name: str) -> bytes:
    expected = manifest.files.get(name)
    if expected is None:
        raise InvalidVersionError(f"{MANIFEST} does not list {name}")
    try:
        data = files.read(folder / name, expected.bytes)
    except OSError as error:
        if files.is_passing(error):
            raise
        raise InvalidVersionError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError:
        raise InvalidVersionError(f"{name} has more than {expected.bytes} bytes") from None
    if len(data) != expected.bytes:
        raise InvalidVersionError(f"{name} has {len(data)} bytes, expected {expected.bytes}: truncated?")
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        raise InvalidVersionError(f"{name} has another sha256 than {MANIFEST} says")
    return data
