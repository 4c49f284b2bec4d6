"""Half the bits where they matter little: networks compute in bfloat16, losses in float32.

A bfloat16 number has the range of a float32 and eight bits of precision.  Matrix products and
convolutions take half the time with it on processors that have the instructions.  Sums over
thousands of pixels would lose what training is about, so whatever a network returns is float32
again, and all that a model does with it (likelihoods, divergences, distances) is untouched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "bf16")


def check_precision(precision: str, device: torch.device) -> None:
    """Refuses a precision that is unknown or that the device does not have.

    Raises:
        ValueError: for another name than ``"float32"`` and ``"bf16"``.
        RuntimeError: where the device computes no bfloat16.

    Example:
        >>> check_precision("bf16", torch.device("cpu"))
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision is {precision!r}; choose "float32" or "bf16"')
    if precision == "float32":
        return
    if device.type == "mps" or (device.type == "cuda" and not torch.cuda.is_bf16_supported()):
        raise RuntimeError(f'precision="bf16" is not available on {device}; use "float32"')


@contextlib.contextmanager
def networks_in(precision: str, networks: Iterable[nn.Module], device: torch.device) -> Iterator:
    """In the block the (distinct) ``networks`` compute in ``precision`` and return float32.

    Weights stay float32; their gradients are float32 as well.

    Example:
        >>> layer = nn.Linear(64, 64)
        >>> x = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))
        >>> with networks_in("bf16", [layer], torch.device("cpu")):
        ...     rounded = layer(x)
        >>> rounded.dtype, bool(0 < (rounded - layer(x)).abs().max() < 0.02)
        (torch.float32, True)
    """
    check_precision(precision, device)
    if precision == "float32":
        yield
        return
    changed = []
    try:
        for network in networks:
            network.forward = _rounded(network.forward, device)
            changed.append(network)
        yield
    finally:
        for network in changed:
            del network.forward  # the class's own forward shows again


def _rounded(forward: Any, device: torch.device) -> Any:
    def in_bfloat16(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return _in_float32(forward(*args, **kwargs))

    return in_bfloat16


def _in_float32(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.float() if out.dtype == torch.bfloat16 else out
    if isinstance(out, tuple | list):
        return type(out)(map(_in_float32, out))
    return out
