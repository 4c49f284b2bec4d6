"""tools/notebooks.py: running notebooks in place, and finding what is wrong with stored ones."""

from __future__ import annotations

import base64
import copy
import io
import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tools import notebooks

INSTALL = "import importlib.util\nif importlib.util.find_spec('tutor') is None:\n    %pip install x"
PICTURE = """\
class Live:
    def _repr_mimebundle_(self, **_):
        import os
        return {
            "application/vnd.jupyter.widget-view+json": {"model_id": "abc", "version_major": 2},
            "text/html": "<p>static=" + os.environ.get("TUTOR_STATIC_WIDGETS", "no") + "</p>",
            "text/plain": "Live()",
        }
Live()"""


def save(path: Path, *cells) -> Path:
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> tuple[Path, dict]:
    """One notebook, run once: a kernel takes seconds to start."""
    path = save(
        tmp_path_factory.mktemp("run") / "07_small.ipynb",
        new_markdown_cell("# Title"),
        new_code_cell(INSTALL.replace("%pip install x", "raise SystemExit"), id="will-change"),
        new_code_cell("import sys\nprint('out')\nprint('a word of warning', file=sys.stderr)"),
        new_code_cell("from tqdm import trange\nfor _ in trange(3): pass\nsum(range(5))"),
        new_code_cell("object()"),
        new_code_cell(PICTURE),
    )
    notebooks.execute(path)
    return path, json.loads(path.read_text())


