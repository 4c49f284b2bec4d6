"""Runs behind the tables: each is made once, kept, and made again when its settings change."""

from __future__ import annotations

import json
import os
import sys

import pytest

from experiments import runs


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A folder of its own for the rows, and what would have gone into the results."""
    results: list[tuple[list[dict], dict]] = []
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    monkeypatch.setattr(
        runs, "save_rows", lambda name, rows, **facts: results.append((rows, facts))
    )
    monkeypatch.setattr(sys, "argv", ["script"])
    return results


SETTINGS = [{"net": "wide", "seed": seed} for seed in (0, 1, 2)]


def test_a_run_is_made_once_and_its_row_is_kept(written, monkeypatch, capsys):
    made = []

    def run(net, seed):
        made.append(seed)
        return {"error": seed / 10, "points": [1, 2]}

    monkeypatch.setattr(sys, "argv", ["script", "2"])
    runs.do_all("try", SETTINGS, run, steps=5)
    assert made == [0, 1]
    assert [len(rows) for rows, _ in written] == [1, 2]  # stored after every run
    assert sys.argv == ["script"]  # the command stored with them makes all rows
    monkeypatch.setattr(sys, "argv", ["script"])
    runs.do_all("try", SETTINGS, run, steps=5)
    assert made == [0, 1, 2]
    rows, facts = written[-1]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert rows[1]["error"] == 0.1
    assert rows[1]["cpu_seconds"] >= 0
    assert facts == {"steps": 5}
    assert "points" not in capsys.readouterr().out  # a line a run, without its lists


def test_other_facts_make_the_runs_again(written):
    made = []

    def run(net, seed):
        made.append(seed)
        return {"error": 0.0}

    runs.do_all("try", SETTINGS[:1], run, steps=5, sizes=(1, 2))
    runs.do_all("try", SETTINGS[:1], run, steps=5, sizes=(1, 2))
    assert made == [0]
    runs.do_all("try", SETTINGS[:1], run, steps=6, sizes=(1, 2))
    assert made == [0, 0]


def test_work_of_other_facts_is_set_aside_not_lost(written, tmp_path):
    def run(net, seed, checkpoint):
        assert not list(checkpoint.glob("weights"))
        (checkpoint / "weights").write_text("")
        return {"error": 0.5}

    for steps in (5, 6, 5):  # the third time, too, the old weights are not taken for today's
        runs.do_all("try", SETTINGS[:1], run, steps=steps)
        runs.do_all("try", SETTINGS[:1], run, steps=steps)
    folder = tmp_path / "build" / "experiments" / "try"
    assert sorted(p.name for p in (folder / "rows").iterdir()) == [
        "wide-0.json", "wide-0.json.old1", "wide-0.json.old2"
    ]  # fmt: skip
    assert sorted(p.name for p in (folder / "runs").iterdir()) == [
        "wide-0", "wide-0.old1", "wide-0.old2"
    ]  # fmt: skip
    assert json.loads((folder / "rows" / "wide-0.json.old2").read_text())["facts"] == {"steps": 6}


def test_several_workers_make_the_same_rows(written, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "2", "--workers", "2"])
    runs.do_all("try", SETTINGS, lambda net, seed: {"pid": os.getpid(), "twice": 2 * seed}, steps=5)
    assert sys.argv == ["script"]
    rows, _ = written[-1]
    assert [(row["seed"], row["twice"]) for row in rows] == [(0, 0), (1, 2)]
    assert os.getpid() not in {row["pid"] for row in rows}


def test_a_scheduler_is_asked_for_by_its_address(written, monkeypatch):
    asked = []
    monkeypatch.setattr(runs.tutor, "sweep", lambda *_, **how: asked.append(how), raising=False)
    monkeypatch.setattr(sys, "argv", ["script", "--scheduler", "tcp://host:8786"])
    runs.do_all("try", SETTINGS, dict, steps=5)
    assert asked[0]["client"] == "tcp://host:8786"
    assert "workers" not in asked[0]


def test_rows_come_in_the_order_of_the_settings(written, tmp_path):
    facts = {"steps": 5}
    folder = tmp_path / "build" / "experiments" / "try" / "rows"
    folder.mkdir(parents=True)
    kept = {"facts": facts, "row": {**SETTINGS[2], "error": 9.0}}
    (folder / "wide-2.json").write_text(json.dumps(kept))
    runs.do_all("try", SETTINGS, lambda net, seed: {"error": 0.0}, **facts)
    assert [row["seed"] for row in written[0][0]] == [0, 2]
    assert [row["error"] for row in written[-1][0]] == [0.0, 0.0, 9.0]
