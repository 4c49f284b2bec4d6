"""Numbers that chapter 1 states in a sentence are those of the stored results."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from tutor import pretrained

CHAPTER = Path(__file__).parents[1] / "notebooks" / "01_vae.ipynb"


@pytest.fixture(scope="module")
def prose() -> str:
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    text = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    captions = [c["metadata"].get("caption", "") for c in cells]
    return re.sub(r"\s+", " ", " ".join([text, *captions]))


def stated(prose: str, pattern: str) -> int:
    (number,) = re.findall(pattern, prose)
    return int(number.replace(" ", ""))


def test_the_rate_of_40_latents_and_the_draws_it_would_take(prose):
    rate = pretrained.results("vae_binary_mnist").iloc[0]["rate"]
    assert stated(prose, r"40 latent dimensions spends (\d+) nats") == round(rate)
    # exp(rate) draws, stated as a power of ten
    power = stated(prose, r"need some \$10\^\{(\d+)\}\$ draws")
    assert power == math.floor(rate / math.log(10))


def test_the_schedules(prose):
    made = pretrained.provenance("vae_mnist_2d")
    assert stated(prose, r"vae_mnist_2d\.py` for (\d+ \d+) steps") == sum(
        n for _, n in made["steps"]
    )
    grid = pretrained.results("vae_beta_grid")
    assert stated(prose, r"eight models of (\d+ \d+) steps each") == grid.attrs["steps"]
    assert len(grid) == 8
    assert stated(prose, r"measured on (\d+ \d+) test images") == grid.attrs["images"]
    steps = stated(prose, r"\((\d+ \d+) steps for the rows of figures 2 and 3")
    for name in ("vae_figure2", "vae_figure3"):
        assert pretrained.results(name).attrs["steps"] == steps


def test_beta_takes_all_information_at_the_value_stated(prose):
    beta = stated(prose, r"until at (\d+) the model has collapsed")
    grid = pretrained.results("vae_beta_grid").set_index("beta")
    assert grid.loc[beta, "rate"] < 0.01  # nats: nothing is left
    assert grid.loc[: beta - 1, "rate"].min() > 1
