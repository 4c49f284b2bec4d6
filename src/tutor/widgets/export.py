"""Packs a decoder network for the browser: a small description, and bytes of quantised weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutor.nets.quick import Doubling, InPlaceReLU

SUPPORTED = (
    "Linear, ConvTranspose2d (groups=1, dilation=1), Flatten, Unflatten, ReLU, LeakyReLU, ELU, "
    "Softplus, Tanh, Sigmoid, Identity, and Sequential of these"
)


def export_decoder(
    decoder: nn.Module,
    inputs: int,
    image_shape: tuple[int, int, int],
    *,
    sigmoid: bool = False,
    bits: int = 16,
) -> tuple[dict[str, Any], bytes]:
    """A decoder as ``(spec, weights)`` that ``runtime.js`` runs in a web page.

    Each row of a weight matrix (each output channel of a transposed convolution) is stored as
    int16 with one float32 scale, ``w = scale * q``, ``scale = max|w| / 32767``, so that no weight
    moves by more than ``scale / 2``; biases stay float32.  That is half the size of float32, and
    pixels move by about 1e-5.  With fewer ``bits`` the numbers stay int16 but are smaller, which
    compresses better, and pixels move by a few times ``2 ** -bits``.  All numbers are little
    endian.

    Args:
        decoder: an `nn.Sequential`, possibly nested, of the layers that the runtime knows.
        inputs: number of latent dimensions.
        image_shape: ``(C, H, W)`` of what the decoder returns.
        sigmoid: append a sigmoid, for a Bernoulli decoder that returns logits.
        bits: of a weight, from 2 to 16, sign included.

    Raises:
        TypeError: if the decoder is no `nn.Sequential` or has a layer that the runtime lacks.
        ValueError: if its output is not ``(n, *image_shape)``, a weight is not finite, or bits
            are too few or too many.

    Example:
        >>> decoder = nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Unflatten(1, (1, 2, 2)))
        >>> spec, weights = export_decoder(decoder, 2, (1, 2, 2))
        >>> [layer["type"] for layer in spec["layers"]], len(weights)
        (['dense', 'sigmoid'], 48)
    """
    if not isinstance(decoder, nn.Sequential):
        raise TypeError(
            f"the decoder is a {type(decoder).__name__}; a live figure can run an nn.Sequential "
            f"of {SUPPORTED}"
        )
    if not 2 <= bits <= 16:
        raise ValueError(f"bits is {bits}; a weight takes 2 to 16")
    layers: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    device = next((p.device for p in decoder.parameters()), torch.device("cpu"))
    x = torch.zeros(1, inputs, device=device)
    with torch.no_grad():
        for name, layer in _leaves(decoder):
            try:
                y = layer(x)
            except RuntimeError as error:
                raise ValueError(
                    f"decoder layer {name} ({layer}) does not accept its input of shape "
                    f"{tuple(x.shape)}; a code here has {inputs} dimensions"
                ) from error
            if (described := _describe(name, layer, x, y)) is not None:
                layers.append(described)
                if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                    chunks += _pack(name, layer, 2 ** (bits - 1) - 1)
            x = y
    if tuple(x.shape) != (1, *image_shape):
        raise ValueError(
            f"the decoder returns shape {tuple(x.shape)} for one code; expected "
            f"{(1, *image_shape)}; end it with nn.Unflatten(1, {tuple(image_shape)})"
        )
    if sigmoid:
        layers.append({"type": "sigmoid"})
    return {"inputs": inputs, "shape": list(image_shape), "layers": layers}, b"".join(chunks)


def run(spec: dict[str, Any], weights: bytes, z: Tensor) -> Tensor:
    """What the page draws for codes z ``(n, inputs)``: the packed decoder, run by torch.

    It reads the same bytes as ``runtime.js`` and returns ``(n, C, H, W)`` in float32.

    Example:
        >>> decoder = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)))
        >>> packed = export_decoder(decoder, 2, (1, 2, 2))
        >>> z = torch.ones(3, 2)
        >>> bool((run(*packed, z) - decoder(z)).abs().max() < 1e-4)
        True
    """
    at, x = 0, z.detach().to("cpu", torch.float32)

    def take(dtype: str, count: int) -> Tensor:
        nonlocal at
        array = np.frombuffer(weights, dtype, count, at)
        at += array.nbytes
        return torch.from_numpy(array.astype("float32"))

    for layer in spec["layers"]:
        kind = layer["type"]
        if kind == "dense":
            rows, columns = layer["outputs"], layer["inputs"]
            scale, bias = take("<f4", rows), take("<f4", rows)
            x = F.linear(x, take("<i2", rows * columns).view(rows, columns) * scale[:, None], bias)
        elif kind == "conv_transpose":
            rows, shape = layer["outputs"], (layer["outputs"], layer["inputs"], *layer["kernel"])
            scale, bias = take("<f4", rows), take("<f4", rows)
            w = take("<i2", math.prod(shape)).view(shape) * scale[:, None, None, None]
            stride, padding = layer["stride"], layer["padding"]
            plain = [
                (i - 1) * s - 2 * p + k
                for i, s, p, k in zip(layer["input"], stride, padding, layer["kernel"], strict=True)
            ]
            extra = [o - p for o, p in zip(layer["output"], plain, strict=True)]
            x = x.reshape(len(x), layer["inputs"], *layer["input"])
            x = F.conv_transpose2d(x, w.transpose(0, 1), bias, stride, padding, extra)
            x = x.flatten(1)
        else:
            x = _ACTIVATIONS[kind](x, layer)
    return x.reshape(len(z), *spec["shape"])


_ACTIVATIONS = {
    "relu": lambda x, _: F.relu(x),
    "leaky_relu": lambda x, layer: F.leaky_relu(x, layer["slope"]),
    "elu": lambda x, layer: F.elu(x, layer["alpha"]),
    "softplus": lambda x, layer: F.softplus(x, layer["beta"]),
    "tanh": lambda x, _: torch.tanh(x),
    "sigmoid": lambda x, _: torch.sigmoid(x),
}


def _leaves(module: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential):
            yield from _leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _describe(name: str, layer: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any] | None:
    """The layer's entry in the spec; None for layers that only rename axes."""
    # Exact types: a subclass may compute something else under the same parameters.
    kind = type(layer)
    if kind is nn.Linear and x.dim() == 2:
        return {"type": "dense", "inputs": layer.in_features, "outputs": layer.out_features}
    if kind in (nn.ConvTranspose2d, Doubling) and layer.groups == 1 and layer.dilation == (1, 1):
        return {
            "type": "conv_transpose",
            "inputs": layer.in_channels,
            "outputs": layer.out_channels,
            "kernel": list(layer.kernel_size),
            "stride": list(layer.stride),
            "padding": list(layer.padding),
            "input": list(x.shape[2:]),
            "output": list(y.shape[2:]),
        }
    if kind in (nn.Flatten, nn.Unflatten, nn.Identity) and len(y) == 1:
        return None
    simple = {nn.ReLU: "relu", InPlaceReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
    if kind in simple:
        return {"type": simple[kind]}
    if kind is nn.LeakyReLU:
        return {"type": "leaky_relu", "slope": layer.negative_slope}
    if kind is nn.ELU:
        return {"type": "elu", "alpha": layer.alpha}
    if kind is nn.Softplus:
        return {"type": "softplus", "beta": layer.beta}
    raise TypeError(
        f"decoder layer {name} is {layer}, which a live figure can't run; it can run {SUPPORTED}"
    )


def _pack(name: str, layer: nn.Linear | nn.ConvTranspose2d, most: int) -> Iterator[bytes]:
    weight = layer.weight.detach().to("cpu", torch.float32)
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)  # (out, in, kh, kw): one row an output channel
    rows = weight.flatten(1).contiguous().numpy()
    bias = np.zeros(len(rows)) if layer.bias is None else layer.bias.detach().cpu().numpy()
    if not (np.isfinite(rows).all() and np.isfinite(bias).all()):
        raise ValueError(f"decoder layer {name} holds NaN or infinite weights; train it again")
    scale = (np.abs(rows).max(1) / most).astype("<f4")
    quantised = np.rint(rows / np.where(scale > 0, scale, 1)[:, None])
    yield scale.tobytes()
    yield bias.astype("<f4").tobytes()
    yield quantised.clip(-most, most).astype("<i2").tobytes()
