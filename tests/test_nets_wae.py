"""WAE's networks: sizes as in the paper, padding as the authors', weights of the stated spread."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tutor.nets import (
    KnownPriorDiscriminator,
    celeba_decoder,
    celeba_encoder,
    wae_decoder,
    wae_discriminator,
    wae_encoder,
)
from tutor.priors import Gaussian, GaussianMixture


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def convolution(inputs: int, outputs: int, side: int) -> int:
    return side * side * inputs * outputs + outputs


def test_parameters_of_the_paper_s_mnist_networks():
    """Written out layer by layer: convolution, two numbers a channel of batch norm, linear."""
    encoder = convolution(1, 128, 4) + 2 * 128
    encoder += convolution(128, 256, 4) + 2 * 256
    encoder += convolution(256, 512, 4) + 2 * 512
    encoder += convolution(512, 1024, 4) + 2 * 1024
    encoder += (2 * 2 * 1024) * 8 + 8
    assert count(wae_encoder()) == encoder == 11_050_632
    decoder = 8 * (7 * 7 * 1024) + 7 * 7 * 1024
    decoder += convolution(1024, 512, 4) + 2 * 512
    decoder += convolution(512, 256, 4) + 2 * 256
    decoder += convolution(256, 1, 4)
    assert count(wae_decoder()) == decoder == 10_943_745
    adversary = 8 * 512 + 512 + 3 * (512 * 512 + 512) + 512 + 1
    assert count(wae_discriminator()) == adversary == 793_089


def test_parameters_of_the_celeba_networks():
    encoder = sum(
        convolution(a, b, 5) + 2 * b for a, b in [(3, 128), (128, 256), (256, 512), (512, 1024)]
    )
    encoder += (4 * 4 * 1024) * 64 + 64
    decoder = 65 * (8 * 8 * 1024)
    decoder += sum(convolution(a, b, 5) + 2 * b for a, b in [(1024, 512), (512, 256), (256, 128)])
    decoder += convolution(128, 3, 5)
    with torch.device("meta"):  # 100 MB that nobody looks at
        assert count(celeba_encoder()) == encoder
        assert count(celeba_decoder()) == decoder


def sides(net: nn.Sequential, x: torch.Tensor, kinds: tuple[type, ...]) -> list[tuple[int, ...]]:
    shapes = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, kinds):
            shapes.append(tuple(x.shape[1:]))
    return shapes


def test_the_layers_shapes_on_mnist():
    x = torch.rand(2, 1, 28, 28)
    down = sides(wae_encoder(width=2), x, (nn.Conv2d, nn.Linear))
    assert down == [(2, 14, 14), (4, 7, 7), (8, 4, 4), (16, 2, 2), (8,)]
    up = sides(wae_decoder(width=2), torch.randn(2, 8), (nn.Unflatten, nn.ConvTranspose2d))
    assert up == [(16, 7, 7), (8, 14, 14), (4, 28, 28)]
    assert wae_decoder(width=2)(torch.randn(2, 8)).shape == (2, 1, 28, 28)


def test_the_layers_shapes_on_celeba():
    down = sides(celeba_encoder(width=2), torch.rand(2, 3, 64, 64), (nn.Conv2d, nn.Linear))
    assert down == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4), (64,)]
    net = celeba_decoder(width=2)
    up = sides(net, torch.randn(2, 64), (nn.Unflatten, nn.ConvTranspose2d, nn.Sigmoid))
    assert up == [(16, 8, 8), (8, 16, 16), (4, 32, 32), (2, 64, 64), (3, 64, 64)]


def test_batch_norm_and_relu_follow_every_convolution_but_the_last():
    for net, convolutions in ((wae_encoder(width=2), 4), (wae_decoder(width=2), 2)):
        kinds = [type(layer).__name__ for layer in net]
        inner = [i for i, kind in enumerate(kinds) if kind == "BatchNorm2d"]
        assert len(inner) == convolutions
        for i in inner:
            assert kinds[i - 1] in ("Conv2d", "ConvTranspose2d")
            assert kinds[i + 1] == "ReLU"
            assert (net[i].eps, net[i].momentum) == (1e-5, 0.1)  # the authors' decay is 0.9


def test_padding_is_split_as_the_authors_library_splits_it():
    """Stride 2 on 28, 14, 7, 4 with filters of 4: the odd side gets its extra zero at the end."""
    pads = [layer.padding for layer in wae_encoder(width=2) if isinstance(layer, nn.ZeroPad2d)]
    assert pads == [(1, 1, 1, 1), (1, 1, 1, 1), (1, 2, 1, 2), (1, 1, 1, 1)]
    pads = [layer.padding for layer in celeba_encoder(width=2) if isinstance(layer, nn.ZeroPad2d)]
    assert pads == [(1, 2, 1, 2)] * 4


def test_a_rectangle_keeps_its_proportions():
    assert wae_encoder((1, 24, 32), 3, width=2)(torch.rand(2, 1, 24, 32)).shape == (2, 3)
    assert wae_decoder(3, (1, 24, 32), width=2)(torch.rand(2, 3)).shape == (2, 1, 24, 32)


def test_the_last_layer_is_a_transposed_convolution_of_stride_1():
    """The convolution with turned filters against torch's transposed one, cut to size."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    for side, cut in ((4, (1, 2)), (5, (2, 2))):
        pad, layer = wae_decoder(3, (1, 28, 28), width=2, kernel_size=side, sigmoid=False)[-2:]
        weight = layer.weight.double().flip(-1, -2).transpose(0, 1)  # (in, out, side, side)
        whole = nn.functional.conv_transpose2d(x, weight, layer.bias.double())
        keep = slice(cut[0], whole.shape[-1] - cut[1])
        # float64: sums of 64 or 100 terms in another order
        assert torch.allclose(layer.double()(pad(x)), whole[..., keep, keep], atol=1e-12)


