"""The epochs of a job, as its events tell them: losses, metrics, pictures.

Must not know of HTTP or of Redis.
"""

import base64
import io
import json
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from app.rendering import Images
from worker.jobs import EPOCH, METRIC, SAMPLE, Event

T = TypeVar("T")


def list_records(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The record of each epoch, in order, as in the history of a version."""
    records: dict[int, dict[str, Any]] = {}
    metrics: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.kind == EPOCH and (record := _read(event)):
            _replace_later(records, record["epoch"], record)
        elif event.kind == METRIC and (found := _read(event)):
            metrics[found.pop("epoch")] = found
    return [{**record, "metrics": metrics.get(epoch, {})} for epoch, record in records.items()]


def list_pictures(events: Iterable[Event]) -> dict[int, str]:
    """The picture of each epoch that still has one, in order, as :func:`decode_picture` takes it."""
    pictures: dict[int, str] = {}
    for event in events:
        if event.kind == SAMPLE and (said := _read(event)) and isinstance(said.get("png"), str):
            _replace_later(pictures, said["epoch"], said["png"])
    return pictures


def decode_picture(png: str) -> Images:
    """The images in the picture of an event, ``[n, 28, 28]``, row by row. They stand there side by side.

    Raises:
        ValueError, OSError, SyntaxError: it is damaged.
    """
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        pixels = np.asarray(picture.convert("L"))
    rows, columns = (side // 28 for side in pixels.shape)
    return pixels.reshape(rows, 28, columns, 28).swapaxes(1, 2).reshape(-1, 28, 28)


def _read(event: Event) -> dict[str, Any] | None:
    """What an event says of an epoch; None if it is damaged, or of a release that says it otherwise."""
    try:
        said = json.loads(event.data)
    except ValueError:
        return None
    return said if isinstance(said, dict) and isinstance(said.get("epoch"), int) else None


def _replace_later(epochs: dict[int, T], epoch: int, value: T) -> None:
    """Add an epoch to those before it. A run that begins again replaces what a lost one had told."""
    while epochs and next(reversed(epochs)) >= epoch:
        epochs.popitem()
    epochs[epoch] = value
