"""All images through an encoder: against one call on all, for every kind of encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.metrics.worlds import all_binary_images, bernoulli_vae
from tutor.data import Dataset
from tutor.metrics import encode_all, encode_posteriors
from tutor.posteriors import Deterministic, ImplicitPosterior


class Encoder(nn.Module):
    """Whatever ``kind`` makes of a linear map of the pixels."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).view(6, 2))
        self.kind = kind
        self.drop = nn.Dropout(0.5)

    def encode(self, x):
        return self.kind(self.drop(x.flatten(1)) @ self.weight)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_as_in_one_call(batch_size):
    model, images = bernoulli_vae(), all_binary_images()
    with torch.no_grad():
        q = model.encode(images)
    # Matrix products of other heights may add up in another order.
    torch.testing.assert_close(encode_all(model, images, batch_size), q.mean)
    every = encode_posteriors(model, images, batch_size)
    torch.testing.assert_close(every.mean, q.mean)
    torch.testing.assert_close(every.log_var, q.log_var)
    assert not every.mean.requires_grad


@pytest.mark.parametrize("kind", [lambda z: z, Deterministic])
def test_codes_that_are_no_distribution(kind):
    model, data = Encoder(kind), Dataset(all_binary_images().float())
    codes = encode_all(model, data)  # a data set without factors will do
    torch.testing.assert_close(codes, data[:].flatten(1) @ model.weight.detach())
    assert model.drop.training  # evaluation mode inside only


@pytest.mark.parametrize(
    ("model", "images", "error", "message"),
    [
        (nn.Linear(2, 2), torch.zeros(1, 1, 2, 3), TypeError, "no encode"),
        (Encoder(lambda z: z), [1, 2], TypeError, "dataset is a list"),
        (Encoder(lambda z: z), torch.zeros(0, 1, 2, 3), ValueError, "no image"),
        (Encoder(lambda z: z[0]), torch.zeros(2, 1, 2, 3), TypeError, r"codes of shape \(2,\)"),
        (Encoder(lambda z: ImplicitPosterior(lambda s, g: z, (len(z), 2))),
         torch.zeros(2, 1, 2, 3), TypeError, "mean has no closed form"),
    ],
)  # fmt: skip
def test_what_cannot_be_encoded(model, images, error, message):
    with pytest.raises(error, match=message):
        encode_all(model, images)


def test_posteriors_must_be_gaussian_and_batches_positive():
    images = all_binary_images().float()
    with pytest.raises(TypeError, match="expected a DiagonalGaussian"):
        encode_posteriors(Encoder(Deterministic), images)
    with pytest.raises(ValueError, match="batch_size is 0"):
        encode_all(Encoder(lambda z: z), images, batch_size=0)
