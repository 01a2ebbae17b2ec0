"""Remove versions, and the seed indexes that only they have needed.

A version is renamed to a hidden name first, so no reader sees a half of it. Who has opened one of its files, or
has it in memory, goes on with that. Its number stays given (:data:`models.versions.NUMBERS`): nobody gets it again.
"""

import shutil
import uuid
from pathlib import Path

from models import files, seed_index, versions
from models.archs import ARCHS
from models.manifest import InvalidVersionError, read_manifest
from models.versions import NUMBERS, PRETRAINED, list_numbers

REMOVED = ".removed-"  # how the name of a version begins that is being removed


def remove(model_dir: Path, arch: str, version: int) -> None:
    """Remove a version of the model directory; its seed index, too, unless another version has the same weights.

    Raises:
        FileNotFoundError: there is no such version in the model directory.
        OSError: the directory cannot be written; the version is still there.
    """
    arch_dir = model_dir / arch
    folder, given = arch_dir / str(version), arch_dir / NUMBERS
    try:
        prefix = seed_index.make_prefix(read_manifest(folder))
    except (InvalidVersionError, OSError):
        prefix = None
    files.make_folder(given, exist_ok=True)
    files.make_folder(given / str(version), exist_ok=True)  # an earlier release did not record it
    files.sync(given)
    aside = arch_dir / f"{REMOVED}{version}-{uuid.uuid4().hex}"
    folder.rename(aside)
    files.sync(arch_dir)
    if prefix and (used := find_used_prefixes(model_dir)) is not None and prefix not in used:
        for path in seed_index.list_files(model_dir):
            if path.name.startswith(prefix):
                path.unlink(missing_ok=True)
    shutil.rmtree(aside, ignore_errors=True)  # what is left, `digits gc` finds


def find_used_prefixes(model_dir: Path) -> set[str] | None:
    """How the names of the seed indexes begin that some version needs; None if a manifest cannot be read.

    Shipped versions count, whether they are hidden or not.
    """
    folders = [
        root / arch / str(number)
        for root in (PRETRAINED, model_dir)
        for arch in ARCHS
        for number in list_numbers(root / arch)
        if versions.has_manifest(root / arch / str(number))
    ]
    try:
        return {seed_index.make_prefix(read_manifest(folder)) for folder in folders}
    except (InvalidVersionError, OSError):
        return None
