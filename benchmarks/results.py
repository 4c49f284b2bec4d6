"""One JSON file of results, a section a script, each with where it comes from."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import tutor
from tutor.checkpoints import write_atomically

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "benchmarks" / "results" / "cpu.json"


def save(section: str, content: dict[str, Any], command: str) -> None:
    """Replace one section of the file; numbers keep four significant digits."""
    FILE.parent.mkdir(exist_ok=True)
    everything = json.loads(FILE.read_text()) if FILE.exists() else {}
    everything[section] = {"origin": origin(command), **_rounded(content)}
    write_atomically(FILE, (json.dumps(everything, indent=1) + "\n").encode())
    print(f"\nwritten to {FILE.relative_to(ROOT)}, section {section}")


def origin(command: str) -> dict[str, Any]:
    """Command, version, commit, machine and date of this run."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "command": command,
        "version": tutor.__version__,
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_at_the_end": round(os.getloadavg()[0], 2),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor() or platform.machine()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
