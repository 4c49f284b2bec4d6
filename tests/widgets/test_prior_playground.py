"""PriorPlayground in Python: what travels, what is shown without a browser, and bad input."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from traitlets import TraitError

from tests.widgets.playgrounds import PRIORS, decoder, digits, playground, recording, recordings
from tutor.data import load
from tutor.metrics import energy_distance
from tutor.models import AAE, VAE
from tutor.priors import DrawnPrior, Gaussian, UniformBox
from tutor.widgets import PriorPlayground, Recording
from tutor.widgets._live import VIEW, source
from tutor.widgets.export import run
from tutor.widgets.prior_playground import DRAW, principal_components
from tutor.widgets.recordings import pack_recordings

N, T = 60, 6


@pytest.fixture(scope="module")
def recorded() -> dict[str, Recording]:
    return recordings(N, T)


@pytest.fixture(scope="module")
def widget(recorded) -> PriorPlayground:
    return PriorPlayground(recorded, images=digits(N)[:])


def paired(data: bytes) -> bytes:
    """What unpack.js does: bytes that stand apart come together again."""
    apart = np.frombuffer(zlib.decompress(data), "u1")
    return apart.reshape(2, -1).T.tobytes()


def points(widget: PriorPlayground) -> list[np.ndarray]:
    """Every recording's codes and, last, samples of its prior: ``(T + 1, n, 2)``."""
    folded = np.frombuffer(paired(widget.points), "<u2").astype("int64")
    signed = np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    n, at, found = len(widget.labels), 0, []
    for about in widget.recordings:
        count = 2 * n * len(about["steps"])
        changes = signed[at : at + count].reshape(-1, n, 2)
        samples = signed[at + count : at + count + 2 * n].reshape(1, n, 2)
        at += count + 2 * n
        whole = np.concatenate([changes.cumsum(0), samples]) % 65536
        found.append(np.array(about["origin"]) + about["step"] * whole)
    assert at == len(signed)
    return found


# -- what travels --------------------------------------------------------------------------------


def test_codes_and_samples_come_back_to_half_a_step(recorded, widget):
    for about, got, one in zip(widget.recordings, points(widget), recorded.values(), strict=True):
        step = about["step"]
        assert step == pytest.approx((about["bounds"][1] - about["bounds"][0]) / 2048, rel=1e-3)
        assert np.abs(got[:-1] - one.codes.numpy()).max() <= 0.501 * step
        samples = one.prior.sample((N,), generator=torch.Generator().manual_seed(0)).numpy()
        assert np.abs(got[-1] - samples).max() <= 0.501 * step


def test_codes_that_fly_far_are_kept_too():
    """16 bits are 32 planes wide; beyond that the steps are wider."""
    labels = digits(N).labels
    one = recording(Gaussian(2), labels, moments=3)
    one.codes[0, 0] = torch.tensor([900.0, -400.0])
    far = PriorPlayground({"far": one})
    (got,) = points(far)
    assert far.recordings[0]["step"] == pytest.approx(900 / 65535, rel=0.05)
    np.testing.assert_allclose(got[0, 0], [900, -400], atol=far.recordings[0]["step"])
    left, right, *_ = far.recordings[0]["bounds"]
    assert right - left < 1.7 * 7.2  # the plane stays about the prior, whose 99 % are 6 wide


def test_decoders_come_back_to_half_a_grey_level(recorded, widget):
    weights = paired(widget.weights)
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    for about, one in zip(widget.recordings, recorded.values(), strict=True):
        low, high = about["weights"]
        with torch.no_grad():
            wanted = one.decoder(z)
        assert (run(about["spec"], weights[low:high], z) - wanted).abs().max() < 0.5 / 255
        assert wanted.std(0).max() > 0.05


def test_the_plane_holds_the_prior_and_the_last_codes(recorded, widget):
    for about, one in zip(widget.recordings, recorded.values(), strict=True):
        left, right, bottom, top = about["bounds"]
        assert right - left == pytest.approx(top - bottom, abs=2e-3)
        lines = np.concatenate([line for c in about["contours"] for line in c["lines"]])
        for x, y in (lines.T, one.codes[-1].numpy().T):
            assert left < x.min() <= x.max() < right
            assert bottom < y.min() <= y.max() < top
    assert widget.recordings[3]["contours"][0]["mass"] == 1


