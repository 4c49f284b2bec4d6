"""Recorded frames of `PosteriorViewer`: packed small enough to be shipped, and unpacked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutor import pretrained
from tutor.widgets.frames import PosteriorFrames

_LEVELS = 255


def recorded_frames(name: str) -> tuple[PosteriorFrames, ...]:
    """The frames of each method in a recording that the package ships.

    Densities come back within half a level of 255 in the square root of density over peak; below
    the lowest level they stand at 12.5 nats under the peak.

    Raises:
        ValueError: for an unknown name, or a recording of something else.

    Example:
        >>> vae, avb = recorded_frames("avb_four_points")
        >>> vae.name, vae.mean.shape[1:], avb.samples.shape[1:]
        ('VAE', torch.Size([4, 2]), torch.Size([4, 300, 2]))
    """
    tensors, about = pretrained.recording(name)
    if about.get("kind") != "posterior frames":
        raise ValueError(
            f"{name} is a recording of {about.get('kind', 'something else')}, not of posterior "
            "frames; read it with tutor.pretrained.recording"
        )
    return tuple(_unpack(method, tensors) for method in about["methods"])


def save_frames(
    folder: Path, name: str, frames: Sequence[PosteriorFrames], about: Mapping[str, Any]
) -> None:
    """Write frames as a recording: two files, ``NAME.safetensors`` and ``NAME.json``.

    Densities as 256 levels of the square root of density over peak, frame by frame and image by
    image, draws as float16; what `recorded_frames` reads.
    """
    tensors = {}
    for part in frames:
        peak = part.log_density.flatten(2).amax(2)
        level = (0.5 * (part.log_density - peak[..., None, None])).exp() * _LEVELS
        packed = {
            "steps": part.steps,
            "levels": level.round().to(torch.uint8),
            "peak": peak.float(),
            "bounds": part.bounds.float(),
            "mean": part.mean,
            "log_var": part.log_var,
            "samples": None if part.samples is None else part.samples.half(),
            "log_evidence": part.log_evidence,
            "kl": part.kl,
        }
        tensors |= {f"{part.name}.{k}": v for k, v in packed.items() if v is not None}
    methods = [part.name for part in frames]
    pretrained.save_recording(
        tensors, folder, name, {"kind": "posterior frames", "methods": methods, **about}
    )


def _unpack(method: str, tensors: Mapping[str, Tensor]) -> PosteriorFrames:
    own = {k.removeprefix(f"{method}."): v for k, v in tensors.items() if k.startswith(method)}
    level = own.pop("levels").float().clamp(min=0.5) / _LEVELS
    log_density = own.pop("peak")[..., None, None] + 2 * level.log()
    return PosteriorFrames(name=method, log_density=log_density, **own)
