"""Makes the seed indexes of the shipped versions that have none. Takes ten seconds for each.

.venv/bin/python docs/make_indexes.py
"""

import torch

from app.entries import LoadedVersion
from models import seed_index, versions
from models.inference import BATCH, Inference


def main() -> None:
    for folder in sorted(versions.PRETRAINED.glob("*/*/")):
        manifest, network = versions.read_generator(folder)
        name = seed_index.make_name(manifest)
        if seed_index.load(versions.PRETRAINED, name):
            continue
        version = LoadedVersion(manifest, Inference(network, manifest.latent_shape, torch.device("cpu")))
        index = seed_index.build(version.draw, BATCH, lambda: True)
        assert index
        seed_index.save(versions.PRETRAINED, name, index)


if __name__ == "__main__":
    main()
