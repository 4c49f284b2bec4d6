"""What holds for every test: one clear line where there is no browser."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """The Chromium of this machine: TUTOR_CHROMIUM, else the first usual name on the path."""
    found = [os.environ.get("TUTOR_CHROMIUM"), *map(shutil.which, CHROMIUM_NAMES)]
    return next(filter(None, found), None)


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """For tests marked `browser`, which run only where there is one."""
    path = find_chromium()
    assert path is not None, "mark the test with pytest.mark.browser"
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_chromium() is None:
        skip = pytest.mark.skip(
            reason="no Chromium here: apt-get install chromium, or set TUTOR_CHROMIUM to its path"
        )
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(skip)
