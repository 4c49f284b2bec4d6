"""Without Chromium the browser tests are skipped, and one line says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PAGES = """
import pytest

pytestmark = pytest.mark.browser

@pytest.mark.parametrize("page", range(3))
def test_in_the_browser(chromium, page):
    raise AssertionError("there is no browser to ask")

def test_as_plain_html():
    pass
"""


def run(folder: Path, **environment: str) -> str:
    shutil.copy(ROOT / "conftest.py", folder)
    (folder / "test_pages.py").write_text(PAGES)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = browser: needs Chromium\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout


def test_without_chromium_one_line_says_what_was_skipped(tmp_path):
    shown = run(tmp_path, PATH=str(tmp_path))
    assert "1 passed, 3 skipped" in shown
    lines = [line for line in shown.splitlines() if "Chromium" in line]
    assert len(lines) == 1
    assert "3 browser tests were skipped: apt-get install chromium" in lines[0]


def test_with_chromium_nothing_is_skipped(tmp_path):
    shown = run(tmp_path, PATH=str(tmp_path), TUTOR_CHROMIUM=str(tmp_path / "not-a-browser"))
    assert "skipped" not in shown
    assert "1 passed" in shown
