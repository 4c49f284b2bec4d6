"""Where to compute, and a random stream of its own for what is computed there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant by a name; ``"auto"`` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        RuntimeError: if the device is not there.
        ValueError: if the name means nothing here.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        where = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'device is {device!r}; expected "auto", "cpu", "cuda", "cuda:1" or "mps"'
        ) from error
    if where.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f'device is {str(where)!r}; fit knows "cpu", "cuda" and "mps"')
    missing = {
        "cuda": not torch.cuda.is_available(),
        "mps": not torch.backends.mps.is_available(),
    }
    if missing.get(where.type, False):
        raise RuntimeError(
            f"device {str(device)!r} was asked for, but this machine (or this build of torch) has "
            'none; use device="auto" or device="cpu"'
        )
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise RuntimeError(
            f"device {str(device)!r} was asked for, this machine has "
            f"{torch.cuda.device_count()} CUDA device(s), numbered from 0"
        )
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    return where


def budget(*, cpu: T, gpu: T) -> T:
    """The number meant for this machine: ``gpu`` where fit would train on one, else ``cpu``.

    Example:
        >>> budget(cpu=1_000, gpu=20_000) in (1_000, 20_000)
        True
    """
    return cpu if resolve_device("auto").type == "cpu" else gpu


_looking = True


@contextlib.contextmanager
def without_looks() -> Iterator[None]:
    """In the block nobody checks values that lie on a GPU: each look makes the host wait for it.

    `tutor.fit` plays all rounds but the first one of a run in such a block.

    Example:
        >>> with without_looks():
        ...     may_look(torch.zeros(2)), may_look(torch.zeros(2, device="meta"))
        (True, False)
    """
    global _looking
    before, _looking = _looking, False
    try:
        yield
    finally:
        _looking = before


def may_look(values: Tensor) -> bool:
    """Whether a check may read these values: on a CPU always, elsewhere outside `without_looks`.

    Example:
        >>> may_look(torch.zeros(2, device="meta"))
        True
    """
    return _looking or values.device.type == "cpu"


@contextlib.contextmanager
def private_stream(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's default generators for the block, then put the caller's state back."""
    extra = {"devices": [device], "device_type": device.type} if device.type != "cpu" else {}
    with torch.random.fork_rng(**(extra or {"devices": []})):
        # Not torch.manual_seed: it would seed every GPU of the machine, and those are not put back.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield
