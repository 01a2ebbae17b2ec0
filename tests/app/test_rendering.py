import base64
import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import lines, rendering
from app.rendering import FORMATS, GUTTER_GREY, Encoder, ImpossiblePictureError, Line, Picture
from models.manifest import GENERATOR, FileSum, Manifest
from models.seed_index import SEEDS, SeedIndex
from tests.versions import origin

MANIFEST = Manifest(**origin("wgan").model_dump(), version=2, files={GENERATOR: FileSum(bytes=1, sha256="abc")})

READING = np.array([3, 1, 4, 1, 5], np.uint8), np.array([40, 80, 0, 120, 40], np.uint8)


def picture(n: int = 5, **changes: Any) -> Picture:
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)
    return Picture(images, **{"seeds": range(40, 40 + n), "manifest": MANIFEST, **changes})


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("n", "columns", "scale", "size"),
    [
        (1, None, 1, (28, 28)),
        (16, None, 1, (118, 118)),  # 4 · 28 + 3 · 2
        (5, None, 1, (88, 58)),  # 3 × 2
        (5, 5, 1, (148, 28)),
        (5, 99, 1, (148, 28)),  # no more columns than images
        (5, 1, 2, (56, 288)),  # 5 · 56 + 4 · 2
        (2, 2, 8, (450, 224)),
    ],
)
def test_the_size_of_a_grid(n: int, columns: int | None, scale: int, size: tuple[int, int]) -> None:
    assert opened(rendering.render_png(picture(n, columns=columns, scale=scale))).size == size


def test_every_pixel_of_a_grid_is_where_it_belongs() -> None:
    drawn = picture(5, scale=3)
    grid = np.asarray(opened(rendering.render_png(drawn)))
    seen = np.zeros(grid.shape, bool)
    for index, image in enumerate(drawn.images):
        top, left = index // 3 * 86, index % 3 * 86
        cell = grid[top : top + 84, left : left + 84]
        assert (cell == np.kron(image, np.ones((3, 3), np.uint8))).all()
        seen[top : top + 84, left : left + 84] = True
    assert (grid[~seen] == GUTTER_GREY).all()


def test_a_png_says_what_it_shows() -> None:
    said = opened(rendering.render_png(picture())).text  # type: ignore[attr-defined]
    assert said == {"arch": "wgan", "version": "2", "seed": "40", "sha256": "abc"}


def test_webp_is_lossless() -> None:
    drawn = picture()
    webp = np.asarray(opened(rendering.render_webp(drawn)).convert("L"))
    assert (webp == np.asarray(opened(rendering.render_png(drawn)))).all()


@pytest.mark.parametrize(
    ("media_type", "n", "columns", "scale", "bound"),
    [
        ("image/webp", 600, 600, 1, 16383),  # a row of 17,998 pixels
        ("image/webp", 1024, None, 3, 2**22),
        ("image/png", 2048, None, 8, 2**26),
        ("application/json", 2048, None, 8, 2**26),
    ],
)
def test_a_picture_that_cannot_be_is_an_error_with_the_bound(
    media_type: str, n: int, columns: int | None, scale: int, bound: int
) -> None:
    with pytest.raises(ImpossiblePictureError, match=str(bound)) as refused:
        Encoder(media_type, MANIFEST, range(n), scale, columns).require_possible()
    assert refused.value.bound == bound


@pytest.mark.parametrize("media_type", FORMATS)
def test_what_the_api_takes_at_scale_2_can_be_made_in_every_format(media_type: str) -> None:
    Encoder(media_type, MANIFEST, range(1024), 2).require_possible()


@pytest.mark.parametrize(("n", "columns", "scale"), [(1, 1, 1), (5, 2, 1), (64, None, 8), (1000, 7, 3), (33, 32, 8)])
def test_strips_make_the_whole_picture(
    n: int, columns: int | None, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "STRIP_PIXELS", 2**16)
    images = picture(n).images
    strips = list(rendering.iterate_strips(images, columns, scale))
    whole = rendering.make_grid(images, columns, scale)
    assert whole.shape == rendering.measure_grid(n, columns, scale)
    assert (np.concatenate(strips) == whole).all()
    assert all(strip.size <= max(2**16, 2 * 30 * scale * whole.shape[1]) for strip in strips)


def test_a_png_of_many_strips_is_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = picture(100, scale=2)
    at_once = rendering.render_png(drawn)
    monkeypatch.setattr(rendering, "STRIP_PIXELS", 1)
    in_strips = rendering.render_png(drawn)
    assert in_strips == at_once
    assert (np.asarray(opened(in_strips)) == rendering.make_grid(drawn.images, None, 2)).all()


