"""Shipped weights and stored results: what took longer to make than a page should take.

A model is two files in ``tutor/weights``: ``NAME.safetensors`` with the weights, and ``NAME.json``
with what is needed to build the model and to make it again (script, data, steps, seed, version,
machine) and what was measured on it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from tutor.checkpoints import write_atomically
from tutor.game import Model

if TYPE_CHECKING:
    import pandas as pd

_WEIGHTS = files("tutor") / "weights"
_RESULTS = files("tutor") / "results"
_RECORDINGS = files("tutor") / "recordings"


def names() -> list[str]:
    """The models that are shipped.

    Example:
        >>> "vae_mnist_2d" in names()
        True
    """
    return sorted(f.name.removesuffix(".json") for f in _WEIGHTS.iterdir() if ".json" in f.name)


def provenance(name: str) -> dict[str, Any]:
    """How a shipped model was made, and what was measured on it.

    Example:
        >>> provenance("vae_mnist_2d")["model"]
        'VAE'
    """
    _known(name, names())
    return json.loads((_WEIGHTS / f"{name}.json").read_text())


def load(name: str) -> Model:
    """A shipped model in evaluation mode, on the CPU.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    Example:
        >>> load("vae_mnist_2d").latent_dim
        2
    """
    made = provenance(name)
    model = build(made["model"], made["arguments"], made.get("networks", {}))
    tensors = tensors_from_bytes((_WEIGHTS / f"{name}.safetensors").read_bytes())
    model.load_state_dict(tensors)  # into float32, and counters as they are
    return model.eval()


def build(
    model: str,
    arguments: Mapping[str, Any],
    networks: Mapping[str, tuple[str, Mapping[str, Any]]],
) -> Model:
    """A new model from what a provenance file says of it.

    Args:
        model: name of a class in `tutor.models`.
        arguments: plain values for it.
        networks: for each module that is not the default one (a network, the prior), the name of a
            function or class in `tutor.nets`, `tutor.priors`, `tutor.noise_encoders` or
            `tutor.critics`, and the values for it.

    Raises:
        ValueError: for a model or module of an unknown name.

    Example:
        >>> small = {"latent_dim": 2, "image_shape": (1, 8, 8), "hidden": (16,)}
        >>> model = build("VAE", {"image_shape": (1, 8, 8)}, {"decoder": ("mlp_decoder", small)})
        >>> model.decoder[0]
        Linear(in_features=2, out_features=16, bias=True)
    """
    import tutor.models
    from tutor import critics, nets, noise_encoders, priors

    made = {}
    for part, (name, values) in networks.items():
        homes = [home for home in (nets, priors, noise_encoders, critics) if hasattr(home, name)]
        if not homes:
            raise ValueError(
                f"the {part} is called {name!r}; nothing in tutor.nets, priors, noise_encoders or "
                "critics has that name"
            )
        made[part] = getattr(homes[0], name)(**values)
    if model not in tutor.models.__all__:
        raise ValueError(f"there is no model {model!r}; tutor.models has {tutor.models.__all__}")
    return getattr(tutor.models, model)(**arguments, **made)


def results(name: str) -> pd.DataFrame:
    """The stored rows of an experiment, a table; ``attrs`` says where they come from.

    The files are written by the scripts in ``experiments/`` and by nothing else.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    Example:
        >>> table = results("vae_mnist_2d")
        >>> bool((table["elbo"] < table["exact"]).all())
        True
    """
    import pandas as pd

    _known(name, [f.name.removesuffix(".json") for f in _RESULTS.iterdir() if ".json" in f.name])
    stored = json.loads((_RESULTS / f"{name}.json").read_text())
    table = pd.DataFrame(stored.pop("rows"))
    table.attrs.update(stored)
    return table


def recording(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The moments of a training that was recorded for a live figure, and where they come from.

    Two files in ``tutor/recordings``, like a model's; written by the scripts in ``experiments/``.

    Returns:
        tensors by name (float32 where they were stored as float16), and the provenance.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    Example:
        >>> tensors, about = recording("aae_priors")
        >>> tensors["swiss_roll.codes"].shape[1:], about["priors"]
        (torch.Size([500, 2]), ['gaussian', 'mixture', 'swiss roll', 'uniform'])
    """
    known = (f.name for f in _RECORDINGS.iterdir() if ".json" in f.name)
    _known(name, [f.removesuffix(".json") for f in known])
    tensors = tensors_from_bytes((_RECORDINGS / f"{name}.safetensors").read_bytes())
    about = json.loads((_RECORDINGS / f"{name}.json").read_text())
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}, about


def save_recording(
    tensors: Mapping[str, Tensor], folder: Path, name: str, about: Mapping[str, Any]
) -> None:
    """Write the two files of a recording.

    Raises:
        ValueError: for tensors that are not finite.
    """
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{key} holds NaN or infinity (float16 ends at 65504)")
    folder.mkdir(exist_ok=True)
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(folder / f"{name}.safetensors", tensors_to_bytes(content))
    write_atomically(folder / f"{name}.json", (json.dumps(about, indent=1) + "\n").encode())


def halve(model: Model) -> Model:
    """Round the weights to float16, in place, so that a saved model is the one that was measured.

    Counters (of batch normalisation, of annealing) are whole numbers and stay as they are.

    Raises:
        ValueError: for a weight that float16 can't hold.

    Example:
        >>> from tutor.models import VAE
        >>> weight = halve(VAE()).encoder[1].weight
        >>> bool((weight == weight.half().float()).all())
        True
    """
    rounded = {k: _half(v).to(v.dtype) for k, v in model.state_dict().items()}
    for key, value in rounded.items():
        if not value.isfinite().all():
            raise ValueError(f"{key} has values beyond 65504 or NaN, which float16 can't hold")
    model.load_state_dict(rounded)
    return model


def save(model: Model, folder: Path, name: str, provenance: dict[str, Any]) -> None:
    """Write the two files of a model whose weights `halve` has rounded.

    Raises:
        ValueError: if a weight would change by being written as float16.
    """
    state = model.state_dict().items()
    tensors = {key: _half(value.detach().cpu()).contiguous() for key, value in state}
    for key, value in model.state_dict().items():
        if not torch.equal(tensors[key].to(value.dtype), value.cpu()):
            raise ValueError(
                f"{key} does not fit float16; call halve(model) before measuring and saving"
            )
    write_atomically(folder / f"{name}.safetensors", tensors_to_bytes(tensors))
    text = json.dumps({"model": type(model).__name__, **provenance}, indent=1)
    write_atomically(folder / f"{name}.json", (text + "\n").encode())


def _half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def _known(name: str, known: list[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(sorted(known))
        raise ValueError(f"nothing shipped is called {name!r}{hint}. Known: {listed}")
