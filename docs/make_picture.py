"""The pictures at the top of the README: rows of digits of each shipped generator, by recipe.

.venv/bin/python docs/make_picture.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app.rendering import make_grid
from models import sampling, versions
from models.archs import ARCHS
from models.manifest import read_manifest

PICTURES = {"book": "book.png", "tuned": "digits.png"}  # recipe → file
COLUMNS, SCALE = 12, 2


def draw_row(arch: str, recipe: str) -> torch.Tensor:
    """``[COLUMNS, 28, 28]`` of the seeds 0, 1, 2, … by the newest shipped version of the recipe."""
    folders = sorted((versions.PRETRAINED / arch).iterdir(), key=lambda folder: int(folder.name))
    newest = [folder for folder in folders if read_manifest(folder).recipe_name == recipe][-1]
    manifest, G = versions.read_generator(newest)
    return sampling.draw(G, sampling.make_latents(range(COLUMNS), manifest.latent_shape, manifest.latents))


for recipe, name in PICTURES.items():
    rows = np.concatenate([draw_row(arch, recipe).numpy() for arch in ARCHS])
    Image.fromarray(make_grid(rows, COLUMNS, SCALE)).save(Path(__file__).parent / name, optimize=True)
