"""The plain networks: their sizes, and where dropout acts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tutor.nets import mlp, mlp_decoder, mlp_encoder

SHAPE = (1, 2, 3)


def test_layers_and_activations_alternate_and_the_last_is_linear():
    layers = mlp([4, 5, 6, 7], nn.Tanh)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.Tanh] * 2 + [nn.Linear]
    sizes = [(layer.in_features, layer.out_features) for layer in layers[::2]]
    assert sizes == [(4, 5), (5, 6), (6, 7)]


def test_images_in_and_images_out():
    x = torch.rand(5, *SHAPE)
    code = mlp_encoder(SHAPE, 4, hidden=(8, 7))(x)
    assert code.shape == (5, 4)
    assert mlp_decoder(4, SHAPE, hidden=(8,))(code).shape == (5, *SHAPE)


def test_dropout_acts_on_the_first_hidden_layer_while_training():
    torch.manual_seed(0)
    net = mlp_encoder(SHAPE, 2, hidden=(2_000, 3), dropout=0.25)
    assert [type(layer).__name__ for layer in net[:4]] == ["Flatten", "Linear", "ReLU", "Dropout"]
    assert sum(isinstance(layer, nn.Dropout) for layer in net) == 1
    x = torch.rand(1, *SHAPE)
    awake = net[:3](x)
    kept = net[:4](x)[awake > 0] / awake[awake > 0]
    # of about 1 000 units at work a quarter is dropped: five standard deviations of a share
    assert abs((kept == 0).double().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / len(kept))
    torch.testing.assert_close(kept[kept > 0], torch.full_like(kept[kept > 0], 1 / 0.75))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
def test_a_dropout_that_is_no_rate(dropout):
    with pytest.raises(ValueError, match=r"share of units dropped, in \[0, 1\)"):
        mlp_encoder(SHAPE, 2, dropout=dropout)


def test_dropout_without_a_hidden_layer():
    with pytest.raises(ValueError, match="no hidden layer to drop from"):
        mlp_encoder(SHAPE, 2, hidden=(), dropout=0.5)