def test_numbers_and_names_travel(recorded, widget):
    assert [about["name"] for about in widget.recordings] == list(PRIORS)
    for about, one in zip(widget.recordings, recorded.values(), strict=True):
        assert about["steps"] == one.steps.tolist()
        np.testing.assert_allclose(about["energy"], one.energy, rtol=5e-4)  # four digits
        assert about["floor"] == [0.004] * T
    assert [int(widget.classes[k]) for k in widget.labels] == digits(N).labels.tolist()
    assert repr(widget) == (
        "PriorPlayground(Gaussian, Mixture of ten, Swiss roll, Uniform, points=60)"
    )
    assert all(name in widget.alt for name in PRIORS)


def test_a_model_is_shown_through_its_decode():
    """A VAE's decoder returns logits, of which the page must take the sigmoid."""
    labels = digits(N).labels
    one = recording(Gaussian(2), labels, moments=2)._replace(decoder=VAE(latent_dim=2))
    about = PriorPlayground({"VAE": one}).recordings[0]
    assert about["spec"]["layers"][-1] == {"type": "sigmoid"}
    assert PriorPlayground({"AAE": one._replace(decoder=AAE())}).recordings[0]["spec"]["layers"]


def test_a_prior_without_density_has_no_contours():
    class Sampler:
        dim = 2

        def sample(self, shape, *, generator=None):
            return torch.rand((*shape, 2), generator=generator)

    one = recording(Sampler(), digits(N).labels, moments=2)
    widget = PriorPlayground({"sampler": one})
    assert widget.recordings[0]["contours"] == []
    assert widget.to_png().startswith(b"\x89PNG")


def test_principal_components_draw_the_images_again():
    images = load("digits")[:200]
    about, data = principal_components(images, count=20)
    raw = zlib.decompress(data)
    pixels, count = 784, about["count"]
    mean = np.frombuffer(raw, "u1", pixels) / 255
    vectors = np.frombuffer(raw, "i1", count * pixels, pixels).reshape(count, -1)
    vectors = vectors * np.array(about["component_scale"])[:, None]
    features = np.frombuffer(raw, "i1", offset=(count + 1) * pixels).reshape(200, count)
    features = features * np.array(about["feature_scale"])
    drawn = mean + about["unit"] * features @ vectors
    flat = images.flatten(1).numpy()
    from sklearn.decomposition import PCA

    pca = PCA(count, svd_solver="full").fit(flat)
    best = pca.inverse_transform(pca.transform(flat))
    assert features[:, 0].std(ddof=1) == pytest.approx(1, abs=0.01)
    # stored in 255 levels: the squared error is hardly above the least possible
    assert ((drawn - flat) ** 2).mean() < 1.02 * ((best - flat) ** 2).mean()


def test_few_images_have_few_components():
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert principal_components(images)[0]["count"] == 4


# -- how it is displayed --------------------------------------------------------------------------


def test_display_has_picture_and_view(widget, monkeypatch):
    monkeypatch.delenv("TUTOR_STATIC_WIDGETS", raising=False)
    data, metadata = widget._repr_mimebundle_()
    assert VIEW in data
    assert "text/html" not in data
    assert metadata["image/png"]["alt"] == widget.alt
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")


def test_the_picture_has_a_plane_for_each_prior(widget):
    from PIL import Image

    width, height = Image.open(io.BytesIO(widget.to_png())).size
    assert width > 3 * height
    figure = widget.picture()
    assert [axes.get_title() for axes in figure.axes] == list(PRIORS)
    shown = [axes.collections[0].get_offsets() for axes in figure.axes]
    for codes, one in zip(shown, widget._shown.values(), strict=True):
        np.testing.assert_array_equal(codes, one.codes[-1])


def test_the_same_figure_gives_the_same_bytes(recorded, widget):
    again = PriorPlayground(recorded, images=digits(N)[:])
    assert again.to_html() == widget.to_html()


def test_the_figure_of_a_chapter_is_within_its_budget():
    """Four priors, 500 codes at 30 moments, decoders 2-64-64-784, and 500 images to train on."""
    page = playground(500, 30).to_html()
    assert len(page) < 1_150_000


