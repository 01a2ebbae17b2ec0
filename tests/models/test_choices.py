import os
from pathlib import Path

import pytest

from models import choices, versions
from models.choices import PIN, InvalidPinError
from tests.versions import SHIPPED, publish


def test_a_pin_is_read_as_it_was_written_until_it_is_taken_away(tmp_path: Path) -> None:
    assert choices.read_pin(tmp_path, "wgan") is None
    choices.pin(tmp_path, "wgan", None)  # there is none
    choices.pin(tmp_path, "wgan", 1)
    choices.pin(tmp_path, "wgan", 3)
    assert [choices.read_pin(tmp_path, arch) for arch in ("wgan", "dcgan")] == [3, None]
    choices.pin(tmp_path, "wgan", None)
    assert choices.read_pin(tmp_path, "wgan") is None
    assert os.listdir(tmp_path / "wgan") == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"version": "3"}', '{"version": true}', '{"version": 0}', "[" * 900]
)
def test_a_damaged_pin_is_said(tmp_path: Path, content: str) -> None:
    choices.pin(tmp_path, "wgan", 1)
    (tmp_path / "wgan" / PIN).write_text(content)
    with pytest.raises(InvalidPinError, match=PIN):
        choices.read_pin(tmp_path, "wgan")


def test_a_shipped_version_is_hidden_and_shown(tmp_path: Path) -> None:
    before = versions.find_folders(tmp_path)
    for _ in range(2):
        choices.hide(tmp_path, "wgan", 1)
        assert set(before) - set(versions.find_folders(tmp_path)) == {("wgan", 1)}
        assert choices.list_hidden(tmp_path, "wgan") == [1]
    for _ in range(2):
        choices.show(tmp_path, "wgan", 1)
        assert versions.find_folders(tmp_path) == before
    assert choices.list_hidden(tmp_path, "wgan") == []


def test_a_hidden_number_is_given_to_nobody(tmp_path: Path) -> None:
    for number in SHIPPED["wgan"]:
        choices.hide(tmp_path, "wgan", number)
    assert publish(tmp_path, "wgan").version == max(SHIPPED["wgan"]) + 1
