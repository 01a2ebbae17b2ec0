"""A service that asks for keys: the page asks for one, keeps it, and says when it is good no more."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from app.keys import Scope, add_key, revoke_key
from tests.browser.conftest import Visitor, visiting
from tests.browser.test_views import find_violations
from tests.processes import eventually, running_api


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def guarded(tmp_path: Path, keys_file: Path, chromium: Browser) -> Iterator[tuple[Visitor, str]]:
    """A visitor, and a key that may only draw."""
    key = add_key(keys_file, "class-3b", frozenset([Scope.DRAW]))
    environment = {"DIGITS_KEYS_FILE": str(keys_file), "DIGITS_MODEL_DIR": str(tmp_path / "models")}
    with running_api(tmp_path, **environment) as api, visiting(chromium, api.base_url, may_lose=True) as visitor:
        yield visitor, key


def test_a_visitor_logs_in_draws_and_logs_out(guarded: tuple[Visitor, str]) -> None:
    visitor, key = guarded
    page = visitor.open("?seed=3&n=4")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert find_violations(page) == []
    page.keyboard.type(key[:-1])  # the field has the focus
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not copied as a whole")
    assert find_violations(page) == []
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    expect(page.locator(".cells button")).to_have_count(4)  # what was asked for first
    expect(page.locator("header")).to_contain_text("Logged in as class-3b")
    assert find_violations(page) == []
    assert page.evaluate("document.cookie") == ""  # no script can read it
    page.get_by_role("link", name="Train").click()
    expect(page.get_by_role("alert")).to_contain_text("may not train")
    page.get_by_role("button", name="Log out").click()
    page.goto("compare")
    expect(page).to_have_url(re.compile(r"/login\?next="))


def test_a_link_from_another_site_needs_no_other_login(guarded: tuple[Visitor, str]) -> None:
    """The cookie is not sent with the first request: it comes from the other site."""
    visitor, key = guarded
    page = visitor.open("")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Log in").click()
    here = page.url
    expect(page.locator("header")).to_contain_text("Logged in as class-3b")
    page.goto(f"data:text/html,<a href='{here}compare?seed=3'>digits</a>")
    page.get_by_role("link").click()
    expect(page).to_have_url(f"{here}compare?seed=3")
    expect(page.locator("header")).to_contain_text("Logged in as class-3b")


def test_a_key_that_is_revoked_is_told(guarded: tuple[Visitor, str], keys_file: Path) -> None:
    visitor, key = guarded
    page = visitor.open("?seed=3&n=4")
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator(".cells button")).to_have_count(4)
    revoke_key(keys_file, "class-3b")

    def is_refused() -> bool:
        page.get_by_role("button", name="New digits").click()
        return "The key is not good any more" in page.locator("#notice").inner_text()

    eventually(is_refused, "the page says so")


def test_without_scripts(guarded: tuple[Visitor, str]) -> None:
    visitor, key = guarded
    page = visitor.open("?seed=3&n=4", java_script_enabled=False)
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("header")).to_contain_text("Logged in as class-3b")
