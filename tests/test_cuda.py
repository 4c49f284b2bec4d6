"""On a real GPU: what `tests.test_graphs` shows with a stand-in.  Skipped where there is none."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
import torch

import tutor
from tests.models.test_every_model import NAMES, build, source
from tutor import graphs
from tutor.training import decay_after

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device on this machine"
)


def run(name: str, *, eager: bool = False, steps: int = 60, **arguments):
    model = build(name)
    with graphs.eager() if eager else contextlib.nullcontext():
        history = tutor.fit(model, source(name), steps=steps, batch_size=8, seed=3,
                            device="cuda", progress=False, **arguments)  # fmt: skip
    return model, history


def assert_same_run(one, other) -> None:
    """The same kernels in the same order: a few float32 roundings, for sums of any order."""
    for key, value in one[0].state_dict().items():
        torch.testing.assert_close(value, other[0].state_dict()[key], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.tensor(one[1].to_numpy()), torch.tensor(other[1].to_numpy()), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_replayed_run_equals_the_eager_one(name):
    recorded = run(name)
    assert recorded[1].attrs["loop"] == "CUDA graph"
    assert_same_run(recorded, run(name, eager=True))


@pytest.mark.parametrize(
    "arguments",
    [
        {"schedule": decay_after(0.2)},
        {"precision": "bf16"},
        {"optimizer": torch.optim.Adam},
        {"optimizer": partial(torch.optim.SGD, lr=0.01, momentum=0.9)},
    ],
    ids=["schedule", "bf16", "Adam", "momentum"],
)
def test_other_settings_too(arguments):
    recorded = run("AAE", **arguments)
    assert recorded[1].attrs["loop"] == "CUDA graph"
    assert_same_run(recorded, run("AAE", eager=True, **arguments))


@pytest.mark.parametrize("then", ["eager", "recorded"])
def test_a_recorded_run_is_taken_up_by_either_loop(then, tmp_path):
    whole = run("AVB")
    run("AVB", steps=27, checkpoint=tmp_path)
    assert_same_run(run("AVB", eager=then == "eager", checkpoint=tmp_path), whole)


def test_a_model_that_waits_is_played_eagerly():
    class Reads(tutor.models.VAE):
        def step(self, x):
            if x.mean().item() > 2:
                raise AssertionError
            yield from super().step(x)

    with pytest.warns(UserWarning, match=r"the host waits for the device in .*test_cuda\.py"):
        history = tutor.fit(Reads(image_shape=(1, 2, 2)), torch.rand(8, 1, 2, 2), steps=60,
                            batch_size=4, device="cuda", progress=False)  # fmt: skip
    assert history.attrs["loop"] == "eager"


def test_the_callers_random_stream_is_untouched_on_the_device():
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    run("VAE")
    assert torch.equal(torch.cuda.get_rng_state(), state)
