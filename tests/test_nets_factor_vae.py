"""FactorVAE's networks: sizes written out layer by layer, shapes, both readings of "6 layers"."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutor.nets import factor_vae_decoder, factor_vae_discriminator, factor_vae_encoder


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def convolution(inputs: int, outputs: int) -> int:
    return 4 * 4 * inputs * outputs + outputs


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


@pytest.mark.parametrize(("channels", "hidden"), [(1, 128), (3, 256)])
def test_parameters_of_the_paper_s_networks(channels, hidden):
    """Written out: 2D Shapes has 128 units between convolutions and code, the others 256."""
    encoder = convolution(channels, 32) + convolution(32, 32) + convolution(32, 64)
    encoder += convolution(64, 64) + linear(4 * 4 * 64, hidden) + linear(hidden, 20)
    assert count(factor_vae_encoder(20, channels=channels)) == encoder
    decoder = linear(10, hidden) + linear(hidden, 4 * 4 * 64) + convolution(64, 64)
    decoder += convolution(64, 32) + convolution(32, 32) + convolution(32, channels)
    assert count(factor_vae_decoder(10, channels=channels)) == decoder


def test_the_middle_layer_can_be_chosen():
    """The paper has 256 units for 3D faces, which are grey."""
    assert factor_vae_encoder(20, channels=1, hidden=256)[9].out_features == 256
    assert factor_vae_decoder(10, channels=1, hidden=256)[0].out_features == 256


def test_both_readings_of_six_layers():
    five = linear(10, 1000) + 4 * linear(1000, 1000) + linear(1000, 2)
    assert count(factor_vae_discriminator(10)) == five
    six = five + linear(1000, 1000)
    assert count(factor_vae_discriminator(10, six_layers="hidden_only")) == six
    for reading, hidden in (("with_output", 5), ("hidden_only", 6)):
        net = factor_vae_discriminator(10, six_layers=reading, width=8)
        slopes = [m.negative_slope for m in net if isinstance(m, nn.LeakyReLU)]
        assert slopes == [0.2] * hidden
        assert [type(m).__name__ for m in net] == ["Linear", "LeakyReLU"] * hidden + ["Linear"]


def test_the_layers_shapes():
    x, z = torch.rand(2, 3, 64, 64), torch.randn(2, 6)
    down = []
    for layer in factor_vae_encoder(12, channels=3):
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            down.append(tuple(x.shape[1:]))
    assert down == [(32, 32, 32), (32, 16, 16), (64, 8, 8), (64, 4, 4), (256,), (12,)]
    up = []
    for layer in factor_vae_decoder(6, channels=3):
        z = layer(z)
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
            up.append(tuple(z.shape[1:]))
    assert up == [(256,), (1024,), (64, 8, 8), (32, 16, 16), (32, 32, 32), (3, 64, 64)]
    assert factor_vae_discriminator(6, width=8, logits=1)(torch.randn(2, 6)).shape == (2, 1)


def test_relu_follows_every_layer_but_the_last():
    for net in (factor_vae_encoder(20), factor_vae_decoder(10)):
        weights = [i for i, m in enumerate(net) if any(True for _ in m.parameters())]
        assert isinstance(net[-1], nn.Linear | nn.ConvTranspose2d)  # logits, means: no activation
        assert all(isinstance(net[i + 1], nn.ReLU) for i in weights[:-1])


def test_memory_order_changes_no_number():
    """Channels side by side in memory: the same function, and weights load either way."""
    torch.manual_seed(0)
    for net, x in ((factor_vae_encoder(4), torch.rand(3, 1, 64, 64)),
                   (factor_vae_decoder(4), torch.randn(3, 4))):  # fmt: skip
        plain = nn.Sequential(*net).to(memory_format=torch.contiguous_format)
        fresh = factor_vae_encoder(4) if x.dim() == 4 else factor_vae_decoder(4)
        fresh.load_state_dict({k: v.clone() for k, v in plain.state_dict().items()})
        # float32 sums of up to 1024 terms in another order
        assert torch.allclose(fresh(x), plain(x), atol=1e-5)


def test_images_reach_every_code_and_codes_every_pixel():
    torch.manual_seed(0)
    x = torch.rand(1, 1, 64, 64, requires_grad=True)
    (slope,) = torch.autograd.grad(factor_vae_encoder(20)(x).sum(), x)
    assert (slope != 0).float().mean() > 0.99  # no pixel is cut off by the padding
    z = torch.randn(1, 10, requires_grad=True)
    (slope,) = torch.autograd.grad(factor_vae_decoder(10)(z).sum(), z)
    assert (slope != 0).all()


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="channels is 0; expected at least 1"):
        factor_vae_encoder(20, channels=0)
    with pytest.raises(ValueError, match="outputs is 0"):
        factor_vae_encoder(0)
    with pytest.raises(ValueError, match="latent_dim is 0"):
        factor_vae_decoder(0)
    with pytest.raises(ValueError, match="hidden is 0"):
        factor_vae_decoder(10, hidden=0)
    with pytest.raises(ValueError, match="width is 0"):
        factor_vae_discriminator(10, width=0)
    with pytest.raises(ValueError, match="six_layers is 'six'; choose \"with_output\""):
        factor_vae_discriminator(10, six_layers="six")
    with pytest.raises(ValueError, match="logits is 3; expected 2"):
        factor_vae_discriminator(10, logits=3)
