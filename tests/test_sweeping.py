"""`tutor.sweep`: every run once, one table; bad grids, folders and results are told clearly.

What happens when something is killed, or a disk is full, is in ``test_sweep_faults.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch

import tutor
from tutor.grids import as_settings, row_name
from tutor.rows import SweepError

GRID = {"rate": [0.1, 0.2], "seed": range(3)}


def score(rate: float, seed: int) -> dict:
    return {"score": rate * seed}


@pytest.fixture
def sweep(tmp_path):
    return partial(tutor.sweep, folder=tmp_path / "sweep", workers=1, progress=False)


def counted(run=score):
    """The run, and the settings it was called with."""
    calls = []

    def counting(**setting):
        calls.append(setting)
        return run(**setting)

    return counting, calls


# --- the table ------------------------------------------------------------------------------------


def test_all_combinations_in_one_table_in_their_order(sweep):
    table = sweep(score, GRID)
    assert list(table.columns) == ["rate", "seed", "score", "cpu_seconds"]
    expected = [(rate, seed) for rate in (0.1, 0.2) for seed in (0, 1, 2)]
    assert list(zip(table["rate"], table["seed"], strict=True)) == expected
    assert table["score"].tolist() == [rate * seed for rate, seed in expected]
    assert (table["cpu_seconds"] >= 0).all()


def test_finished_runs_are_not_made_again_and_more_can_be_asked_for(sweep):
    run, calls = counted()
    first = sweep(run, GRID)
    again = sweep(run, GRID)
    assert len(calls) == 6
    assert again.equals(first)  # seconds included: nothing was made
    more = sweep(run, {"rate": [0.1, 0.2], "seed": range(4)})
    assert calls[6:] == [{"rate": 0.1, "seed": 3}, {"rate": 0.2, "seed": 3}]
    assert len(more) == 8


def test_settings_may_be_listed_and_need_not_have_the_same_names(sweep):
    def run(model, beta=1.0):
        return {"name": f"{model} {beta}"}

    table = sweep(run, [{"model": "vae"}, {"model": "beta-vae", "beta": 4.0}])
    assert table["name"].tolist() == ["vae 1.0", "beta-vae 4.0"]
    assert table["beta"].isna().tolist() == [True, False]


def test_processes_give_the_same_table(sweep, tmp_path):
    here = sweep(score, GRID).drop(columns="cpu_seconds")

    def elsewhere(rate, seed):  # a nested function, as a notebook's are
        return score(rate, seed) | {"pid": os.getpid(), "threads": torch.get_num_threads()}

    there = sweep(elsewhere, GRID, folder=tmp_path / "other", workers=2)
    assert os.getpid() not in set(there["pid"])
    assert set(there["threads"]) == {1}
    assert there[here.columns].equals(here)


def test_each_run_has_a_folder_of_its_own_for_checkpoints(sweep, tmp_path):
    def run(seed, checkpoint):
        assert checkpoint.is_dir()
        return {"folder": str(checkpoint)}

    table = sweep(run, {"seed": [0, 1]})
    runs = tmp_path / "sweep" / "runs"
    assert table["folder"].tolist() == [str(runs / "0"), str(runs / "1")]


def test_arrays_and_tensors_become_numbers_and_lists(sweep):
    def run(width):
        return {"loss": torch.tensor(0.25), "error": np.float32(0.5), "curve": np.arange(width)}

    table = sweep(run, {"width": np.array([2, 3])})
    assert table["loss"].tolist() == [0.25, 0.25]
    assert table["error"].tolist() == [0.5, 0.5]
    assert table["curve"].tolist() == [[0, 1], [0, 1, 2]]


def test_rows_are_told_as_they_come(sweep):
    seen = []
    sweep(score, {"rate": [1.0], "seed": [1]})
    sweep(
        score,
        {"rate": [1.0], "seed": range(3)},
        on_row=lambda row, rows: seen.append((row["seed"], [r["seed"] for r in rows])),
    )
    assert seen == [(0, [0, 1]), (2, [0, 1, 2])]  # the one kept before is not told again


def test_the_threads_of_this_process_are_left_alone(sweep):
    before = torch.get_num_threads()
    table = sweep(lambda seed: {"threads": torch.get_num_threads()}, {"seed": [0]})
    assert table["threads"].tolist() == [before] == [torch.get_num_threads()]


# --- runs that fail -------------------------------------------------------------------------------


def test_a_failed_run_is_told_with_its_setting_and_the_others_are_kept(sweep):
    broken = [True]

    def run(rate, seed):
        if seed == 1 and broken:
            raise ZeroDivisionError("no rate")
        return score(rate, seed)

    run, calls = counted(run)
    with pytest.raises(SweepError, match="2 of 6 runs failed") as caught:
        sweep(run, GRID)
    assert "{'rate': 0.1, 'seed': 1}:\nTraceback" in str(caught.value)
    assert "ZeroDivisionError: no rate" in str(caught.value)
    assert [setting for setting, _ in caught.value.failures] == [
        {"rate": 0.1, "seed": 1},
        {"rate": 0.2, "seed": 1},
    ]
    assert caught.value.table["seed"].tolist() == [0, 2, 0, 2]
    broken.clear()
    calls.clear()
    assert len(sweep(run, GRID)) == 6
    assert [setting["seed"] for setting in calls] == [1, 1]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "run returned None, a NoneType; expected a mapping"),
        ({1: 2}, "expected a mapping from names"),
        ({"model": torch.nn.Linear(1, 1)}, "a Linear, which can't be kept in a file"),
        ({"seed": 5}, "run returned seed=5, but the row has 'seed' already"),
        ({"cpu_seconds": 5}, "the row has 'cpu_seconds' already"),
    ],
)
def test_a_result_that_is_no_row(sweep, returned, message):
    with pytest.raises(SweepError, match="1 of 1 runs failed") as caught:
        sweep(lambda seed: returned, {"seed": [0]})
    assert message in str(caught.value)


def die(seed: int) -> dict:
    if seed == 0:
        os._exit(1)
    return {"score": seed}


@pytest.mark.slow
def test_a_run_that_kills_every_worker_is_given_up_and_the_others_are_made(sweep):
    with pytest.raises(SweepError, match="1 of 4 runs failed") as caught:
        sweep(die, {"seed": range(4)}, workers=2)
    assert "worker processes died 3 times and finished no run between" in str(caught.value)
    assert caught.value.table["score"].tolist() == [1, 2, 3]


def die_slowly(seed: int) -> dict:
    """Seed 0 kills its worker when another worker is in the middle of seed 1, every time."""
    time.sleep(1.0 if seed < 2 else 0.0)
    return die(seed) if seed == 0 else {"score": time.sleep(0.5) or seed}


@pytest.mark.slow
def test_a_run_that_dies_does_not_take_its_neighbours_with_it(sweep):
    with pytest.raises(SweepError, match="1 of 3 runs failed") as caught:
        sweep(die_slowly, {"seed": range(3)}, workers=2)
    assert caught.value.table["score"].tolist() == [1, 2]


CACHED = """
import functools, sys, tutor

