"""Make versions of what others have trained: from files of ``torch.save``, and from pickled lists of images.

Nothing of those files is run or unpickled: :mod:`models.pickles`. Knows nothing of the command line.

    digits import generator.pt --arch wgan
"""

import hashlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from models import classifier, fitting, publishing, sampling, saved_networks, saved_samples, versions
from models.archs import ARCHS, Arch
from models.files import read as read_file
from models.manifest import ImportedFile, InvalidVersionError, Manifest, Origin
from models.measuring import Measure
from models.pickles import UnfitFileError

RECIPE = "imported"
LATENTS = "uniform"  # those of the chapter that most such networks come from
SAMPLES = 64  # images of an imported version, of the seeds 0…63

UNKNOWN = "unknown"

# role → the keys of a dict around the network, the most telling first; and the networks that it may be.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "generator": ("generator", "generator_state_dict", "gen_model", "G", *_WRAPPERS),
    "discriminator": ("discriminator", "discriminator_state_dict", "disc_model", "D", *_WRAPPERS),
}
_NETWORKS: Mapping[str, Callable[[Arch], list[nn.Sequential]]] = {
    "generator": lambda arch: [arch.generator()],
    "discriminator": lambda arch: [arch.discriminator(True), arch.discriminator(False)],
}


class NotImportedError(Exception):
    """There is no such imported version; import its weights first, or name another one."""


@dataclass(frozen=True)
class Networks:
    """The networks of some files, on the CPU, in eval mode."""

    arch: Arch
    generator: nn.Sequential
    discriminator: nn.Sequential | None
    files: dict[str, ImportedFile]  # by role


def read_networks(arch: str, generator: Path, discriminator: Path | None = None) -> Networks:
    """The networks of an architecture in files of ``torch.save``: whole networks or their state dicts.

    Raises:
        UnfitFileError: a file cannot be read, or its network is another one; nothing in it was run.
    """
    G, files = _read_network(generator, ARCHS[arch], "generator")
    D = None
    if discriminator:
        D, file = _read_network(discriminator, ARCHS[arch], "discriminator")
        files |= file
    z = sampling.make_latents(range(SAMPLES), ARCHS[arch].latent_shape, LATENTS)
    with torch.inference_mode():
        if not G(z).isfinite().all():
            raise UnfitFileError(f"{generator}: it draws values that are not finite")
    return Networks(ARCHS[arch], G, D, files)


def publish_networks(
    model_dir: Path, networks: Networks, *, latents: str, measure: Measure, test_sha256: str | None = None
) -> Manifest:
    """Measure the generator, and publish a new version: its samples are 64 images of fixed latents.

    ``test_sha256`` names what ``measure`` compares with; None: MNIST.

    Raises:
        OSError: as :func:`models.publishing.publish`.
    """
    arch, G, D = networks.arch, networks.generator, networks.discriminator
    z = sampling.make_latents(range(SAMPLES), arch.latent_shape, latents)
    words = ["digits", "import", networks.files["generator"].name, "--arch", arch.name, "--latents", latents]
    if "discriminator" in networks.files:
        words += ["--discriminator", networks.files["discriminator"].name]
    origin = Origin(
        arch=arch.name,
        latent_shape=arch.latent_shape,
        latents=latents,
        recipe={"name": RECIPE},
        seed=0,
        epochs=0,
        dataset=UNKNOWN,
        dataset_sha256="",
        device=UNKNOWN,
        threads=0,
        torch=torch.__version__,
        wall_seconds=0.0,
        created_at=datetime.now(UTC),
        command=shlex.join(words),
        metrics=measure(G),
        test_sha256=test_sha256,
        floors={} if test_sha256 else classifier.facts().floors,
        classifier_sha256=classifier.sha256(),
        imported=networks.files,
    )
    return publishing.publish(
        model_dir,
        origin,
        generator=G.state_dict(),
        discriminator=D.state_dict() if D else None,
        samples=sampling.draw(G, z)[None],
        history=[],
    )


