"""``digits import`` and ``digits import-samples``: make versions of what others have trained."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.audit import audit_command
from app.cli.console import ArchOption, err, fail, out
from worker.settings import Settings

commands = typer.Typer()


class Latents(StrEnum):
    """The rows of models.sampling.LATENTS; that module is too heavy to be imported for ``--help``."""

    UNIFORM = "uniform"
    NORMAL = "normal"
    MIXTURE = "mixture"


@commands.command("import", epilog="Example: `digits import wgan_gen.pt --arch wgan --discriminator wgan_disc.pt`")
def import_networks(
    generator: Annotated[Path, typer.Argument(help="A file of torch.save: a whole network, or its state_dict().")],
    arch: ArchOption,
    discriminator: Annotated[Path | None, typer.Option(help="The same of the discriminator, if it is there.")] = None,
    latents: Annotated[Latents, typer.Option(help="The latents that it was trained with.")] = Latents.UNIFORM,
) -> None:
    """Make a new version of a generator that was trained elsewhere.

    Its layers must be those of the architecture. Nothing in the file is run.
    """
    from models import importing, measuring, metrics, mnist, publishing
    from models.pickles import UnfitFileError

    settings = Settings()
    try:
        networks = importing.read_networks(arch, generator, discriminator)
        publishing.require_writable(settings.model_dir, arch)
        test_images, test_sha256 = measuring.load_test(settings.data_dir)
        measure = measuring.make_measure(networks.arch.latent_shape, latents, test_images)
        err.print(f"measuring {metrics.IMAGES:,} images")
        manifest = importing.publish_networks(
            settings.model_dir, networks, latents=latents, measure=measure, test_sha256=test_sha256
        )
    except (UnfitFileError, mnist.DatasetError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot publish to {settings.model_dir}: {error}")
    audit_command("import", arch=arch, version=manifest.version, file=str(generator))
    folder = settings.model_dir / arch / str(manifest.version)
    out.print(f"imported {generator} as {arch} version {manifest.version} in {folder}", soft_wrap=True)


@commands.command(epilog="Example: `digits import-samples wgan_samples.pkl --arch wgan`")
def import_samples(
    samples: Annotated[Path, typer.Argument(help="A pickled list of numpy arrays: the images after each epoch.")],
    arch: ArchOption,
    version: Annotated[int | None, typer.Option(min=1, help="An imported one. Default: the newest of them.")] = None,
) -> None:
    """Make a new version of an imported one, with the images that were drawn during its training.

    Versions never change, so the imported one stays as it is. `digits samples` shows the images. Nothing in the
    file is run.
    """
    from models import importing
    from models.manifest import InvalidVersionError
    from models.pickles import UnfitFileError

    settings = Settings()
    try:
        folder = importing.find_imported(settings.model_dir, arch, version)
        manifest = importing.publish_samples(settings.model_dir, folder, samples)
    except (UnfitFileError, importing.NotImportedError, InvalidVersionError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot publish to {settings.model_dir}: {error}")
    audit_command("import-samples", arch=arch, version=manifest.version, file=str(samples))
    shown = f"the weights of version {folder.name} and the images of {manifest.epochs} epochs"
    out.print(f"imported {samples} as {arch} version {manifest.version}: {shown}", soft_wrap=True)