def test_outputs_are_written_back(executed):
    _, notebook = executed
    cells = notebook["cells"]
    assert [cell.get("execution_count") for cell in cells] == [None, 1, 2, 3, 4, 5]
    assert cells[2]["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["out\n"]}]
    assert [output["data"] for output in cells[3]["outputs"]] == [{"text/plain": ["10"]}]


def test_nothing_volatile_stays(executed):
    _, notebook = executed
    streams = [o.get("name") for cell in notebook["cells"] for o in cell.get("outputs", [])]
    assert "stderr" not in streams
    assert notebook["cells"][4]["outputs"][0]["data"]["text/plain"] == ["<object at 0x...>"]
    assert "widgets" not in notebook["metadata"]
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert all("execution" not in cell["metadata"] for cell in notebook["cells"])


def test_a_widget_keeps_its_own_html_and_loses_its_dead_view(executed):
    _, notebook = executed
    data = notebook["cells"][5]["outputs"][0]["data"]
    assert data == {"text/html": ["<p>static=1</p>"], "text/plain": ["Live()"]}


def test_ids_come_from_the_name_and_the_position(executed):
    _, notebook = executed
    ids = [cell["id"] for cell in notebook["cells"]]
    assert ids == [f"07-small-{number:03d}" for number in range(1, 7)]


def test_the_stamp_says_where_the_outputs_come_from(executed):
    _, notebook = executed
    stamp = notebook["metadata"]["tutor"]
    assert set(stamp) == {
        "version", "python", "torch", "dataset", "device", "seconds", "date", "commit",
    }  # fmt: skip
    assert stamp["version"] == "0.1.0"
    assert stamp["torch"] is None, "the notebook did not import torch"
    assert stamp["dataset"] == "", "the notebook loaded no data set"
    assert 0 <= stamp["seconds"] < 120
    assert not any("_json.dumps" in "".join(cell["source"]) for cell in notebook["cells"])


def test_what_execute_wrote_passes_check(executed):
    path, _ = executed
    # its install cell lacks the word pip only because the test must not install anything
    assert notebooks.check([path]) == [
        "07_small.ipynb: cell 2: the first code cell must install tutor where it is missing"
    ]


def test_a_failing_cell_leaves_the_file_as_it_was(tmp_path, capsys):
    path = save(tmp_path / "bad.ipynb", new_code_cell("1 / 0"))
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        notebooks.execute(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_only_progress_bars_pass_without_complaint():
    def stderr(text):
        return new_code_cell("", outputs=[new_output("stream", name="stderr", text=text)])

    bar = "\r 50%|#####     | 5/10 [00:01<00:01,  4.9it/s]\r100%|####| 10/10 [00:02<00:00, 5it/s]\n"
    notebook = new_notebook(cells=[stderr(bar), stderr(bar + "UserWarning: check this\n")])
    assert list(notebooks.complaints(notebook)) == [(2, "UserWarning: check this")]


# --- check: a good notebook, then one fault at a time ---------------------------------------------


def good() -> dict:
    return {
        "cells": [
            {"cell_type": "markdown", "id": "x-001", "metadata": {}, "source": ["# Title"]},
            {
                "cell_type": "code",
                "id": "x-002",
                "metadata": {},
                "execution_count": 1,
                "source": INSTALL.splitlines(keepends=True),
                "outputs": [{"output_type": "stream", "name": "stdout", "text": ["fine\n"]}],
            },
        ],
        "metadata": {"tutor": {"version": "0.1.0"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def problems(tmp_path: Path, notebook: dict) -> list[str]:
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(notebook))
    return notebooks.check([path])


def picture(text: str) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": [text]}}


FAULTS = {
    "lines of code, more than 20": lambda nb: nb["cells"][1].update(source=["x = 1\n"] * 21),
    "must install tutor": lambda nb: nb["cells"][1].update(source=["import torch"]),
    "no stamp": lambda nb: nb["metadata"].pop("tutor"),
    "was not executed": lambda nb: nb["cells"][1].update(execution_count=None),
    "has no outputs": lambda nb: nb["cells"][1].update(outputs=[]),
    "has no code cell": lambda nb: nb["cells"].pop(),
    "has the id 'x-001' of x.ipynb, cell 1": lambda nb: nb["cells"][1].update(id="x-001"),
    "not a valid notebook": lambda nb: nb["cells"][1].pop("metadata"),
    "is the error ValueError": lambda nb: nb["cells"][1]["outputs"].append(
        {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    ),
    "path of one machine: /home/": lambda nb: nb["cells"][1]["outputs"].append(
        picture("<p>" + "/home/" + "somebody/notebook.py</p>")
    ),
    "MB, more than 1.5 MB": lambda nb: nb["cells"][1]["outputs"].append(picture("a" * 1_500_000)),
}


def test_a_good_notebook_has_no_problems(tmp_path):
    assert problems(tmp_path, good()) == []


@pytest.mark.parametrize("message", FAULTS)
def test_each_fault_is_found(tmp_path, message):
    notebook = copy.deepcopy(good())
    FAULTS[message](notebook)
    found = problems(tmp_path, notebook)
    assert any(message in problem for problem in found), found


def test_paths_inside_encoded_pictures_and_addresses_are_no_paths():
    encoded = "A" * 150 + "/home/" + "B" * 150
    url = "https://example.org/home/" + "page"
    assert notebooks.absolute_path(picture(encoded + " " + url)) is None


def test_two_notebooks_may_not_share_an_id(tmp_path):
    for name in ("a.ipynb", "b.ipynb"):
        (tmp_path / name).write_text(json.dumps(good()))
    found = notebooks.check(sorted(tmp_path.iterdir()))
    assert len(found) == 2
    assert "b.ipynb, cell 1: has the id 'x-001' of a.ipynb, cell 1" in found[0]


def test_main_reports_and_fails(tmp_path, capsys):
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(good()))
    assert notebooks.main(["check", str(path)]) == 0
    path.write_text(json.dumps(good() | {"metadata": {}}))
    assert notebooks.main(["check", str(path)]) == 1
    assert "no stamp" in capsys.readouterr().err


def test_pictures_are_stored_in_fewer_bytes_and_look_the_same():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3))
    figure.add_subplot().plot([1, 3, 2], color="#5a0fff")
    raw = io.BytesIO()
    figure.savefig(raw)
    before = base64.b64encode(raw.getvalue()).decode()
    after = notebooks.smaller_png(before)
    assert len(after) < 0.7 * len(before)
    a, b = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), dtype=int)
        for png in (before, after)
    )
    # 256 colours for the few dozen of a line plot and its smoothed edges: hardly a step apart
    assert np.abs(a - b).max() <= 8
    assert notebooks.smaller_png(after) == after