def find_imported(model_dir: Path, arch: str, version: int | None = None) -> Path:
    """The folder of an imported version; of the newest one if ``version`` is None.

    Raises:
        NotImportedError: there is none, or that version was not imported.
    """
    found = {number: folder for (name, number), folder in versions.find_folders(model_dir).items() if name == arch}
    imported = []
    for number, folder in found.items():
        try:
            if versions.read_fitting_manifest(folder).imported:
                imported.append(number)
        except (InvalidVersionError, OSError):
            continue
    chosen = version if version is not None else max(imported, default=None)
    if chosen not in imported:
        which = "imported version" if version is None else f"imported version {version}"
        known = f"; imported are {', '.join(map(str, imported))}" if imported else ": import one with `digits import`"
        raise NotImportedError(f"{arch} has no {which}{known}")
    return found[chosen]


def publish_samples(model_dir: Path, folder: Path, path: Path) -> Manifest:
    """Publish the imported version of ``folder`` anew, with the images in ``path`` as its samples.

    Raises:
        UnfitFileError: the file cannot be read, or is no list of images.
        InvalidVersionError: the version is damaged.
        OSError: as :func:`models.publishing.publish`.
    """
    data, file = _read(path, saved_samples.MAX_BYTES)
    try:
        samples = saved_samples.read(data)
    except UnfitFileError as error:
        raise UnfitFileError(f"{path}: {error}") from error
    before, G = versions.read_generator(folder)
    words = ["digits", "import-samples", file.name, "--arch", before.arch, "--version", str(before.version)]
    changes = {
        "epochs": len(samples),
        "created_at": datetime.now(UTC),
        "command": shlex.join(words),
        "imported": {**before.imported, "samples": file},
    }
    return publishing.publish(
        model_dir,
        Origin(**{name: getattr(before, name) for name in Origin.model_fields} | changes),
        generator=G.state_dict(),
        discriminator=versions.read_discriminator(folder),
        samples=samples,
        history=[],
    )


def _read_network(path: Path, arch: Arch, role: str) -> tuple[nn.Sequential, dict[str, ImportedFile]]:
    data, file = _read(path, saved_networks.MAX_BYTES)
    try:
        saved = saved_networks.find_network(saved_networks.read(data), _KEYS[role])
        candidates = _NETWORKS[role](arch)
        misfits = [fitting.find_misfit(saved, network) for network in candidates]
        if None not in misfits:
            raise UnfitFileError(f"it is no {role} of {arch.name}: {misfits[0]}{_find_other(saved)}")
        network = candidates[misfits.index(None)]
        network.load_state_dict(_load(saved, network))
    except UnfitFileError as error:
        raise UnfitFileError(f"{path}: {error}") from error
    return network.eval().requires_grad_(False), {role: file}


def _find_other(saved: saved_networks.SavedNetwork) -> str:
    """What a network is instead, in words."""
    for arch in ARCHS.values():
        for role, make in _NETWORKS.items():
            if any(fitting.find_misfit(saved, network) is None for network in make(arch)):
                return f"; it is a {role} of {arch.name}"
    return ""


def _load(saved: saved_networks.SavedNetwork, network: nn.Sequential) -> dict[str, Tensor]:
    """The weights of a network that fits, under our names."""
    weights = {}
    ours = network.state_dict()
    for name, its_name in fitting.match_names(ours, saved.tensors).items():
        tensor = saved.tensors[its_name].load().to(ours[name].dtype)
        if not tensor.isfinite().all():
            raise UnfitFileError(f"{its_name} holds values that are not finite")
        weights[name] = tensor
    return weights


def _read(path: Path, max_bytes: int) -> tuple[bytes, ImportedFile]:
    try:
        data = read_file(path, max_bytes)
    except OSError as error:
        raise UnfitFileError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        raise UnfitFileError(f"{path} has more than {max_bytes // 2**20} MiB: too many for this") from None
    name = path.name.encode(errors="replace").decode()  # a name may be no valid text
    return data, ImportedFile(name=name, sha256=hashlib.sha256(data).hexdigest())
