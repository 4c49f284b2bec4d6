"""The quick layers are torch's layers: same function, gradients, parameters and print."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tutor.nets import factor_vae_decoder, factor_vae_encoder
from tutor.nets.quick import Doubling, InPlaceReLU

CHANNELS = [(3, 1), (6, 1), (3, 2), (4, 7)]  # one output and several are computed differently


def pair(inputs: int, outputs: int) -> tuple[Doubling, nn.ConvTranspose2d]:
    torch.manual_seed(0)
    quick = Doubling(inputs, outputs)
    plain = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    plain.load_state_dict(quick.state_dict())
    return quick, plain


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("inputs", "outputs"), CHANNELS)
def test_values_and_gradients_are_those_of_a_transposed_convolution(inputs, outputs, layout):
    """In float64 two orders of the same few dozen products differ by less than 1e-12."""
    quick, plain = (net.double().to(memory_format=layout) for net in pair(inputs, outputs))
    x = torch.randn(2, inputs, 5, 3, dtype=torch.float64).to(memory_format=layout)
    x.requires_grad_()
    out, want = quick(x), plain(x)
    assert out.shape == (2, outputs, 10, 6)
    torch.testing.assert_close(out, want, rtol=0, atol=1e-12)
    slope = torch.randn(want.shape, dtype=torch.float64)
    found = torch.autograd.grad(out, [x, *quick.parameters()], slope)
    for got, expected in zip(
        found, torch.autograd.grad(want, [x, *plain.parameters()], slope), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_second_derivatives():
    """A gradient penalty goes through the layer twice; differences of float64 say 1e-6."""
    layer = Doubling(2, 1).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_in_bfloat16_it_errs_no_more_than_torch():
    """Both round the products' inputs to eight bits; here the sums of four stay in float32."""
    quick, plain = pair(32, 1)
    x = torch.randn(4, 32, 8, 8)
    exact = plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(net(x.bfloat16()).float() - exact).square().mean() for net in (quick, plain)]
    assert 0 < errors[0] <= 1.05 * errors[1]


def test_many_decoders_at_once():
    """torch.func batches over models; each gradient is that of its own model (float32 sums)."""
    layers = [pair(3, 1)[0], Doubling(3, 1)]
    parameters, _ = stack_module_state(layers)
    x = torch.randn(2, 4, 3, 5, 5)

    def loss(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        return functional_call(layers[0], weights, (images,)).square().sum()

    together = vmap(grad(loss))(parameters, x)
    for i, layer in enumerate(layers):
        alone = torch.autograd.grad(layer(x[i]).square().sum(), list(layer.parameters()))
        for name, want in zip(("weight", "bias"), alone, strict=True):
            torch.testing.assert_close(together[name][i], want, rtol=1e-4, atol=1e-4)


def test_they_print_and_are_stored_as_torch_s_layers():
    """A checkpoint's identity is what the model prints; weights keep their names."""
    quick, plain = pair(4, 2)
    assert repr(quick) == repr(plain)
    assert repr(InPlaceReLU()) == repr(nn.ReLU())
    for net in (factor_vae_encoder(4), factor_vae_decoder(4)):
        plain = copy.deepcopy(net)
        for name, layer in net.named_children():
            if isinstance(layer, Doubling):
                sizes = layer.in_channels, layer.out_channels
                plain[int(name)] = nn.ConvTranspose2d(*sizes, 4, stride=2, padding=1)
            elif isinstance(layer, InPlaceReLU):
                plain[int(name)] = nn.ReLU()
        assert repr(net) == repr(plain)
        shapes = {k: v.shape for k, v in net.state_dict().items()}
        assert shapes == {k: v.shape for k, v in plain.state_dict().items()}


def test_a_relu_in_place_spoils_no_gradient():
    """The same network with torch's own ReLU has the same gradients, bit for bit."""
    torch.manual_seed(0)
    net = factor_vae_encoder(4)
    plain = nn.Sequential(*(nn.ReLU() if isinstance(m, InPlaceReLU) else m for m in net))
    x = torch.rand(2, 1, 64, 64)
    kept = x.clone()
    ours, theirs = (
        torch.autograd.grad(f(x).square().sum(), list(f.parameters())) for f in (net, plain)
    )
    assert torch.equal(x, kept)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
