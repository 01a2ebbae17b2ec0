import subprocess
import sys

import pytest
from pydantic import ValidationError

from app.settings import ApiSettings


def test_the_number_of_api_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS_API_PROCESSES", "3")
    assert ApiSettings().processes == 3


def test_its_former_name_still_works_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DIGITS_WORKERS", "2")
    assert ApiSettings().processes == 2
    assert "DIGITS_API_PROCESSES" in caplog.text
    caplog.clear()
    monkeypatch.setenv("DIGITS_API_PROCESSES", "3")
    assert ApiSettings().processes == 3
    assert caplog.text == ""


@pytest.mark.parametrize("value", ["0", "65", "many"])
def test_a_bad_number_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DIGITS_API_PROCESSES", value)
    with pytest.raises(ValidationError, match="DIGITS_API_PROCESSES"):
        ApiSettings()


@pytest.mark.parametrize(("path", "meant"), [("", ""), ("/", ""), ("digits", "/digits"), ("/a/digits/", "/a/digits")])
def test_a_prefix_may_be_written_as_one_likes(monkeypatch: pytest.MonkeyPatch, path: str, meant: str) -> None:
    monkeypatch.setenv("DIGITS_ROOT_PATH", path)
    assert ApiSettings().root_path == meant


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DIGITS_ROOT_PATH", "https://example.org"),
        ("DIGITS_ALLOWED_HOSTS", "https://example.org"),
        ("DIGITS_ALLOWED_HOSTS", "example.org:443"),
        ("DIGITS_HEADER_SECONDS", "0"),
    ],
)
def test_what_is_no_prefix_and_no_name_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("DIGITS_").lower()):
        ApiSettings()


def test_only_errors_of_settings_are_told_as_settings() -> None:
    lines = ("from app import cli", "from worker.copies import KeyCopy", "cli.cli = lambda: KeyCopy.model_validate({})")
    script = "\n".join((*lines, "cli.main()"))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, "unexpected error" in result.stderr) == (1, True)
    assert "DIGITS_" not in result.stderr