def test_no_text_of_the_data_can_end_the_script(recorded):
    nasty = "</script><!--<script>"
    page = PriorPlayground({nasty: recorded["Gaussian"]}).to_html()
    payload = re.search(r'data-tutor-state="\w+">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(payload)["state"]["recordings"][0]["name"] == nasty
    assert "<!--" not in page
    assert page.count("</script>") == 2


def test_the_modules_have_nothing_that_ends_a_script_and_no_name_twice():
    """Joined they are one module: a name declared by two files would be an error there."""
    text = str(PriorPlayground._esm)
    assert "</script" not in text.lower()
    assert "<!--" not in text
    names = re.findall(r"^(?:export )?(?:async )?(?:const|let|function) (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names)) > 40
    used = set(re.findall(r"^// (.*)$", source("mount.js"), re.MULTILINE))
    assert used  # mount.js comes last, in the same scope
    assert not {"payload", "standIn", "figure"} & set(names)


# -- the drawn prior in Python --------------------------------------------------------------------

RING = [[2 * math.cos(0.1 * k), 2 * math.sin(0.1 * k)] for k in range(63)]


def test_what_is_drawn_becomes_a_prior(widget):
    with pytest.raises(ValueError, match="draw a stroke first"):
        widget.drawn_prior()
    widget.drawn = RING
    prior = widget.drawn_prior()
    assert isinstance(prior, DrawnPrior)
    assert prior.points.tolist() == torch.tensor(RING).tolist()
    assert prior.thickness == widget.thickness
    widget.drawn = []


@pytest.mark.slow
def test_a_model_trained_on_the_drawing_is_shown():
    data = load("digits")
    same = data[:N]
    one = recording(Gaussian(2), data.labels[:N], moments=2)
    widget = PriorPlayground({"Gaussian": one}, images=same)
    widget.drawn = RING
    torch.manual_seed(0)
    model = widget.train_on_drawn(
        data, steps=20, moments=4, batch_size=32, device="cpu", progress=False
    )
    assert isinstance(model.prior, DrawnPrior)
    assert (widget.prior, widget.progress) == (DRAW, 1.0)
    about = widget.trained["recording"]
    assert about["steps"] == [0, 5, 10, 15, 20]
    shown: Any = type("Shown", (), {"recordings": [about], "labels": widget.labels})
    shown.points = base64.b64decode(widget.trained["points"])
    (got,) = points(shown)
    with torch.no_grad():
        last = model.encode(same).mean
    assert np.abs(got[4] - last.numpy()).max() <= about["step"]
    assert np.abs(got[4] - got[0]).max() > 10 * about["step"]  # it did train
    # the distances shown beside it: recomputed from the same draws, to three digits
    g = torch.Generator().manual_seed(0)
    draws = [model.prior.sample((N,), generator=g) for _ in range(5)]
    wanted = [
        energy_distance(torch.as_tensor(codes).float(), draw).item()
        for codes, draw in zip(got[:5], draws, strict=True)
    ]
    assert about["energy"] == pytest.approx(wanted, rel=0.02)  # codes are rounded to a step
    assert len(about["floor"]) in (1, 5)
    assert 0 < about["floor"][0] < wanted[0]
    weights = paired(base64.b64decode(widget.trained["weights"]))
    drawn = run(about["spec"], weights, last)
    assert (drawn - model.decode(last).mean.detach()).abs().max() < 0.5 / 255


def test_training_on_a_drawing_needs_a_drawing_images_and_moments(recorded, widget):
    data = digits(N)
    with pytest.raises(ValueError, match="draw a stroke first"):
        widget.train_on_drawn(data)
    bare = PriorPlayground({"Gaussian": recorded["Gaussian"]})
    bare.drawn = RING
    with pytest.raises(ValueError, match="images="):
        bare.train_on_drawn(data)
    widget.drawn = RING
    with pytest.raises(ValueError, match="moments is 30; expected between 1 and steps=20"):
        widget.train_on_drawn(data, steps=20, moments=30)
    widget.drawn = []


# -- bad input ------------------------------------------------------------------------------------


def test_state_that_makes_no_sense(recorded, widget):
    with pytest.raises(TraitError, match="choose one of Gaussian, Mixture of ten"):
        widget.prior = "Laplace"
    with pytest.raises(TraitError, match=r"choose one of Gaussian$"):
        PriorPlayground({"Gaussian": recorded["Gaussian"]}).prior = DRAW  # no images
    with pytest.raises(TraitError, match=r"progress is 1\.5"):
        widget.progress = 1.5
    with pytest.raises(TraitError, match="two finite numbers"):
        widget.z = [0.0, float("inf")]
    with pytest.raises(TraitError, match="pairs of numbers"):
        widget.drawn = [[1.0, 2.0, 3.0]]
    with pytest.raises(TraitError, match="NaN or infinite"):
        widget.drawn = [[1.0, float("nan")]]


@pytest.mark.parametrize("given", [{}, [1], None])
def test_no_recordings(given):
    with pytest.raises(TypeError, match="mapping with at least one entry"):
        PriorPlayground(given)


def test_entries_of_another_kind(recorded):
    with pytest.raises(TypeError, match=r"is a dict; expected a tutor\.widgets\.Recording"):
        PriorPlayground({"a": recorded["Gaussian"]._asdict()})
    with pytest.raises(TypeError, match="is called ' '"):
        PriorPlayground({" ": recorded["Gaussian"]})
    with pytest.raises(ValueError, match="figure's own; rename"):
        PriorPlayground({DRAW: recorded["Gaussian"]})


NAN = torch.full((T, N, 2), float("nan"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prior": Gaussian(3)}, ValueError, r"dim=3; the figure is a plane"),
        ({"prior": object()}, ValueError, r"dim=None"),
        ({"codes": torch.zeros(T, N, 3)}, ValueError, r"\(6, 60, 3\); expected \(T, n, 2\)"),
        ({"codes": torch.zeros(N, 2)}, ValueError, r"\(60, 2\); expected \(T, n, 2\)"),
        ({"codes": torch.zeros(T, N, 2).long()}, TypeError, "torch.int64; expected a tensor of"),
        ({"codes": [[[0.0, 0.0]]]}, TypeError, "codes of 'a' are list"),
        ({"codes": NAN}, ValueError, "360 codes of 'a' are NaN or infinite"),
        ({"steps": [0, 1]}, ValueError, "2 steps and codes at 6 moments"),
        ({"steps": [0, 1, 2, 2, 3, 4]}, ValueError, "expected increasing numbers"),
        ({"steps": [-1, 1, 2, 3, 4, 5]}, ValueError, "expected increasing numbers"),
        ({"labels": torch.zeros(N)}, TypeError, "labels of 'a' are torch.float32"),
        ({"labels": torch.zeros(5).long()}, ValueError, r"shape \(5,\), there are 60 codes"),
        ({"energy": [1.0]}, ValueError, "energy of 'a' has 1 values for 6 moments"),
        ({"energy": [float("nan")] * T}, ValueError, "not finite"),
        ({"floor": 0.0}, ValueError, "floor of 'a' is not positive"),
        ({"decoder": nn.Linear(2, 4)}, ValueError, r"returns shape \(60, 4\) for 60 codes"),
        ({"decoder": nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Unflatten(1, (1, 2, 2)))},
         TypeError, "layer 1 is GELU"),
    ],
)  # fmt: skip
def test_a_bad_recording(recorded, change, error, message):
    with pytest.raises(error, match=message):
        PriorPlayground({"a": recorded["Gaussian"]._replace(**change)})


def test_one_moment_is_no_training(recorded):
    one = recorded["Gaussian"]
    with pytest.raises(ValueError, match="at least 2"):
        PriorPlayground({"a": one._replace(codes=one.codes[:1], steps=[0], energy=None)})


def test_recordings_of_different_images(recorded):
    one = recorded["Gaussian"]
    other = one._replace(labels=one.labels.flip(0))
    with pytest.raises(ValueError, match="'b' and 'a' have different labels"):
        PriorPlayground({"a": one, "b": other})


def test_more_classes_than_colours():
    labels = torch.arange(N) % 11
    with pytest.raises(ValueError, match="11 classes; at most 10"):
        PriorPlayground({"a": recording(UniformBox(2), labels, moments=2)})


def test_decoders_of_different_images(recorded):
    small = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(1, (1, 4, 4)))
    with pytest.raises(ValueError, match="images of different shapes"):
        PriorPlayground(
            {"a": recorded["Gaussian"], "b": recorded["Uniform"]._replace(decoder=small)}
        )


