"""The page for instructors: its code runs, and what it says of the repository is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import tutor

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "book" / "instructors.md").read_text(encoding="utf-8")
ADDRESS = "tcp://scheduler:8786"


@pytest.mark.slow
def test_the_code_runs_and_all_machines_give_the_same_numbers(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S))
    assert code.count("2_000") == 2
    assert code.count(ADDRESS) == 1
    # The page's `run` has no module, as in a notebook.
    names: dict = {"__name__": "__main__"}
    cluster = distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    )
    with cluster:
        shorter = code.replace("2_000", "20").replace(ADDRESS, cluster.scheduler_address)
        exec(shorter, names)
    laptop = (tmp_path / "beta" / "rows").glob("*.json")
    rows = [json.loads(path.read_text())["row"] for path in sorted(laptop)]
    assert len(rows) == 6
    table = names["table"]
    for column in ("beta", "seed", "error", "kl"):
        assert table[column].tolist() == [row[column] for row in rows], column
        assert table[column].tolist() == names["table_gpu"][column].tolist(), column
    assert (
        names["verdict"].message
        == "Twice too large: the factor 1/2 in front of the sum is missing."
    )
    assert names["marks"].pop("vae.gaussian-kl") is False
    assert set(names["marks"].values()) == {None}
    points = names["TwoMoons"]()
    order = tutor.batches.BatchOrder(len(points), 8, 0)
    assert points.take(order(0)).shape == (8, 2)
    assert names["mine"].name == "mine"


def test_its_words_are_so():
    assert names_of_files(PAGE) != []
    assert [name for name in names_of_files(PAGE) if not (ROOT / name).exists()] == []
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`make ([a-z-]+)`", PAGE))
    assert targets >= {"test", "lint", "unit", "doctest", "slow", "test-notebooks", "test-book"}
    assert {name for name in targets if not re.search(rf"^{name}:", makefile, re.M)} == set()
    assert "None took longer than four minutes" in PAGE
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert json.loads(path.read_text())["metadata"]["tutor"]["seconds"] < 240, path.name
    assert "_LOADERS" in (ROOT / "src/tutor/data/__init__.py").read_text()
    for model, argument in re.findall(r"`(\w+)=` of `(\w+)`", PAGE):
        getattr(tutor.models, argument)(**{model: 2.0})


def names_of_files(page: str) -> list[str]:
    return re.findall(r"`((?:src|tests|experiments)/[\w./]*)`", page)
