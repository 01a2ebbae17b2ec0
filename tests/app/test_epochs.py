import base64
import io
import json
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image

from app.curves import keep_complete
from app.epochs import decode_picture, list_pictures, list_records
from worker.jobs import Event
from worker.watch import _draw_png


def make_events(*said: tuple[str, Mapping[str, object]]) -> list[Event]:
    return [Event(f"{number}-0", kind, json.dumps(data)) for number, (kind, data) in enumerate(said, start=1)]


def test_metrics_join_the_record_of_their_epoch() -> None:
    events = make_events(
        ("queued", {}), ("epoch", {"epoch": 1, "d_loss": 2.0}), ("metric", {"epoch": 1, "fid": 9.0}),
        ("epoch", {"epoch": 2, "d_loss": 1.0}),
    )  # fmt: skip
    assert list_records(events) == [
        {"epoch": 1, "d_loss": 2.0, "metrics": {"fid": 9.0}},
        {"epoch": 2, "d_loss": 1.0, "metrics": {}},
    ]


def test_a_run_that_begins_again_replaces_the_epochs_of_the_lost_one() -> None:
    told = [1, 2, 3, 4, 2, 3, 3]
    events = make_events(
        *(("epoch", {"epoch": epoch, "try": number}) for number, epoch in enumerate(told)),
        *(("sample", {"epoch": epoch, "png": str(number)}) for number, epoch in enumerate(told)),
    )
    assert [(record["epoch"], record["try"]) for record in list_records(events)] == [(1, 0), (2, 4), (3, 6)]
    assert list_pictures(events) == {1: "0", 2: "4", 3: "6"}


def test_the_images_of_a_picture_are_those_that_the_worker_put_there() -> None:
    images = torch.randint(0, 256, (64, 28, 28), dtype=torch.uint8)
    decoded = decode_picture(base64.b64encode(_draw_png(images)).decode())
    assert (decoded == images[:16].numpy()).all()


def test_a_picture_of_any_whole_number_of_images_can_be_decoded() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((28, 84), np.uint8)).save(file, "png")
    assert decode_picture(base64.b64encode(file.getvalue()).decode()).shape == (3, 28, 28)


def test_records_that_curves_cannot_show_are_left_out() -> None:
    whole = {"epoch": 2, "d_loss": 1.0, "g_loss": 1.0, "d_real": 0.5, "d_fake": 0.5}
    assert keep_complete([{"epoch": 1}, whole]) == [whole]


def test_damaged_events_are_left_out() -> None:
    """One record that a release does not understand takes neither curves nor pictures away."""
    events = make_events(
        ("epoch", {"epoch": 1}), ("metric", {"epoch": 1, "fid": 9.0}), ("sample", {"epoch": 1, "png": "x"}),
        ("epoch", {}), ("epoch", {"epoch": "2"}), ("metric", {"fid": 1.0}), ("sample", {"epoch": 2}),
    )  # fmt: skip
    for kind in ("epoch", "metric", "sample"):
        events += [Event("9-0", kind, data) for data in ("", "[]", "null", "{")]
    assert list_records(events) == [{"epoch": 1, "metrics": {"fid": 9.0}}]
    assert list_pictures(events) == {1: "x"}
