"""TransportPlan in Python: what travels, what is shown without a browser, and bad input."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from traitlets import TraitError

import tutor
from tests.widgets.transports import X, Y, plan
from tutor.widgets import TransportPlan
from tutor.widgets._live import VIEW, source
from tutor.widgets.transport_plan import MOST_POINTS

FILES = (
    "page.js", "plane.js", "exact_plan.js", "entropic_plan.js", "cloud_distances.js",
    "quantity_card.js", "transport_plan.js",
)  # fmt: skip


@pytest.fixture(scope="module")
def widget() -> TransportPlan:
    return plan()


def test_the_given_clouds_travel_and_lie_in_the_plane(widget):
    assert (widget.x, widget.y, widget.shift) == (X, Y, 0.0)
    left, right, bottom, top = widget.bounds
    assert right - left == pytest.approx(top - bottom)
    for preset in widget.presets:
        for cloud, shift in ((preset["x"], 0), (preset["y"], preset["shift"])):
            a, b = np.transpose(cloud)
            assert left < (a + shift).min() <= (a + shift).max() < right
            assert bottom < b.min() <= b.max() < top


def test_tensors_and_arrays_are_clouds():
    widget = TransportPlan(torch.tensor(X), np.array(Y))
    np.testing.assert_allclose(widget.x, X, atol=1e-6)  # float32
    assert widget.y == Y


@pytest.mark.parametrize("size", [1e-3, 1.0, 500.0])
def test_presets_and_ranges_follow_the_clouds_extent(size):
    far = 40 * size
    widget = TransportPlan(size * np.array(X) + far, size * np.array(Y) + far)
    left, right, *_ = widget.bounds
    assert 2.5 * size < right - left < 12 * size
    assert [p["name"] for p in widget.presets] == [
        "Given", "Parallel lines", "Two points", "Overlapping blobs", "Different sizes",
    ]  # fmt: skip
    lines = widget.presets[1]
    assert lines["x"] == lines["y"]
    assert lines["shift"] == pytest.approx(0.15 * (right - left), rel=1e-3)
    # costs grow with the square of the extent
    unit = (right - left) / 8
    assert widget.ranges["epsilon"] == pytest.approx([0.005 * unit**2, 50 * unit**2], rel=1e-3)


def test_without_clouds_it_begins_with_the_parallel_lines():
    widget = TransportPlan()
    assert widget.presets[0]["name"] == "Parallel lines"
    assert widget.x == widget.presets[0]["x"] == widget.y
    assert (widget.shift, widget.epsilon, widget.cost) == (1.2, pytest.approx(0.5), "squared")
    sizes = [(len(p["x"]), len(p["y"])) for p in widget.presets]
    assert sizes == [(10, 10), (1, 1), (10, 10), (3, 8)]
    assert repr(widget) == "TransportPlan(10 points, 10 points)"


def test_the_picture_draws_the_plans_and_names_their_costs(widget):
    import ot

    table = ((np.array(X)[:, None] - np.array(Y)[None]) ** 2).sum(-1)
    a, b = np.full(3, 1 / 3), np.full(4, 1 / 4)
    wanted = {
        "exact": ot.emd(a, b, table),
        "entropic": ot.sinkhorn(a, b, table, widget.epsilon, method="sinkhorn_log"),
    }
    for axes, (name, best) in zip(widget.picture().axes, wanted.items(), strict=True):
        assert axes.get_title().startswith(f"{name} plan")
        shown = float(axes.get_title().rsplit(" = ", 1)[1])
        assert shown == pytest.approx((best * table).sum(), rel=5e-3)
        lines = {
            tuple(line.get_xydata().ravel().round(6)): line.get_linewidth()
            for line in axes.get_lines()
        }
        for i, j in np.argwhere(best > 1e-3):
            # five points for all that a line can carry, the picture's plan is right to 1e-3
            assert lines[*X[i], *Y[j]] == pytest.approx(5 * 3 * best[i, j], abs=0.02)
        assert len(lines) >= (best > 1e-3).sum()


@pytest.mark.parametrize("preset", range(4))
def test_every_preset_has_a_picture_at_the_ends_of_the_slider(preset):
    widget = TransportPlan()
    chosen = widget.presets[preset]
    widget.x, widget.y, widget.shift = chosen["x"], chosen["y"], chosen["shift"]
    for epsilon in widget.ranges["epsilon"]:
        widget.epsilon = epsilon
        assert len(widget.picture().axes) == 2


def test_the_picture_does_not_follow_the_style_of_the_notebook():
    """The book's style dashes lines and draws a grid, which would strike through the picture."""
    import matplotlib

    widget = TransportPlan()
    before = widget.to_png()
    with matplotlib.rc_context():
        tutor.plots.use_style()
        assert widget.to_png() == before


