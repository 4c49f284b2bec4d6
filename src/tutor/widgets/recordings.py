"""Recorded training of a model with a plane of codes: checked, and packed for the browser."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tutor.game import evaluating
from tutor.palette import PALETTE
from tutor.widgets.contours import prior_contours, simplified
from tutor.widgets.export import export_decoder, run

LEVELS = 2048  # of a coordinate over the width of the plane: a quarter of a pixel
BITS = 13  # of a weight: pixels move by less than half a grey level


class Recording(NamedTuple):
    """What one training left behind, moment by moment.

    ``prior``
        has ``dim == 2``, ``sample``, and perhaps ``log_prob``.
    ``steps``
        when the moments were, ``(T,)``, increasing.
    ``codes``
        of the same n images at each moment, ``(T, n, 2)``.
    ``labels``
        of the images, ``(n,)``, int64.
    ``decoder``
        the trained one: an `nn.Sequential` that returns images, or a model with ``decode`` and
        ``decoder``.
    ``energy``, ``floor``
        the squared energy distance of codes to prior at each moment, ``(T,)``, and its noise
        floor, one number or ``(T,)``; or None.
    """

    prior: Any
    steps: Sequence[int] | Tensor
    codes: Tensor
    labels: Tensor
    decoder: nn.Module
    energy: Tensor | Sequence[float] | None = None
    floor: Tensor | Sequence[float] | float | None = None


def check_recordings(recordings: Mapping[str, Recording]) -> None:
    """Refuses recordings that can't be shown side by side.

    Raises:
        TypeError: for what is no mapping from names to `Recording`.
        ValueError: for shapes that don't fit, values that are not finite, a prior that is not in
            the plane, or recordings of different images.
    """
    if not isinstance(recordings, Mapping) or not recordings:
        raise TypeError(
            "recordings must be a mapping with at least one entry, such as "
            '{"Gaussian": Recording(...)}'
        )
    for name, recording in recordings.items():
        if not isinstance(name, str) or not name.strip():
            raise TypeError(f"a recording is called {name!r}; give it a name that readers see")
        if not isinstance(recording, Recording):
            raise TypeError(
                f"{name!r} is a {type(recording).__name__}; expected a tutor.widgets.Recording"
            )
        _check(name, recording)
    first, *others = recordings
    for name in others:
        if not torch.equal(recordings[name].labels.cpu(), recordings[first].labels.cpu()):
            raise ValueError(
                f"{name!r} and {first!r} have different labels; record the codes of the same "
                "images, in the same order, under every prior"
            )


def _check(name: str, recording: Recording) -> None:
    prior, steps, codes, labels, _, energy, floor = recording
    dim = getattr(prior, "dim", None)
    if dim != 2:
        raise ValueError(f"the prior of {name!r} has dim={dim}; the figure is a plane: dim=2")
    if not isinstance(codes, Tensor) or not codes.is_floating_point():
        given = codes.dtype if isinstance(codes, Tensor) else type(codes).__name__
        raise TypeError(f"codes of {name!r} are {given}; expected a tensor of floats (T, n, 2)")
    if codes.dim() != 3 or codes.shape[2] != 2 or 0 in codes.shape:
        raise ValueError(f"codes of {name!r} have shape {tuple(codes.shape)}; expected (T, n, 2)")
    if bad := int((~codes.isfinite()).any(2).sum()):
        raise ValueError(f"{bad} codes of {name!r} are NaN or infinite; the training diverged")
    moments, n, _ = codes.shape
    at = [float(step) for step in steps]
    if len(at) != moments or moments < 2:
        raise ValueError(
            f"{name!r} has {len(at)} steps and codes at {moments} moments; expected as many of "
            "both, at least 2"
        )
    if any(late <= early for early, late in itertools.pairwise(at)) or at[0] < 0:
        raise ValueError(f"steps of {name!r} are {at}; expected increasing numbers from 0 on")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels of {name!r} are {given}; expected a tensor of torch.int64")
    if labels.shape != (n,):
        raise ValueError(
            f"labels of {name!r} have shape {tuple(labels.shape)}, there are {n} codes; "
            f"expected ({n},)"
        )
    if energy is not None:
        _numbers(name, "energy", energy, moments)
    if floor is not None and min(_numbers(name, "floor", floor, moments)) <= 0:
        raise ValueError(f"the floor of {name!r} is not positive; see metrics.noise_floor")


def _numbers(name: str, what: str, values: Any, moments: int) -> list[float]:
    """One finite number for each moment."""
    series = torch.as_tensor(values, dtype=torch.float64).flatten().tolist()
    if what == "floor" and len(series) == 1:
        series *= moments
    if len(series) != moments or not all(map(math.isfinite, series)):
        raise ValueError(
            f"{what} of {name!r} has {len(series)} values for {moments} moments, or one that is "
            f"not finite; expected {moments} finite numbers"
        )
    return series


class Packed(NamedTuple):
    """All recordings for the page: a description of each, their points, their decoders."""

    recordings: list[dict[str, Any]]
    points: bytes
    weights: bytes
    labels: bytes
    classes: list[str]


def pack_recordings(recordings: Mapping[str, Recording]) -> Packed:
    """Checked recordings as plain data and bytes; `unpack.js` reads them.

    A code is stored as two whole numbers ``q`` with ``z = origin + step * q``, where ``step`` is
    the width of the plane over 2048; from one moment to the next only the change is stored.  All
    bytes are compressed with zlib.
    """
    described, numbers, weights = [], [], b""
    for name, recording in recordings.items():
        spec, own = pack_decoder(name, recording)
        lines = _contours(recording.prior)
        generator = torch.Generator(device=_device(recording.prior)).manual_seed(0)
        n = recording.codes.shape[1]
        samples = recording.prior.sample((n,), generator=generator).detach().cpu().numpy()
        bounds = _plane(recording, lines, samples)
        points, grid = _whole(recording.codes.cpu().numpy(), samples, bounds)
        numbers.append(points)
        moments = len(recording.codes)
        described.append(
            {
                "name": name,
                "steps": [float(step) for step in recording.steps],
                "bounds": bounds,
                "contours": lines,
                "energy": [] if recording.energy is None
                else _short(_numbers(name, "energy", recording.energy, moments)),
                "floor": [] if recording.floor is None
                else _short(_numbers(name, "floor", recording.floor, moments)),
                "spec": spec,
                "weights": [len(weights), len(weights) + len(own)],
                **grid,
            }
        )  # fmt: skip
        weights += own
    labels = next(iter(recordings.values())).labels.cpu()
    values, position = torch.unique(labels, return_inverse=True)
    if len(values) > len(PALETTE):
        raise ValueError(
            f"there are {len(values)} classes; at most {len(PALETTE)} can be told apart by colour"
        )
    return Packed(
        recordings=described,
        points=_deflated(np.concatenate(numbers)),
        weights=_squeezed(np.frombuffer(weights, "u1")),
        labels=position.numpy().astype("u1").tobytes(),
        classes=[str(value) for value in values.tolist()],
    )


def pack_decoder(name: str, recording: Recording) -> tuple[dict[str, Any], bytes]:
    """The decoder as `export_decoder` packs it, after a look whether it draws the same.

    Raises:
        TypeError: if the decoder has layers that the page can't run.
        ValueError: if it takes other codes, returns no images, or what is packed draws something
            else.
    """
    decoder = recording.decoder
    z = recording.codes[-1][:64].to(_device(decoder))
    with evaluating(decoder):
        if hasattr(decoder, "decode"):
            wanted = decoder.decode(z).mean.cpu()
            network = decoder.decoder
            logits = getattr(decoder, "likelihood", None) == "bernoulli"
        else:
            wanted, network, logits = decoder(z).cpu(), decoder, False
        if wanted.dim() != 4 or wanted.shape[1] not in (1, 3):
            raise ValueError(
                f"the decoder of {name!r} returns shape {tuple(wanted.shape)} for {len(z)} codes; "
                "expected images (n, 1 or 3, H, W)"
            )
        spec, weights = export_decoder(
            network, 2, tuple(wanted.shape[1:]), sigmoid=logits, bits=BITS
        )
    difference = (run(spec, weights, z.cpu()) - wanted).abs().max().item()
    if not difference < 0.5 / 255:
        raise ValueError(
            f"the packed decoder of {name!r} differs from the given one by up to "
            f"{difference:.2g} a pixel; the figure can show a model whose decode applies "
            "model.decoder and, for likelihood='bernoulli', a sigmoid"
        )
    return spec, weights


def _device(module: Any) -> torch.device:
    tensors = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _contours(prior: Any) -> list[dict[str, Any]]:
    """Contours as long as they need to be to look smooth."""
    if not hasattr(prior, "log_prob"):
        return []
    contours = prior_contours(prior)
    ends = np.concatenate([line for contour in contours for line in contour["lines"]])
    tolerance = 2e-3 * float(np.ptp(ends, axis=0).max())
    return [
        {"mass": c["mass"], "lines": [simplified(line, tolerance) for line in c["lines"]]}
        for c in contours
    ]


def _plane(
    recording: Recording, contours: list[dict[str, Any]], samples: np.ndarray
) -> list[float]:
    """``[left, right, bottom, top]`` of a square with the prior and nearly all codes.

    Codes at the start of training may be so far away that nothing could be seen of the prior: the
    square is at most 1.7 times as wide as the prior, and the page draws codes beyond at its edge.
    """
    lines = [np.asarray(line) for contour in contours for line in contour["lines"]]
    shape = np.concatenate(lines) if lines else samples
    low, high = shape.min(0), shape.max(0)
    middle, half = (low + high) / 2, 0.54 * float((high - low).max())
    away = np.abs(recording.codes.cpu().numpy() - middle).max(2)  # (T, n)
    wanted = 1.04 * max(float(away[-1].max()), float(np.quantile(away, 0.98)))
    half = min(max(half, wanted), 1.7 * half)
    return [
        float(round(v, 3))
        for v in (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)
    ]


def _whole(
    codes: np.ndarray, samples: np.ndarray, bounds: list[float]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Codes and prior samples as whole numbers of 16 bits, and the grid that they count."""
    points = np.concatenate([codes, samples[None]]).astype("float64")
    low, high = points.min((0, 1)), points.max((0, 1))
    step = max((bounds[1] - bounds[0]) / LEVELS, float((high - low).max()) / 65535)
    counts = np.rint((points - low) / step).astype("int64")
    changes = np.diff(counts[:-1], axis=0, prepend=0)  # the first moment in full
    # modulo 2^16: a sum of changes, taken modulo 2^16 again, is the count
    stream = np.concatenate([changes.ravel(), counts[-1].ravel()]) % 65536
    return stream.astype("<u2"), {"origin": low.tolist(), "step": step}


def _deflated(numbers: np.ndarray) -> bytes:
    """Signed numbers of 16 bits, compressed."""
    # small negative changes as small odd numbers: their high bytes are zero as well
    signed = numbers.astype("<i2").astype("int32")
    folded = np.where(signed < 0, -2 * signed - 1, 2 * signed).astype("<u2")
    return _squeezed(folded.view("u1"))


def _squeezed(data: np.ndarray) -> bytes:
    """Bytes of numbers of two, or four, compressed: the first ones of all pairs, then the others.

    Small numbers have much the same second byte, which is then easily compressed.
    """
    return zlib.compress(data.reshape(-1, 2).T.tobytes(), 9)


def _short(values: list[float]) -> list[float]:
    """Four digits: more than the page shows."""
    return [float(f"{value:.4g}") for value in values]
