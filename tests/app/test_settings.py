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
