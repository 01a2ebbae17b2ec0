"""The picture at the top of the README: a row of 16 digits of each shipped generator.

.venv/bin/python docs/make_picture.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app.generators import Generators
from app.rendering import make_grid
from models.archs import ARCHS

SEED, COLUMNS, SCALE = 0, 16, 2

generators = Generators(Path("none"), torch.device("cpu"))
generators.refresh()
rows = np.concatenate([generators.get(arch, "1").draw(range(SEED, SEED + COLUMNS)) for arch in ARCHS])
Image.fromarray(make_grid(rows, COLUMNS, SCALE)).save(Path(__file__).parent / "digits.png", optimize=True)
