"""Whatever is killed, a sweep loses nothing, makes no run twice, and ends with the same weights.

Every run stops at a gate, so that a test strikes while it is half done and never by luck.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import tutor
from tutor import checkpoints, rows
from tutor.models import VAE

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9 and advisory locks are POSIX")

STEPS, EVERY, GATE = 120, 20, 50  # the checkpoint before the gate is at step 40
SEEDS = range(4)

SCRIPT = f"""
import hashlib, os, sys, time
from pathlib import Path
import torch, tutor
from tutor.models import VAE

class Gated(VAE):
    def step(self, x):
        self.rounds += 1
        if self.rounds == {GATE} and not self.gate.exists():
            self.gate.with_name(f"waiting-{{self.gate.name}}").write_text(str(os.getpid()))
            while not self.gate.exists():
                time.sleep(0.01)
        yield from super().step(x)

def run(seed, checkpoint):
    torch.manual_seed(seed)
    model = Gated(image_shape=(1, 4, 4))
    home = checkpoint.parents[2]
    model.rounds, model.gate = 0, home / f"gate-{{seed}}"
    data = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    tutor.fit(model, data, steps={STEPS}, batch_size=8, seed=seed, device="cpu", progress=False,
              checkpoint=checkpoint, checkpoint_every={EVERY})
    with open(home / "finished", "a") as log:
        log.write(f"{{seed}}\\n")
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return {{"rounds": model.rounds, "digest": hashlib.sha256(weights).hexdigest()}}

if __name__ == "__main__":
    how = {{"workers": int(sys.argv[2])}} if sys.argv[2].isdigit() else {{"client": sys.argv[2]}}
    grid = {{"seed": range({len(SEEDS)})}}
    table = tutor.sweep(run, grid, folder=sys.argv[1], progress=False, **how)
    print(table.to_json(orient="records"))