@functools.cache
def data():
    return 5

def run(seed):
    return {"score": seed * data()}

if __name__ == "__main__":
    tutor.sweep(run, {"seed": [1, 2]}, folder=sys.argv[1], workers=2, progress=False)
"""


@pytest.mark.slow
def test_a_run_that_others_cannot_read_is_told_and_not_taken_for_dead_workers(tmp_path):
    """A cached function is known by its module alone, and the script is none to a worker."""
    (tmp_path / "script.py").write_text(CACHED)
    command = [sys.executable, tmp_path / "script.py", tmp_path / "sweep"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "run can't be read in another process (AttributeError: " in done.stderr
    assert "Write it to a module that every worker can import" in done.stderr
    assert "died" not in done.stderr


def test_a_run_that_cannot_be_sent_is_told_at_once(sweep):
    lock = threading.Lock()

    def run(seed):
        with lock:
            return {"score": seed}

    with pytest.raises(TypeError, match=r"run can't be sent to other processes: .*lock"):
        sweep(run, {"seed": [0]}, workers=2)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "kind", "message"),
    [
        ({}, ValueError, "there is nothing to run"),
        ([], ValueError, "there is nothing to run"),
        ({"seed": []}, ValueError, "there is nothing to run"),
        ({"seed": 3}, TypeError, r"grid has seed=3; expected the values to try, such as \[3\]"),
        ({"model": "vae"}, TypeError, r"such as \['vae'\]"),
        ("seed", TypeError, "grid is a str"),
        (5, TypeError, "grid is a int"),
        ([1, 2], TypeError, "setting 0 is 1"),
        ([{1: 2}], TypeError, "setting 0 is {1: 2}"),
        ({"seed": [0, 1, 0]}, ValueError, "settings 0 and 2 are the same: {'seed': 0}"),
        ({"seed": [1, "1"]}, ValueError, r"would be kept in one file, 1\.json"),
        ({"name": ["a", "A"]}, ValueError, r"would be kept in one file, a\.json"),
        ({"model": [tutor.models.VAE]}, TypeError, "setting 0 holds <class .*can't be kept"),
    ],
)
def test_bad_grids(sweep, grid, kind, message):
    with pytest.raises(kind, match=message):
        sweep(score, grid)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"run": "score"}, TypeError, "run is a str; expected a function"),
        ({"workers": 0}, ValueError, "workers is 0; expected at least 1"),
        ({"workers": 1.5}, TypeError, r"workers is 1\.5; expected a whole number"),
        ({"client": "tcp://host:1"}, ValueError, "give one of the two"),
        ({"client": 7, "workers": None}, TypeError, "client is a int; expected a distributed.Cl"),
        ({"facts": {"model": score}}, TypeError, "facts= holds <function score"),
        ({"run": lambda seed, checkpoint: {}, "grid": {"checkpoint": [1]}}, ValueError,
         "has a value for `checkpoint`"),
    ],
)  # fmt: skip
def test_bad_arguments(sweep, arguments, kind, message):
    with pytest.raises(kind, match=message):
        sweep(**{"run": score, "grid": GRID, **arguments})


def test_the_missing_package_is_named_with_its_extra(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'autoencoder-tutor\[sweep\]'"):
        sweep(score, GRID, workers=None, client="tcp://host:8786")


def test_workers_with_several_threads_are_refused(sweep):
    class Client:
        def submit(self):
            raise NotImplementedError

        def nthreads(self):
            return {"tcp://one:1": 1, "tcp://two:1": 4}

    with pytest.raises(ValueError, match="worker at tcp://two:1 has 4 threads"):
        sweep(score, GRID, workers=None, client=Client())


def test_work_of_other_facts_is_refused(sweep, tmp_path):
    sweep(score, GRID, facts={"steps": 5, "sizes": (1, 2)})
    sweep(score, GRID, facts={"steps": 5, "sizes": (1, 2)})
    with pytest.raises(SweepError, match="made with steps=5 in facts, this sweep has steps=6"):
        sweep(score, GRID, facts={"steps": 6, "sizes": (1, 2)})
    # A run that was begun and not finished has no row, but perhaps a checkpoint.
    (tmp_path / "sweep" / "rows" / "0.1-0.json").unlink()
    with pytest.raises(SweepError, match=r"runs.0\.1-0 holds work made with steps=5"):
        sweep(score, {"rate": [0.1], "seed": [0]}, facts={"steps": 6})


def test_rows_of_another_grid_are_refused(sweep, tmp_path):
    sweep(lambda rate: {"score": rate}, {"rate": [1, 2]})
    with pytest.raises(SweepError, match="made with beta=None in its setting, this sweep has"):
        sweep(lambda beta: {"score": beta}, {"beta": [1, 2]})


def test_a_damaged_row_is_told(sweep, tmp_path):
    sweep(score, GRID)
    row = tmp_path / "sweep" / "rows" / "0.2-1.json"
    row.write_text(row.read_text()[:20])
    with pytest.raises(SweepError, match=r"0\.2-1\.json is damaged .*delete it to make that run"):
        sweep(score, GRID)


def test_a_folder_that_cannot_be_written(sweep, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SweepError, match="rows can't be written to"):
        sweep(score, GRID, folder=tmp_path / "file" / "sweep")


def test_names_of_files():
    assert row_name({"model": "images, moved by one pixel", "seed": 0}) == (
        "images, moved by one pixel-0"
    )
    odd = [{"path": "a/b"}, {"path": "a:b"}, {"path": ""}, {"path": "." * 3}, {"path": "x" * 300}]
    names = [row_name(setting) for setting in odd]
    assert len(set(names)) == len(odd)
    for name in names:
        assert name
        assert not name.startswith(".")
        assert len(name) <= 110
        assert "/" not in name


def test_a_row_is_what_it_was_before_sweeps_kept_it(sweep, tmp_path):
    """Files of this form lie on the disks of those who ran the experiments."""
    rows = tmp_path / "sweep" / "rows"
    rows.mkdir(parents=True)
    row = {"rate": 0.1, "seed": 0, "score": 7.0, "cpu_seconds": 1.5}
    (rows / "0.1-0.json").write_text(json.dumps({"facts": {"steps": 5}, "row": row}))
    run, calls = counted()
    table = sweep(run, {"rate": [0.1], "seed": [0, 1]}, facts={"steps": 5})
    assert table["score"].tolist() == [7.0, 0.1]
    assert calls == [{"rate": 0.1, "seed": 1}]
    made = json.loads((rows / "0.1-1.json").read_text())
    assert made.keys() == {"facts", "row"}
    assert made["row"].keys() == row.keys()


def test_as_settings_reads_iterators_once():
    assert as_settings({"a": iter([1, 2]), "b": (x for x in "xy")}) == [
        {"a": a, "b": b} for a in (1, 2) for b in "xy"
    ]