def test_weights_have_the_paper_s_spread_and_wider_ones_in_narrow_networks():
    torch.manual_seed(0)
    for net, std in (
        (wae_discriminator(), 0.01),
        (wae_discriminator(width=1024), 0.01),
        (wae_discriminator(width=128), 0.01 * 2),
        (wae_encoder(width=32), 0.01 * 2),
        (wae_decoder(width=32), 0.01 * 2),
    ):
        largest = max((p for p in net.parameters() if p.dim() > 1), key=torch.numel)
        # five standard errors of a standard deviation
        assert abs(largest.std().item() / std - 1) < 5 / math.sqrt(2 * largest.numel())
        biases = [m.bias for m in net if isinstance(m, nn.Linear | nn.Conv2d)]
        assert biases
        assert all(not b.any() for b in biases)


def test_pixels_are_in_the_unit_interval_or_logits():
    torch.manual_seed(0)
    pixels = wae_decoder(2, width=2)
    logits = wae_decoder(2, width=2, sigmoid=False)
    logits.load_state_dict(pixels.state_dict())
    z = 100 * torch.randn(5, 2)
    y = pixels.eval()(z)
    assert 0 < y.min() < y.max() < 1
    # float32 rounding
    assert torch.allclose(logits.eval()(z).sigmoid(), y, atol=1e-6)


def test_a_discriminator_that_knows_the_prior_adds_its_log_density():
    prior = Gaussian(3)
    network = wae_discriminator(3, width=8)
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    told = KnownPriorDiscriminator(prior, network)(z)
    assert told.shape == (6, 1)
    assert torch.equal(told[:, 0] + network(z)[:, 0], prior.log_prob(z))
    # A network that has learnt log q gives the best logit, log p(z) - log q(z).
    q = GaussianMixture(4)
    exact = nn.Module()
    exact.forward = lambda z: q.log_prob(z).unsqueeze(1)
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    best = KnownPriorDiscriminator(Gaussian(2), exact)(z)
    assert torch.equal(best[:, 0], Gaussian(2).log_prob(z) - q.log_prob(z))


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="width is 0"):
        wae_encoder(width=0)
    with pytest.raises(ValueError, match="width is 0"):
        wae_decoder(width=0)
    with pytest.raises(ValueError, match="width is 0"):
        wae_discriminator(width=0)
    with pytest.raises(ValueError, match="shorter side is 2, below the filters' 4"):
        wae_encoder((1, 2, 2))
    with pytest.raises(ValueError, match="2 doublings reach multiples of 4 only"):
        wae_decoder(8, (1, 30, 30))
    with pytest.raises(TypeError, match="Identity has no log_prob"):
        KnownPriorDiscriminator(nn.Identity(), wae_discriminator(2))