def test_the_picture_follows_the_state(widget):
    before = widget.to_png()
    assert before.startswith(b"\x89PNG")
    other = plan()
    assert other.to_png() == before
    for change in ({"cost": "plain"}, {"epsilon": 5.0}, {"shift": 0.5}):
        other = plan()
        other.set_trait(*next(iter(change.items())))
        assert other.to_png() != before
    assert len(before) < 40_000


def test_display_has_picture_and_view(widget, monkeypatch):
    monkeypatch.delenv("TUTOR_STATIC_WIDGETS", raising=False)
    data, metadata = widget._repr_mimebundle_()
    assert VIEW in data
    assert "text/html" not in data
    assert data["text/plain"] == "TransportPlan(3 points, 4 points)" == repr(widget)
    assert metadata["image/png"]["alt"] == widget.alt
    assert "3 points x as circles and 4 points y as squares" in widget.alt
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")


def test_display_for_the_book_has_html_and_stays_small(widget, monkeypatch):
    monkeypatch.setenv("TUTOR_STATIC_WIDGETS", "1")
    data, _ = widget._repr_mimebundle_()
    assert VIEW not in data
    assert f'alt="{widget.alt}"' in data["text/html"]
    assert len(data["text/html"]) < 120_000
    assert plan().to_html() == widget.to_html()


def test_the_modules_have_nothing_that_ends_a_script():
    for name in FILES:
        assert "</script" not in source(name).lower()
        assert "<!--" not in source(name)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cloud", "message"),
    [
        (np.zeros((MOST_POINTS + 1, 2)), "13 points; the figure takes 1 to 12"),
        (np.zeros((0, 2)), "0 points; the figure takes 1 to 12"),
        (np.zeros((4, 3)), r"shape \(4, 3\); expected points in the plane"),
        (np.zeros(2), r"shape \(2,\); expected points in the plane"),
        ([[0.0, float("nan")]], "NaN or infinite"),
        ([[0.0, float("inf")]], "NaN or infinite"),
        ([[0.0, 1.0], [2.0]], "no table of numbers"),
        ("abc", "no table of numbers"),
    ],
)
def test_a_cloud_that_is_none(cloud, message):
    with pytest.raises(ValueError, match=f"x .*{message}"):
        TransportPlan(cloud, Y)
    with pytest.raises(ValueError, match=f"y .*{message}"):
        TransportPlan(X, cloud)
    widget = plan()
    with pytest.raises(TraitError):
        widget.x = cloud
    assert widget.x == X


def test_one_cloud_alone():
    with pytest.raises(ValueError, match="only one cloud is given"):
        TransportPlan(X)


@pytest.mark.parametrize("epsilon", [0, -1.0, 1e-9, 1e6, float("nan")])
def test_an_epsilon_beyond_the_page(epsilon):
    with pytest.raises(ValueError, match=r"epsilon is .* the page takes"):
        TransportPlan(X, Y, epsilon=epsilon)
    widget = plan()
    with pytest.raises(TraitError, match=r"epsilon is .* the page takes"):
        widget.epsilon = epsilon


def test_settings_that_are_none(widget):
    for name, value in (
        ("cost", "cubic"), ("kernel", "linear"), ("shift", float("nan")), ("width", 0.0),
    ):  # fmt: skip
        with pytest.raises(TraitError):
            setattr(widget, name, value)
