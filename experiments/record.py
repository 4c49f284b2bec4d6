"""Write an experiment's rows, with where they come from, to where the package ships them.

`tutor.pretrained.results(name)` reads them back, in a clone and in an installed package alike.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import tutor
from tutor.checkpoints import write_atomically

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "src" / "tutor" / "results"


def origin() -> dict[str, Any]:
    """Version, commit, machine and date of this run."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "command": " ".join([f"python -m experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "version": tutor.__version__,
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": _machine(),
        "date": datetime.date.today().isoformat(),
    }


def save_rows(name: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Numbers are kept to six significant digits: more would be noise in the diff."""
    RESULTS.mkdir(exist_ok=True)
    content = {"origin": origin(), **facts, "rows": [_rounded(row) for row in rows]}
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(RESULTS / f"{name}.json", text.encode())


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0].strip() if models else cpu
    return f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"