def test_a_decode_that_is_not_the_decoder(recorded):
    class Brighter(VAE):
        def decode(self, z):
            likelihood = super().decode(z)
            return type(likelihood)(likelihood.logits + 1)

    with pytest.raises(ValueError, match="packed decoder of 'a' differs from the given one"):
        PriorPlayground({"a": recorded["Gaussian"]._replace(decoder=Brighter(latent_dim=2))})


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(N, 1, 28, 28, dtype=torch.uint8), TypeError, "images are torch.uint8"),
        (torch.zeros(N, 28, 28), ValueError, r"expected \(60, 1, 28, 28\)"),
        (torch.zeros(5, 1, 28, 28), ValueError, r"\(5, 1, 28, 28\); expected"),
        (torch.full((N, 1, 28, 28), float("nan")), ValueError, "NaN or infinite"),
        (torch.zeros(N, 1, 28, 28), ValueError, "hardly differ"),
    ],
)
def test_bad_images(recorded, images, error, message):
    with pytest.raises(error, match=message):
        PriorPlayground({"a": recorded["Gaussian"]}, images=images)


def test_a_decoder_is_left_in_its_mode():
    network = decoder(0).train()
    one = recording(Gaussian(2), digits(N).labels, moments=2)._replace(decoder=network)
    pack_recordings({"a": one})
    assert network.training
