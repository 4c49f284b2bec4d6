"""One Chromium for all tests that look at pages, and one clear line where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# The network is cut: no name can be resolved but this machine's own address.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

_without_browser = pytest.StashKey[int]()


def find_chromium() -> str | None:
    """The Chromium of this machine: TUTOR_CHROMIUM, else the first usual name on the path."""
    found = [os.environ.get("TUTOR_CHROMIUM"), *map(shutil.which, CHROMIUM_NAMES)]
    return next(filter(None, found), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """A running Chromium (a Playwright browser); tests that use it are marked `browser`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if find_chromium() is None:
        waiting = [item for item in items if "chromium" in getattr(item, "fixturenames", ())]
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason="no Chromium"))
        config.stash[_without_browser] = len(waiting)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if count := config.stash.get(_without_browser, 0):
        terminalreporter.write_line(
            f"No Chromium here, so {count} browser tests were skipped: "
            "apt-get install chromium, or set TUTOR_CHROMIUM to its path.",
            yellow=True,
        )
