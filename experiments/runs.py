"""Many runs, one row each: done once, kept, and gathered into the results after every run.

A script may be stopped and started again; it goes on with the runs that have no row yet.  With a
number on the command line it stops after that many runs: ``python -m experiments.aae_semi 2``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.record import ROOT, save_rows
from tutor.checkpoints import write_atomically

Row = Mapping[str, Any]


def same_settings(folder: Path, **settings: Any) -> None:
    """Refuse a folder of finished work that was made under other settings; stamp a new one.

    Without it a script whose rates were changed would find yesterday's weights, keep them, and
    store their figures beside today's rates.

    Raises:
        RuntimeError: if the folder is stamped with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stamp, stated = folder / "settings", json.loads(json.dumps(settings))
    if not stamp.exists():
        write_atomically(stamp, json.dumps(stated, indent=1).encode())
        return
    there = json.loads(stamp.read_text())
    for key in sorted(there.keys() | stated.keys()):
        if there.get(key) != stated.get(key):
            raise RuntimeError(
                f"{folder} holds work made with {key}={there.get(key)!r}, the script now says "
                f"{stated.get(key)!r}; move the folder away to make it again"
            )


def do_all(
    name: str, settings: Sequence[Row], run: Callable[..., Mapping[str, Any]], **facts: Any
) -> None:
    """Call ``run(**each)`` for those of ``settings`` that have no row, and store all rows.

    A row is its setting, what ``run`` returned, and the processor's seconds it took.  Rows made
    under other ``facts`` (steps, rates, sizes) are made again.
    """
    folder = ROOT / "build" / "experiments" / name / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else len(settings)
    del sys.argv[1:]  # the command that is stored with the rows is the one that makes them all
    stated = json.loads(json.dumps(facts))
    rows: dict[int, Row] = {}
    for i, setting in enumerate(settings):
        kept = folder / f"{'-'.join(map(str, setting.values()))}.json"
        if kept.exists() and (found := json.loads(kept.read_text()))["facts"] == stated:
            rows[i] = found["row"]
    for i, setting in enumerate(settings):
        if i in rows or limit <= 0:
            continue
        limit -= 1
        began = time.process_time()
        row = {**setting, **run(**setting)}
        rows[i] = {**row, "cpu_seconds": time.process_time() - began}
        print({k: v for k, v in rows[i].items() if not isinstance(v, list)}, flush=True)
        content = json.dumps({"facts": stated, "row": rows[i]}).encode()
        write_atomically(folder / f"{'-'.join(map(str, setting.values()))}.json", content)
        save_rows(name, [rows[k] for k in sorted(rows)], **facts)
