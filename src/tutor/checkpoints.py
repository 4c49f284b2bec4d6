"""Checkpoints that survive anything: two files, written atomically, no pickle.

``state-<step>.safetensors`` holds the weights, the optimisers' moments and the state of the random
streams.  ``checkpoint.json`` names that file with its SHA-256 and holds the counters.  The JSON is
replaced in one operation after the tensors are safely on disk, so whatever moment the process
dies, the folder holds one whole checkpoint.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer

from tutor.history import Recorder

FORMAT = 2


class CheckpointError(RuntimeError):
    """A checkpoint that can't be written, is damaged, in use, or belongs to another run."""


class Checkpoint:
    """One run's checkpoint folder; a context manager that holds the folder for this process.

    Args:
        folder: made when missing.
        model, optimizers: whose state is kept.
        device: whose random stream is kept, beside the CPU's.
        run: settings that must be the same when the run is taken up again.

    Raises:
        CheckpointError: if the folder can't be written or another process trains in it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        model: nn.Module,
        optimizers: Mapping[str, Optimizer],
        device: torch.device,
        run: Mapping[str, Any],
    ) -> None:
        self.folder = Path(folder).expanduser()
        self.model, self.optimizers, self.device = model, optimizers, device
        self.run = dict(run)
        self.last_step: int | None = None
        self._lock: Any = None

    def __enter__(self) -> Checkpoint:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a")
            room = 3 * sum(
                t.numel() * t.element_size()
                for t in self.model.state_dict().values()
                if isinstance(t, Tensor)
            )
            write_atomically(self.folder / "writable", bytes(room))  # fail now, not after an hour
            (self.folder / "writable").unlink()
        except OSError as error:
            if self._lock is not None:
                self._lock.close()
            raise CheckpointError(
                f"checkpoints can't be written to {self.folder}: {error.strerror}; "
                "choose a folder on a disk with space that you may write to"
            ) from error
        try:
            import fcntl
        except ImportError:  # Windows: no advisory lock, so nothing guards against a second run
            self._sweep()
            return self
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise CheckpointError(
                f"another process is training in {self.folder}; "
                "wait for it, or give this run a folder of its own"
            ) from error
        except OSError:  # a network disk (Google Drive in Colab) without locks: as on Windows
            pass
        self._sweep()
        return self

    def _sweep(self) -> None:
        """Remove what a killed process left half-written."""
        for ours in ("checkpoint.json", "writable", "state-" + "[0-9]" * 9 + ".safetensors"):
            for leftover in self.folder.glob(f"{ours}.*.part"):
                leftover.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()  # the system also drops the lock when the process is killed

    def write(self, step: int, recorder: Recorder) -> None:
        """Save everything at ``step``; the previous checkpoint stays until this one is whole."""
        tensors, numbers = self._collect()
        payload = tensors_to_bytes(tensors)
        name = f"state-{step:09d}.safetensors"
        meta = {
            "format": FORMAT,
            "step": step,
            "model": type(self.model).__name__,
            "described": str(self.model),
            "run": self.run,
            "tensors": {
                "file": name,
                "bytes": len(payload),
                "sha256": hashlib.sha256(payload).hexdigest(),
            },
            "optimizer_numbers": numbers,
            "recorder": recorder.state(),
            "optimizers": {p: type(o).__name__ for p, o in self.optimizers.items()},
            "torch": torch.__version__,
        }
        try:
            write_atomically(self.folder / name, payload)
            write_atomically(self.folder / "checkpoint.json", json.dumps(meta).encode())
        except OSError as error:
            kept = "none is kept" if self.last_step is None else f"step {self.last_step} is intact"
            raise CheckpointError(
                f"the checkpoint at step {step} could not be written to {self.folder}: "
                f"{error.strerror}. The checkpoint before it: {kept}. Make room, then call fit "
                "again with the same arguments to go on."
            ) from error
        self.last_step = step
        for old in self.folder.glob("state-" + "[0-9]" * 9 + ".safetensors"):
            if old.name != name:
                old.unlink()

    def restore(self, recorder: Recorder) -> int:
        """Load the folder's checkpoint, if there is one, and return its step (else 0)."""
        path = self.folder / "checkpoint.json"
        if not path.exists():
            return 0
        meta, tensors = self._read(path)
        self._check_same_run(meta, tensors)
        self.model.load_state_dict(_under(tensors, "model/"))
        for player, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Any]] = {}
            for key, value in _under(tensors, f"optimizer/{player}/").items():
                index, name = key.split("/", 1)
                state.setdefault(int(index), {})[name] = value
            for index, pairs in meta["optimizer_numbers"].get(player, {}).items():
                state.setdefault(int(index), {}).update(pairs)
            # Learning rates and the like come from the caller, not from the file.
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})
            _lay_out_like_parameters(optimizer)
        torch.set_rng_state(tensors["rng/cpu"])
        if "rng/cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng/cuda"], self.device)
        recorder.load_state(meta["recorder"])
        self.last_step = int(meta["step"])
        return self.last_step

    def _collect(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        numbers: dict[str, dict[str, dict[str, Any]]] = {}
        for player, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    if isinstance(value, Tensor):
                        tensors[f"optimizer/{player}/{index}/{name}"] = value
                    else:
                        numbers.setdefault(player, {}).setdefault(str(index), {})[name] = value
        tensors["rng/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        # Copies: tied weights share memory, which the file format refuses.
        return {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}, numbers

    def _read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        again = "restore the folder from a copy, or delete it to train from the start"
        try:
            meta = json.loads(path.read_text())
            file = self.folder / meta["tensors"]["file"]
            expected_bytes, expected_hash = meta["tensors"]["bytes"], meta["tensors"]["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); {again}") from error
        missing = {"step", "model", "run", "recorder", "optimizer_numbers"} - meta.keys()
        if missing:
            raise CheckpointError(f"{path} is damaged (it lacks {sorted(missing)}); {again}")
        if meta.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} has format {meta.get('format')}, this version of tutor reads {FORMAT}; "
                "use the version that wrote it, or delete the folder"
            )
        try:
            payload = file.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{file} can't be read: {error.strerror}; {again}") from error
        if len(payload) != expected_bytes:
            raise CheckpointError(
                f"{file} is truncated: {len(payload)} of {expected_bytes} bytes; {again}"
            )
        if hashlib.sha256(payload).hexdigest() != expected_hash:
            raise CheckpointError(f"{file} does not match its SHA-256, it was altered; {again}")
        return meta, tensors_from_bytes(payload)

    def _check_same_run(self, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        kept = {k: tuple(v.shape) for k, v in _under(tensors, "model/").items()}
        here = {k: tuple(v.shape) for k, v in self.model.state_dict().items()}
        if meta["model"] != type(self.model).__name__ or kept != here:
            differing = sorted(k for k in kept.keys() | here.keys() if kept.get(k) != here.get(k))
            first = ""
            if differing:
                k = differing[0]
                first = f"; {k!r} is {kept.get(k, 'absent')} there and {here.get(k, 'absent')} here"
            raise CheckpointError(
                f"{self.folder} holds a checkpoint of another model: a {meta['model']}, "
                f"this is a {type(self.model).__name__}{first}. Choose another folder."
            )
        there, here = meta["described"].splitlines(), str(self.model).splitlines()
        for a, b in itertools.zip_longest(there, here, fillvalue="nothing"):
            if a != b:
                raise CheckpointError(
                    f"{self.folder} holds a checkpoint of another {meta['model']}: it has "
                    f"{a.strip()!r} where this one has {b.strip()!r}. Choose another folder."
                )
        using = {player: type(o).__name__ for player, o in self.optimizers.items()}
        if meta["optimizers"] != using:
            raise CheckpointError(
                f"the checkpoint in {self.folder} was made with the optimisers "
                f"{meta['optimizers']}, this run has {using}; use the same, or another folder"
            )
        for name, value in self.run.items():
            if meta["run"].get(name) != value:
                raise CheckpointError(
                    f"the checkpoint in {self.folder} was made with {name}="
                    f"{meta['run'].get(name)}, this run has {name}={value}; "
                    "use the same settings, or another folder"
                )


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that, whatever happens, it is either absent, old, or whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Moments in the memory order of their weights (channels last, perhaps), as they were made.

    A fused optimiser walks through memory and would otherwise pair a weight with the moments of
    another.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
