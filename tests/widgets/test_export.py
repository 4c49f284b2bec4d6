"""The packed decoder, read back by torch: near the original, and clear about what it can't pack."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.widgets.figures import colourful, convolutional, mlp
from tutor.widgets.export import export_decoder, run


@pytest.mark.parametrize(
    ("decoder", "shape"),
    [(mlp, (1, 28, 28)), (convolutional, (1, 28, 28)), (colourful, (3, 12, 20))],
)
def test_packed_decoder_agrees_with_torch(decoder, shape):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        decoder = decoder()
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    spec, weights = export_decoder(decoder, 2, shape, sigmoid=True)
    with torch.no_grad():
        difference = (run(spec, weights, z) - decoder(z).sigmoid()).abs().max()
    # int16 moves a weight by at most 1.5e-5 of its row's largest: far below 1e-4 in a pixel
    assert difference < 1e-4


def test_no_weight_moves_by_more_than_half_a_step():
    layer = nn.Linear(3, 5)
    spec, weights = export_decoder(nn.Sequential(layer, nn.Unflatten(1, (1, 1, 5))), 3, (1, 1, 5))
    kept = run(spec, weights, torch.eye(3)).view(3, 5).T - layer.bias.detach()[:, None]
    step = layer.weight.detach().abs().amax(1, keepdim=True) / 32767
    # half a step of rounding, and float32's own 6e-8 of values near one
    assert ((kept - layer.weight.detach()).abs() <= 0.5 * step + 2e-7).all()


def test_a_row_of_zeros_stays_zero():
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.weight[0].detach())
    spec, weights = export_decoder(nn.Sequential(layer, nn.Unflatten(1, (1, 1, 2))), 2, (1, 1, 2))
    assert run(spec, weights, torch.ones(1, 2))[0, 0, 0, 0] == layer.bias[0]


def test_two_bytes_a_weight():
    _, weights = export_decoder(mlp(), 2, (1, 28, 28))
    matrices, rows = 2 * 256 + 256 * 256 + 256 * 784, 256 + 256 + 784
    assert len(weights) == 2 * matrices + 8 * rows


class Doubled(nn.ReLU):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "layer", [nn.GELU(), nn.BatchNorm1d(4), Doubled()], ids=lambda x: type(x).__name__
)
def test_a_layer_the_page_lacks_is_named(layer):
    decoder = nn.Sequential(nn.Linear(2, 4), layer, nn.Unflatten(-1, (1, 2, 2))).eval()
    with pytest.raises(TypeError, match=r"decoder layer 1 is .*can run Linear, ConvTranspose2d"):
        export_decoder(decoder, 2, (1, 2, 2))


def test_flattening_away_the_batch_is_refused():
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Flatten(0))
    with pytest.raises(TypeError, match=r"decoder layer 1 is Flatten\(start_dim=0"):
        export_decoder(decoder, 2, (1, 2, 2))


def test_grouped_convolutions_are_refused():
    decoder = nn.Sequential(
        nn.Linear(2, 8), nn.Unflatten(1, (2, 2, 2)), nn.ConvTranspose2d(2, 2, 1, groups=2)
    )
    with pytest.raises(TypeError, match=r"decoder layer 2 .*groups=1"):
        export_decoder(decoder, 2, (2, 2, 2))


def test_only_a_sequential_can_be_packed():
    with pytest.raises(TypeError, match=r"the decoder is a Linear; .* an nn.Sequential"):
        export_decoder(nn.Linear(2, 4), 2, (1, 2, 2))


def test_wrong_output_shape_says_how_to_end():
    with pytest.raises(ValueError, match=r"end it with nn.Unflatten\(1, \(1, 2, 2\)\)"):
        export_decoder(nn.Sequential(nn.Linear(2, 4)), 2, (1, 2, 2))


def test_wrong_code_size_names_the_layer():
    with pytest.raises(ValueError, match=r"decoder layer 0 .*a code here has 2 dimensions"):
        export_decoder(nn.Sequential(nn.Linear(3, 4)), 2, (1, 2, 2))


def test_nan_weights_are_refused():
    layer = nn.Linear(2, 4)
    nn.init.constant_(layer.bias, float("nan"))
    with pytest.raises(ValueError, match=r"decoder layer 0 holds NaN"):
        export_decoder(nn.Sequential(layer, nn.Unflatten(1, (1, 2, 2))), 2, (1, 2, 2))


def test_fewer_bits_are_coarser_and_out_of_range_refused():
    decoder = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)))
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = decoder(z)
    off = {}
    for bits in (8, 16):
        spec, weights = export_decoder(decoder, 2, (1, 4, 4), bits=bits)
        off[bits] = (run(spec, weights, z) - wanted).abs().max().item()
        # two weights below 0.71, each off by at most half of 0.71 / (2**(bits - 1) - 1), times |z|
        assert off[bits] < 0.71 / (2 ** (bits - 1) - 1) / 2 * z.abs().sum(1).max() + 1e-6
    assert off[8] > 20 * off[16]
    for bits in (1, 17):
        with pytest.raises(ValueError, match=f"bits is {bits}"):
            export_decoder(decoder, 2, (1, 4, 4), bits=bits)