"""


class Stage:
    """A folder with gates, the processes started on it, and what they left."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, []
        self.script = folder / "script.py"
        self.script.write_text(SCRIPT)

    def start(self, *command: object) -> subprocess.Popen:
        """In a session of its own, which holds its workers as well; output goes to files."""
        at = len(self.started)
        with (
            open(self.folder / f"out-{at}", "w") as out,
            open(self.folder / f"err-{at}", "w") as err,
        ):
            self.started.append(
                subprocess.Popen(
                    [sys.executable, *map(str, command)],
                    stdout=out,
                    stderr=err,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
            )
        return self.started[-1]

    def sweep(self, how: object) -> subprocess.Popen:
        return self.start(self.script, self.folder / "sweep", how)

    def ended(self, process: subprocess.Popen) -> tuple[int, str, str]:
        code, at = process.wait(timeout=120), self.started.index(process)
        return code, *((self.folder / f"{kind}-{at}").read_text() for kind in ("out", "err"))

    def until(self, what: Callable[[], object]) -> None:
        """Wait for a condition; two minutes are more than any machine needs."""
        deadline = time.monotonic() + 120
        while not what():
            if time.monotonic() > deadline:
                pytest.fail("\n".join(file.read_text() for file in self.folder.glob("err-*")))
            time.sleep(0.01)

    def waiting(self) -> dict[int, int]:
        """Seed to process, of the runs at their gates."""
        found = {p.name.split("-")[-1]: p.read_text() for p in self.folder.glob("waiting-*")}
        return {int(seed): int(pid) for seed, pid in found.items() if pid}

    def until_waiting(self, *seeds: int) -> dict[int, int]:
        self.until(lambda: set(self.waiting()) == set(seeds))
        found = self.waiting()
        for seed in seeds:
            (self.folder / f"waiting-gate-{seed}").unlink()
        return found

    def open_gates(self, *seeds: int) -> None:
        for seed in seeds:
            (self.folder / f"gate-{seed}").touch()

    def finished(self) -> list[int]:
        log = self.folder / "finished"
        return sorted(map(int, log.read_text().split())) if log.exists() else []

    def check(self, sweep: subprocess.Popen) -> list[int]:
        """It ended well; each run was finished once, with the right weights. Rounds made last."""
        code, out, err = self.ended(sweep)
        assert code == 0, err
        assert self.finished() == list(SEEDS)
        table = json.loads(out)
        assert [row["seed"] for row in table] == list(SEEDS)
        assert [row["digest"] for row in table] == [undisturbed(seed) for seed in SEEDS]
        return [row["rounds"] for row in table]

    def close(self) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def stage(tmp_path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def undisturbed(seed: int) -> str:
    torch.manual_seed(seed)
    model = VAE(image_shape=(1, 4, 4))
    data = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    tutor.fit(model, data, steps=STEPS, batch_size=8, seed=seed, device="cpu", progress=False)
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


@pytest.mark.slow
def test_a_worker_is_killed_and_then_the_sweep_itself(stage):
    sweep = stage.sweep(2)
    workers = stage.until_waiting(0, 1)
    assert sweep.pid not in workers.values()
    os.kill(workers[0], signal.SIGKILL)
    # Other runs first: what had been begun when a worker died comes last.
    stage.until_waiting(2, 3)
    stage.open_gates(2)
    stage.until_waiting(0)  # taken up from the checkpoint at step 40, now at step 90
    sweep.kill()
    again = stage.sweep(1)  # while the killed sweep's workers still hold runs 0 and 3
    stage.until_waiting(1)
    stage.open_gates(*SEEDS)
    assert stage.check(again) == [STEPS - 40, STEPS - 40, STEPS, STEPS]


@pytest.mark.slow
def test_two_sweeps_on_one_folder_share_the_runs(stage):
    sweeps = [stage.sweep(1), stage.sweep(1)]
    pids = stage.until_waiting(0, 1)
    assert set(pids.values()) == {process.pid for process in sweeps}
    sweeps[0].kill()  # the other goes on with what this one leaves
    stage.open_gates(*SEEDS)
    rounds = stage.check(sweeps[1])
    assert sorted(rounds) == [STEPS - 40, STEPS, STEPS, STEPS]


def cluster(stage: Stage, name: str, workers: int) -> tuple[str, list[subprocess.Popen]]:
    """The address of a scheduler, and the processes: the scheduler, then its workers."""
    file = stage.folder / name
    quiet = ["--scheduler-file", file, "--no-dashboard"]
    scheduler = stage.start(
        "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *quiet
    )
    stage.until(lambda: file.exists() and file.read_text().endswith("}"))
    worker = ["-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *quiet]
    worker += ["--local-directory", stage.folder / "dask"]
    address = json.loads(file.read_text())["address"]
    return address, [scheduler, *(stage.start(*worker) for _ in range(workers))]


@pytest.mark.slow
def test_on_a_cluster_a_worker_is_killed_and_then_the_scheduler(stage):
    pytest.importorskip("distributed")
    address, (scheduler, worker, other) = cluster(stage, "first", 2)
    sweep = stage.sweep(address)
    stage.until(lambda: len(stage.waiting()) == 2)
    seed_of = {pid: seed for seed, pid in stage.waiting().items()}
    taken = seed_of[worker.pid]
    stage.until_waiting(*seed_of.values())
    worker.kill()
    last = seed_of[other.pid]
    rest = [seed for seed in SEEDS if seed not in (taken, last)]
    stage.open_gates(last)
    stage.until(lambda: stage.waiting())  # the other worker takes up what is left
    stage.open_gates(taken, rest[0])
    stage.until(lambda: rest[1] in stage.waiting())
    assert stage.waiting()[rest[1]] == other.pid
    scheduler.kill()
    code, out, err = stage.ended(sweep)
    assert (code, out) == (1, "")
    assert f"SweepError: the Dask scheduler at {address} was lost." in err
    assert "start the scheduler and its workers, then the sweep, again to go on" in err

    stage.open_gates(*SEEDS)
    address, _ = cluster(stage, "second", 1)
    rounds = stage.check(stage.sweep(address))
    assert rounds[taken] == STEPS - 40  # from the checkpoint, not from the start


# --- a full disk ----------------------------------------------------------------------------------


def no_space(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def small_run(seed: int, checkpoint: Path) -> dict:
    torch.manual_seed(seed)
    model, steps = VAE(image_shape=(1, 4, 4)), []
    model.encoder.register_forward_hook(lambda *_: steps.append(1))
    data = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    tutor.fit(model, data, steps=30, batch_size=8, seed=seed, device="cpu", progress=False,
              checkpoint=checkpoint, checkpoint_every=10)  # fmt: skip
    return {"rounds": len(steps)}


def small_sweep(folder: Path) -> list[int]:
    grid = {"seed": range(3)}
    return tutor.sweep(small_run, grid, folder=folder, workers=1, progress=False)["rounds"].tolist()


def test_a_disk_too_full_for_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "write_atomically", no_space)
    with pytest.raises(rows.SweepError, match="3 of 3 runs failed") as caught:
        small_sweep(tmp_path)
    assert "its row can't be written to" in str(caught.value)
    assert "No space left on device. The row is in this exception's table" in str(caught.value)
    assert caught.value.table["rounds"].tolist() == [30, 30, 30]
    monkeypatch.undo()
    assert small_sweep(tmp_path) == [0, 0, 0]  # trained before; made from the last checkpoint


def test_a_disk_too_full_for_a_checkpoint(tmp_path, monkeypatch):
    real = checkpoints.write_atomically

    def full_in_the_second_run(path: Path, payload: bytes) -> None:
        if path.parent.name == "1" and path.name == "state-000000020.safetensors":
            no_space()
        real(path, payload)

    monkeypatch.setattr(checkpoints, "write_atomically", full_in_the_second_run)
    with pytest.raises(rows.SweepError, match="1 of 3 runs failed") as caught:
        small_sweep(tmp_path)
    ((setting, text),) = caught.value.failures
    assert setting == {"seed": 1}
    assert "No space left on device. The checkpoint before it: step 10 is intact." in text
    assert caught.value.table["seed"].tolist() == [0, 2]
    monkeypatch.undo()
    assert small_sweep(tmp_path) == [30, 20, 30]


def test_a_disk_too_full_to_begin(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, _content: bytes) -> int:
            no_space()

    def opened(task: rows.Task) -> Full:
        task.folder.mkdir(exist_ok=True)
        return Full(task.begun_file, "a")

    monkeypatch.setattr(rows.Task, "_opened", opened)
    with pytest.raises(rows.SweepError, match=r"can't be begun in .*: No space left on device"):
        small_sweep(tmp_path)
    monkeypatch.undo()
    assert small_sweep(tmp_path) == [30, 30, 30]
