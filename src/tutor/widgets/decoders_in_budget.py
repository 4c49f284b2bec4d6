"""Several decoders packed for one page: as many bits a weight as its size allows."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from tutor.game import evaluating
from tutor.widgets.export import export_decoder, run

BUDGET = 680_000  # bytes of compressed weights: 0.91 MB of text in a notebook
BITS = range(13, 5, -1)  # of a weight: as many as fit
COARSE = 0.1  # of a pixel in [0, 1]: what few bits may change


def compressed(weights: Mapping[str, bytes]) -> bytes:
    """All weights as zlib's bytes: those in the lower half of each int16, then the upper halves.

    Signs are folded into the lowest bit, so that upper halves of small numbers are zero.
    """
    signed = np.frombuffer(b"".join(weights.values()), "<i2").astype("int32")
    folded = np.where(signed < 0, -2 * signed - 1, 2 * signed).astype("<u2")
    # weights hold no words that come again: looking for them takes seconds and finds nothing
    squeeze = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return squeeze.compress(folded.view("u1").reshape(-1, 2).T.tobytes()) + squeeze.flush()


def pack_decoders(
    models: Mapping[str, Any], codes: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Any]], dict[str, bytes], int]:
    """All decoders with as many bits a weight as `BUDGET` allows, at most 13.

    Args:
        models: by name, each with ``decode``, ``decoder``, ``image_shape`` and ``latent_dim``.
        codes: of each model ``(n, latent_dim)``, at which what is packed must draw the same.

    Returns:
        for each name ``{"spec", "weights": [from, to]}``, the place in all weights together; for
        each name its weights; the bits of a weight.

    Raises:
        TypeError: if a decoder has layers that the page can't run.
        ValueError: if ``decode`` is not the decoder, or the decoders are too large.
    """
    wanted = {}
    for name, model in models.items():
        with evaluating(model):
            z = codes[name][:64].to(next(model.parameters()).device)
            wanted[name] = model.decode(z).mean.cpu()

    def packed(bits: int) -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
        specs, weights, at = {}, {}, 0
        for name, model in models.items():
            bernoulli = getattr(model, "likelihood", None) == "bernoulli"
            with evaluating(model):
                spec, own = export_decoder(
                    model.decoder,
                    model.latent_dim,
                    tuple(model.image_shape),
                    sigmoid=bernoulli,
                    bits=bits,
                )
            specs[name] = {"spec": spec, "weights": [at, at + len(own)]}
            weights[name] = own
            at += len(own)
        return specs, weights

    def off(name: str, specs: dict[str, dict[str, Any]], weights: dict[str, bytes]) -> float:
        drawn = run(specs[name]["spec"], weights[name], codes[name][:64])
        return (drawn - wanted[name]).abs().max().item()

    faithful = packed(16)
    for name in models:
        if not (far := off(name, *faithful)) < 1e-3:
            raise ValueError(
                f"the packed decoder of {name!r} differs from model.decode(z).mean by up to "
                f"{far:.2g} a pixel; the figure can show a model whose decode applies "
                "model.decoder and, for likelihood='bernoulli', a sigmoid"
            )
    for bits in BITS:
        specs, weights = packed(bits)
        if (size := len(compressed(weights))) <= BUDGET:
            break
    else:
        raise ValueError(
            f"the decoders take {size} bytes even with {bits} bits a weight; a page that is stored "
            f"in a notebook holds {BUDGET}; give fewer models, or smaller decoders"
        )
    for name in models:
        if not (far := off(name, specs, weights)) < COARSE:
            raise ValueError(
                f"the decoder of {name!r} has to be packed in {bits} bits a weight, which moves "
                f"pixels by up to {far:.2g}; give fewer models, or smaller decoders"
            )
    return specs, weights, bits