def test_a_zip_holds_one_png_an_image() -> None:
    drawn = picture()
    with zipfile.ZipFile(io.BytesIO(rendering.render_zip(drawn))) as archive:
        assert archive.namelist() == [f"wgan-v2-seed{40 + i}.png" for i in range(5)]
        for index, name in enumerate(archive.namelist()):
            image = opened(archive.read(name))
            assert (np.asarray(image) == drawn.images[index]).all()
            assert image.text["seed"] == str(40 + index)  # type: ignore[attr-defined]


def test_json_holds_every_image_with_its_seed() -> None:
    drawn = picture(reading=READING)
    document = json.loads(rendering.render_json(drawn))
    assert [item["digit"] for item in document["images"]] == [3, 1, 4, 1, 5]
    assert [item["confidence"] for item in document["images"]] == [0.9, 0.99, 0.0, 0.999, 0.9]
    assert (document["arch"], document["version"], document["seed"]) == ("wgan", 2, 40)
    assert [item["seed"] for item in document["images"]] == [40, 41, 42, 43, 44]
    for index, item in enumerate(document["images"]):
        assert (np.asarray(opened(base64.b64decode(item["png"]))) == drawn.images[index]).all()


@pytest.mark.parametrize("media_type", FORMATS)
def test_the_same_picture_gives_the_same_bytes(media_type: str) -> None:
    drawn = picture(reading=READING)
    assert FORMATS[media_type].render(drawn) == FORMATS[media_type].render(picture(reading=READING))


def test_every_format_names_the_seeds_that_it_was_given() -> None:
    seeds = [7, 3, 4, 900, 12]
    document = json.loads(rendering.render_json(picture(seeds=seeds, reading=READING)))
    assert [item["seed"] for item in document["images"]] == seeds
    said = opened(rendering.render_png(picture(seeds=seeds))).text  # type: ignore[attr-defined]
    assert (said["seed"], said["seeds"]) == ("7", "7,3,4,900,12")
    with zipfile.ZipFile(io.BytesIO(rendering.render_zip(picture(seeds=seeds)))) as archive:
        assert archive.namelist()[3] == "wgan-v2-seed900.png"
        assert "seeds" not in opened(archive.read("wgan-v2-seed900.png")).text  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", [1, 3])
def test_lines_of_digits_in_every_format(scale: int) -> None:
    """Two lines of three digits."""
    images, seeds = picture(6).images, [9, 8, 7, 3, 4, 5]
    expected = lines.compose(images, 3, 2).repeat(scale, axis=1).repeat(scale, axis=2)
    files = {name: Encoder(name, MANIFEST, seeds, scale, 1, Line(3, 2), index=None)(images) for name in FORMATS}
    grid = np.asarray(opened(files["image/png"]))
    assert (np.asarray(opened(files["image/webp"]).convert("L")) == grid).all()
    assert opened(files["image/png"]).text["seeds"] == "9,8,7,3,4,5"  # type: ignore[attr-defined]
    height = expected.shape[1]
    assert (grid[:height] == expected[0]).all()
    assert (grid[height + 2 :] == expected[1]).all()
    with zipfile.ZipFile(io.BytesIO(files["application/zip"])) as archive:
        assert archive.namelist() == ["wgan-v2-seed9-8-7.png", "wgan-v2-seed3-4-5.png"]
        second = opened(archive.read("wgan-v2-seed3-4-5.png"))
        assert (np.asarray(second) == expected[1]).all()
        assert second.text["seeds"] == "3,4,5"  # type: ignore[attr-defined]
    first, last = json.loads(files["application/json"])["images"]
    assert [digit["seed"] for digit in first["digits"] + last["digits"]] == seeds
    assert (np.asarray(opened(base64.b64decode(last["png"]))) == expected[1]).all()


def test_the_index_says_what_a_digit_is() -> None:
    """Not the readers: these images are noise."""
    digits, levels = np.full(SEEDS, 3, np.uint8), np.full(SEEDS, 80, np.uint8)
    index = SeedIndex(digits, levels)
    document = json.loads(Encoder("application/json", MANIFEST, range(2), index=index)(picture(2).images))
    assert [(item["digit"], item["confidence"]) for item in document["images"]] == [(3, 0.99)] * 2
    beyond = json.loads(Encoder("application/json", MANIFEST, [1, SEEDS], index=index)(picture(2).images))
    assert [(item["digit"], item["confidence"]) for item in beyond["images"]] != [(3, 0.99)] * 2


@pytest.mark.parametrize(("length", "n", "refused"), [(32, 1, False), (32, 32, True)])
def test_lines_that_are_too_wide_are_refused_before_they_are_drawn(length: int, n: int, refused: bool) -> None:
    encoder = Encoder("image/webp", MANIFEST, range(n * length), 2, 32, Line(length, 100))
    if refused:
        with pytest.raises(ImpossiblePictureError):
            encoder.require_possible()
    else:
        encoder.require_possible()
