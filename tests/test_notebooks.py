"""The notebooks that lie in the repository are whole: executed, stamped, small, tidy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import notebooks

FOLDER = Path(__file__).parent.parent / "notebooks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_stored_notebook_is_whole(path):
    assert notebooks.check([path]) == []


def test_cell_ids_differ_between_notebooks():
    shared = [p for p in notebooks.check(sorted(FOLDER.glob("*.ipynb"))) if "has the id" in p]
    assert shared == []
