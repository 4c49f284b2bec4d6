"""TraversalBoard in Python: what travels, what is shown without a browser, and bad input."""

from __future__ import annotations

import base64
import io
import zlib

import numpy as np
import pytest
import torch
from torch import nn
from traitlets import TraitError

from tests.widgets.boards import FACTORS, board, board_model, world
from tutor.data import Dataset
from tutor.metrics import encode_all
from tutor.models import VAE, BetaVAE
from tutor.widgets import TraversalBoard
from tutor.widgets._live import VIEW, source
from tutor.widgets.decoders_in_budget import BUDGET, COARSE
from tutor.widgets.export import run

FILES = ("page.js", "runtime.js", "unpack.js", "heat_table.js", "traversal_board.js")


@pytest.fixture(scope="module")
def widget() -> TraversalBoard:
    return board()


@pytest.fixture(scope="module")
def index() -> torch.Tensor:
    data = world()
    return torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:500]


def small(**arguments) -> BetaVAE:
    return BetaVAE(3, image_shape=(1, 64, 64), **arguments)


def test_the_weights_travel_without_loss(widget):
    """As the page reads them: lower halves and upper halves joined, signs unfolded."""
    halves = np.frombuffer(zlib.decompress(widget.weights), "u1").reshape(2, -1)
    folded = halves.T.copy().view("<u2").ravel().astype("int32")
    signed = np.where(folded & 1, -(folded + 1) // 2, folded // 2).astype("<i2").tobytes()
    at = [model["weights"] for model in widget.models]
    assert (at[0][0], at[0][1], at[1][1]) == (0, at[1][0], len(signed))
    z = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    for seed, described in enumerate(widget.models):
        drawn = run(described["spec"], signed[slice(*described["weights"])], z)
        with torch.no_grad():
            wanted = board_model(seed).decode(z).mean
        assert wanted.std(0).max() > 0.1
        assert (drawn - wanted).abs().max() < COARSE


def test_codes_are_those_of_the_start_images(widget, index):
    data = world()
    for described, model in zip(
        widget.models, (board_model(0, tilt=0.7), board_model(1)), strict=True
    ):
        codes = encode_all(model, data[index[:5]])
        np.testing.assert_allclose(described["codes"], codes, atol=1e-4)  # four digits
    assert widget.z == widget.models[0]["codes"][0]
    assert widget.factor_values == data.factors[index[:5]].tolist()
    assert widget.factors == list(FACTORS)


def test_the_tables_belong_to_the_codes(widget, index):
    """Of the untilted model: z1 is the row, z2 the column, z3 minus the size; others noise."""
    table = np.array(widget.models[1]["correlation"])
    assert table[0, 2] > 0.99
    assert table[1, 3] > 0.99
    assert table[2, 1] < -0.8
    assert np.abs(table[3:]).max() < 0.25
    data = world()
    codes = encode_all(board_model(1), data[index])
    wanted = np.corrcoef(codes.double().T, data.factors[index].double().T)[:10, 10:]
    np.testing.assert_allclose(table, wanted, atol=6e-4)  # three digits
    np.testing.assert_allclose(widget.models[1]["spreads"], codes.std(0), atol=6e-4)
    tilted = np.array(widget.models[0]["correlation"])
    assert 0.4 < tilted[0, 3] < 0.9  # a code that follows two factors


def test_start_images_travel_without_loss(widget, index):
    from PIL import Image

    sheet = np.asarray(Image.open(io.BytesIO(widget.images)).convert("L"))
    data = world()
    for k in range(5):
        row, column = divmod(k, sheet.shape[1] // 64)
        tile = sheet[64 * row : 64 * (row + 1), 64 * column : 64 * (column + 1)]
        np.testing.assert_array_equal(tile, data.images[index[k], 0])


def test_the_sliders_reach_every_start_code():
    model = board_model()
    model.encoder.tilt = 3.0  # codes beyond 3
    widget = TraversalBoard({"far": model}, world(), images=8, points=100)
    furthest = np.abs(widget.models[0]["codes"]).max()
    assert 3 < furthest <= widget.reach < furthest + 0.5
    assert board().reach == 3.0


def test_two_decoders_of_the_paper_stay_near_a_megabyte(widget):
    assert len(widget.weights) <= BUDGET
    assert widget.bits >= 10
    assert len(widget.to_html()) < 1_050_000
    # two for colour images, with twice as many hidden units
    data = world()
    data.images = data.images.expand(-1, 3, -1, -1).contiguous()
    models = {name: board_model(seed, channels=3) for seed, name in enumerate("ab")}
    coloured = TraversalBoard(models, data, images=2, points=50)
    assert len(coloured.weights) <= BUDGET
    assert 6 <= coloured.bits < widget.bits
    assert len(coloured.to_html()) < 1_150_000


def test_a_small_decoder_has_thirteen_bits():
    # 65 numbers a hidden unit, 256 pixels
    data = Dataset(torch.rand(30, 16, 16))
    data.factors = torch.arange(30)[:, None] % 5
    data.factor_names, data.factor_sizes = ("five",), (5,)
    widget = TraversalBoard({"VAE": VAE(4, image_shape=(1, 16, 16))}, data, images=3, points=30)
    assert widget.bits == 13


def test_a_generator_draws_the_images():
    def rows(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        models = {"m": board_model()}
        return TraversalBoard(
            models, world(), images=4, points=20, generator=generator
        ).factor_values

    assert rows(1) == rows(1) != rows(2)


# -- how it is displayed -------------------------------------------------------------------------


def test_display_has_picture_and_view(widget, monkeypatch):
    monkeypatch.delenv("TUTOR_STATIC_WIDGETS", raising=False)
    data, metadata = widget._repr_mimebundle_()
    assert VIEW in data
    assert "text/html" not in data
    assert data["text/plain"] == repr(widget)
    assert repr(widget) == "TraversalBoard(beta-VAE, FactorVAE, places, images=5, points=500)"
    assert metadata["image/png"]["alt"] == widget.alt
    assert "10 latent dimensions of beta-VAE and FactorVAE on places" in widget.alt
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")


def test_display_for_the_book_has_html_and_the_same_bytes(widget, monkeypatch):
    monkeypatch.setenv("TUTOR_STATIC_WIDGETS", "1")
    data, _ = widget._repr_mimebundle_()
    assert VIEW not in data
    assert f'alt="{widget.alt}"' in data["text/html"]
    assert board().to_html() == widget.to_html()


def test_the_picture_follows_the_state():
    widget = board(points=60)
    before = widget.to_png()
    for name, value in (("measure", "ratio"), ("z", [0.5] * 10), ("model", "FactorVAE")):
        setattr(widget, name, value)
        after = widget.to_png()
        assert after != before
        before = after


def test_the_modules_have_nothing_that_ends_a_script():
    for name in FILES:
        assert "</script" not in source(name).lower()
        assert "<!--" not in source(name)


def test_training_mode_is_left_as_it_was():
    model = board_model().train()
    TraversalBoard({"m": model}, world(), images=2, points=20)
    assert model.training


# -- bad input -----------------------------------------------------------------------------------


def test_no_model():
    with pytest.raises(ValueError, match="models is dict; expected at least one"):
        TraversalBoard({}, world())
    with pytest.raises(ValueError, match="models is BetaVAE; expected at least one"):
        TraversalBoard(board_model(), world())
    with pytest.raises(ValueError, match=r"'net', a Linear, has no encode"):
        TraversalBoard({"net": nn.Linear(2, 2)}, world())


def test_models_that_do_not_fit_each_other():
    with pytest.raises(ValueError, match=r"different shapes: \{'a': \(1, 64, 64\), 'b': \(1, 28"):
        TraversalBoard({"a": board_model(), "b": VAE(10)}, world())
    with pytest.raises(ValueError, match=r"numbers of latent dimensions: \{'a': 10, 'b': 3\}"):
        TraversalBoard({"a": board_model(), "b": small()}, world())


def test_too_many_dimensions():
    with pytest.raises(ValueError, match="21 latent dimensions; the figure has room for 20"):
        TraversalBoard({"a": VAE(21, image_shape=(1, 64, 64))}, world())


def test_data_without_factors_or_names():
    with pytest.raises(ValueError, match="plain has no factors; the figure compares"):
        TraversalBoard({"a": board_model()}, Dataset(torch.rand(9, 64, 64), name="plain"))
    data = world()
    data.factor_names = ("shape",)
    with pytest.raises(ValueError, match="4 factors and 1 factor_names"):
        TraversalBoard({"a": board_model()}, data)


def test_data_of_another_shape():
    with pytest.raises(ValueError, match=r"\(1, 64, 64\), the models' \(1, 28, 28\)"):
        TraversalBoard({"a": VAE(10)}, world(), points=10)


@pytest.mark.parametrize("points", [0, 1, 769])
def test_points_beyond_the_data(points):
    with pytest.raises(ValueError, match=f"points is {points}, .* between 2 and 768"):
        TraversalBoard({"a": board_model()}, world(), points=points)


@pytest.mark.parametrize("images", [0, 13])
def test_images_beyond_the_board(images):
    with pytest.raises(ValueError, match=f"images is {images}; choose between 1 and 12"):
        TraversalBoard({"a": board_model()}, world(), images=images, points=100)


def test_codes_that_are_not_finite():
    model = board_model()
    model.encoder.tilt = float("nan")
    with pytest.raises(ValueError, match="encoder of 'a' returns NaN or infinite codes"):
        TraversalBoard({"a": model}, world(), points=10)


def test_a_decoder_the_page_cannot_run():
    decoder = nn.Sequential(nn.Linear(3, 4096), nn.GELU(), nn.Unflatten(1, (1, 64, 64)))
    with pytest.raises(TypeError, match="decoder layer 1 is GELU"):
        TraversalBoard({"a": small(decoder=decoder)}, world(), points=10)


def test_a_decode_that_is_not_the_decoder():
    class Brighter(BetaVAE):
        def decode(self, z):
            likelihood = super().decode(z)
            return type(likelihood)(likelihood.logits + 1)

    with pytest.raises(ValueError, match=r"decoder of 'a' differs from model.decode\(z\).mean"):
        TraversalBoard({"a": Brighter(3, image_shape=(1, 64, 64))}, world(), points=10)


def test_decoders_that_are_too_large():
    decoder = nn.Sequential(nn.Linear(3, 300), nn.Linear(300, 4096), nn.Unflatten(1, (1, 64, 64)))
    with pytest.raises(ValueError, match="bytes even with 6 bits a weight"):
        TraversalBoard({"a": small(decoder=decoder)}, world(), points=10)


def test_states_that_are_none(widget):
    for name, value, message in (
        ("model", "GAN", "choose one of beta-VAE, FactorVAE"),
        ("start", 5, "start is 5; expected 0 to 4"),
        ("dimension", 10, "dimension is 10; expected 0 to 9"),
        ("z", [0.0] * 9, "expected 10 finite numbers"),
        ("z", [float("nan")] * 10, "expected 10 finite numbers"),
        ("measure", "mig", "measure"),
    ):
        with pytest.raises(TraitError, match=message):
            setattr(widget, name, value)
