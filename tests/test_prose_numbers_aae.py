"""Numbers that chapter 2 states in a sentence are those of formulas and stored results."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

from tutor import pretrained, priors

CHAPTER = Path(__file__).parents[1] / "notebooks" / "02_aae.ipynb"


@pytest.fixture(scope="module")
def prose() -> str:
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    text = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    captions = [c["metadata"].get("caption", "") for c in cells]
    return re.sub(r"\s+", " ", " ".join([text, *captions]))


def stated(prose: str, pattern: str) -> float:
    (number,) = re.findall(pattern, prose)
    return float(number.replace(" ", ""))


def test_what_a_hole_in_the_prior_costs(prose):
    a = 0.9
    assert stated(prose, r"the second costs ([\d.]+) nats") == round(-math.log(a), 3)
    soft = (1 + a) * math.log((1 + a) / (2 * a)) - (1 - a) * math.log(2)
    assert stated(prose, r"nats, the first ([\d.]+)\. For a small hole") == round(soft, 3)
    assert stated(prose, r"tends to \$1 - \\log 2 \\approx ([\d.]+)\$") == round(1 - math.log(2), 2)


def test_the_damping_that_a_narrow_prior_gives(prose):
    width = priors.GaussianMixture().tangential_std
    assert priors.SwissRoll().thickness == width
    assert stated(prose, r"petals of our mixture are ([\d.]+) wide across") == width
    assert stated(prose, r"\\tfrac12 s\^2 = ([\d.]+)\$, and a discriminator") == width**2 / 2
    weight = stated(prose, r"With \$\\rho = ([\d.]+)\$ it is never more than two and a half")
    assert 1 / (4 * weight) == 2.5


def test_the_schedules(prose):
    stored = pretrained.results("aae_priors")
    assert stated(prose, r"with (\d+ \d+) rounds each, on MNIST") == stored.attrs["steps"]
    hidden = stated(prose, r"codes with a class have (\d+) hidden units a layer")
    for name in ("aae_semi", "aae_clusters"):
        assert pretrained.results(name).attrs["hidden_units"] == hidden


def test_the_share_left_out_by_a_code_on_natural_spectra(prose):
    f = torch.fft.fftfreq(64, d=1 / 64, dtype=torch.float64)
    power = 1 / (f[:, None].square() + f.square()).clamp(min=1e-9)
    power[0, 0] = 0
    falling = power.flatten().sort(descending=True).values
    left = [1 - falling[:d].sum() / falling.sum() for d in (64, 128)]
    assert "four tenths or more of the variance are lost at $64 \\times 64$" in prose
    assert 0.4 < left[1] < left[0]
