"""Many runs, one row each: done once, kept, and gathered into the results after every run.

A script may be stopped and started again; it goes on with the runs that have no row yet.

    python -m experiments.aae_semi                  # one run after another, in this process
    python -m experiments.aae_semi 2                # the next two
    python -m experiments.aae_semi --workers 2      # two at a time, each with one thread
    python -m experiments.aae_semi --scheduler tcp://host:8786

The last line sends the runs to a Dask cluster whose machines see this repository under one path.
Its workers are started in the repository, so that they find ``experiments``, with one thread each:
``PYTHONPATH=. dask worker --nthreads 1 tcp://host:8786``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tutor
from experiments.record import ROOT, save_rows
from tutor.grids import as_json, row_name

Row = Mapping[str, Any]


def do_all(
    name: str, settings: Sequence[Row], run: Callable[..., Mapping[str, Any]], **facts: Any
) -> None:
    """Call ``run(**each)`` for those of ``settings`` that have no row, and store all rows.

    A row is its setting, what ``run`` returned, and the processor's seconds it took.  Rows made
    under other ``facts`` (steps, rates, sizes) are set aside and made again.
    """
    folder = ROOT / "build" / "experiments" / name
    asked = _command_line()
    stated = as_json(facts, "facts")
    missing = [setting for setting in settings if not _has_row(folder, setting, stated)]
    later = [] if asked.runs is None else missing[asked.runs :]
    wanted = [setting for setting in settings if setting not in later]
    if not wanted:
        return

    def store(row: Row, rows: list[Row]) -> None:
        print({k: v for k, v in row.items() if not isinstance(v, list)}, flush=True)
        save_rows(name, rows, **facts)

    how = {"client": asked.scheduler} if asked.scheduler else {"workers": asked.workers}
    tutor.sweep(run, wanted, folder=folder, facts=facts, on_row=store, **how)


def _command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the runs that have no row yet.")
    parser.add_argument("runs", type=int, nargs="?", help="stop after so many")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, default=1, help="processes on this machine")
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster: tcp://host:8786")
    asked = parser.parse_args()
    del sys.argv[1:]  # the command that is stored with the rows is the one that makes them all
    return asked


def _has_row(folder: Path, setting: Row, facts: Any) -> bool:
    """Whether there is a row of these facts; one of others is set aside, and its run's folder."""
    row, begun = folder / "rows" / f"{row_name(setting)}.json", folder / "runs" / row_name(setting)
    there = [file for file in (row, begun / "begun.json") if file.exists()]
    if any(json.loads(file.read_text())["facts"] != facts for file in there):
        for path in filter(Path.exists, (row, begun)):
            path.rename(_free(path))
        return False
    return row in there


def _free(path: Path) -> Path:
    """A name beside the path's that nothing has yet."""
    names = (path.with_name(f"{path.name}.old{i}") for i in itertools.count(1))
    return next(name for name in names if not name.exists())
