"""Numbers that chapter 4 states in a sentence are those of formulas and stored results."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

from tutor import kernel_theory, kernels, pretrained, transport
from tutor.finite import jensen_shannon

CHAPTER = Path(__file__).parents[1] / "notebooks" / "04_wae.ipynb"


@pytest.fixture(scope="module")
def prose() -> str:
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    text = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    captions = [c["metadata"].get("caption", "") for c in cells]
    return re.sub(r"\s+", " ", " ".join([text, *captions]))


def stated(prose: str, pattern: str) -> float:
    (number,) = re.findall(pattern, prose)
    return float(number.replace(" ", ""))


def numbers(prose: str, pattern: str) -> list[float]:
    """All groups of a pattern that occurs once."""
    (groups,) = re.findall(pattern, prose)
    return [float(number.replace(" ", "")) for number in groups]


def test_the_slope_of_total_variation_far_away(prose):
    digits, power = numbers(prose, r"10\\, h\$ it is \$([\d.]+) \\cdot 10\^\{(-\d+)\} / h\$")
    assert digits * 10**power == pytest.approx(math.exp(-12.5) / math.sqrt(2 * math.pi), rel=0.01)


def test_what_the_kernels_see(prose):
    fixed = kernels.rbf(2.0)
    half = kernel_theory.gaussian_mmd(torch.zeros(64), torch.full((64,), 0.5), kernel=fixed).item()
    assert stated(prose, r"codes at half scale, ([\d.]+), has no slope") == round(half, 6)
    eight = kernel_theory.gaussian_mmd(torch.zeros(8), torch.full((8,), 0.5)).item()
    assert stated(prose, r"small beside the ([\d.]+) of codes at half the scale") == round(eight, 2)

    def seen(dim: int, dead: int, kernel: kernels.Kernel | str) -> float:
        std = (torch.arange(dim) >= dead).double()
        value = kernel_theory.gaussian_mmd(torch.zeros(dim), std, kernel=kernel)
        return (value / kernel_theory.mmd_null_std(dim, 100, kernel=kernel)).item()

    assert "one dead dimension out of 16 is within the noise of a batch of 100" in prose
    assert "one out of 32 or 64 far below it" in prose
    every = ("imq", "rbf", fixed)
    assert max(seen(16, 1, kernel) for kernel in every) < 1
    assert max(seen(dim, 1, kernel) for dim in (32, 64) for kernel in every) < 0.5
    assert "One eighth empty is at the edge of what a batch of 100 can see" in prose
    assert 1 < seen(64, 8, "imq") < 2


def test_noise_in_the_exercises(prose):
    std = kernel_theory.mmd_null_std(8, 100).item()
    assert stated(prose, r"standard deviation of the noise is ([\d.]+), so the value") == round(
        std, 4
    )
    share = 0.004 / std
    assert 0.3 < share < 0.35  # "a third of one below zero"


def test_distances_in_the_exercises(prose):
    pair, point = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])
    js = jensen_shannon(pair, point).item()
    assert stated(prose, r"\\log 2\\bigr\] \\approx ([\d.]+)\$") == round(js, 3)
    draw = torch.Generator().manual_seed(0)
    x, even = torch.randn(8, 2, generator=draw), torch.full((8,), 1 / 8)
    closer = x.mean(0) + 0.9 * (x - x.mean(0))
    cost, same, drawn = numbers(
        prose,
        r"and that costs: ([\d.]+) here\. The values are \$(-[\d.]+)\$ for \$y = x\$ and "
        r"\$(-[\d.]+)\$ for a cloud drawn together",
    )
    found = transport.sinkhorn(transport.distance_table(x, x, power=2), even, even, 0.5)
    other = transport.sinkhorn(transport.distance_table(x, closer, power=2), even, even, 0.5)
    assert cost == round(found.cost.item(), 3)
    assert same == round(found.value.item(), 3)
    assert drawn == round(other.value.item(), 3)


def test_noise_may_bring_samples_nearer(prose):
    """Two centred Gaussians with the same principal directions; the eigenvalues are the text's."""
    values, s2 = torch.tensor([4.0, 2.5, 1.0, 0.3, 0.2]), 0.5
    ppca = (values[2:].sqrt() - s2**0.5).square().sum().item()
    near, far = numbers(prose, r"= ([\d.]+)\$ from the data, the linear WAE at ([\d.]+)\. But")
    assert near == round(ppca, 2)
    assert far == pytest.approx(values[2:].sum().item())


def test_more_dimensions_than_the_data(prose):
    stored = pretrained.results("wae_dimension").set_index(["latent_dim", "encoder"])
    plain, noisy = stored.loc[(64, "deterministic")], stored.loc[(64, "narrow")]
    assert "keeps the image in about ten directions" in prose
    assert 9 < noisy["effective_dimensions"] < 11
    assert stated(
        prose, r"with noise, a mean standard deviation of ([\d.]+)\. The squared"
    ) == round(noisy["posterior_std"], 2)
    match = numbers(prose, r"MMD falls from ([\d.]+) for the deterministic encoder to ([\d.]+),")
    assert match == [round(plain["mmd"], 4), round(noisy["mmd"], 4)]
    samples = numbers(prose, r"distance of the samples from (\d+) to (\d+)\. That is")
    assert samples == [round(plain["frechet_samples"]), round(noisy["frechet_samples"])]
    errors = numbers(prose, r"costs reconstructions, ([\d.]+) against ([\d.]+)\.")
    assert errors == [round(noisy["squared_error"], 1), round(plain["squared_error"], 1)]
    best = stated(prose, r"best samples of the table, (\d+), come from eight dimensions")
    assert best == round(stored["frechet_samples"].min())
    assert stored["frechet_samples"].idxmin() == (8, "deterministic")
    few = numbers(
        prose,
        r"no noise at all: a mean standard deviation of ([\d.]+), four effective dimensions "
        r"instead of eight, and a squared error of ([\d.]+) against ([\d.]+)\.",
    )
    small, exact = stored.loc[(8, "narrow")], stored.loc[(8, "deterministic")]
    errors = [round(row["squared_error"], 1) for row in (small, exact)]
    assert few == [round(small["posterior_std"], 2), *errors]
    effective = [round(row["effective_dimensions"]) for row in (small, exact)]
    assert effective == [4, 8]
    wide = stored.xs("wide", level="encoder")
    collapsed = stated(
        prose, r"not in the code at all, a squared error of ([\d.]+), as in the plane"
    )
    assert collapsed == round(wide.loc[8, "squared_error"], 1)
    assert "in 64 they find their way into about five directions" in prose
    assert 4.5 < wide.loc[64, "effective_dimensions"] < 5.5
    error = stated(prose, r"about five directions, and the error is ([\d.]+)\. \(One")
    assert error == round(wide.loc[64, "squared_error"], 1)


def test_three_columns(prose):
    """Means over three seeds; the order of the samples is the same with each of them."""
    runs = pretrained.results("wae_mnist")
    assert "means over three seeds" in prose
    assert (runs.groupby("method")["seed"].nunique() == 3).all()
    mean = runs.groupby("method").mean(numeric_only=True).loc[["vae", "wae_mmd", "wae_gan"]]
    said = numbers(
        prose,
        r"WAE-MMD match it best, ([\d.]+)\. The VAE has ([\d.]+) and the WAE-GAN ([\d.]+), and "
        r"there the seeds differ, from ([\d.]+) to ([\d.]+)\.",
    )
    others = runs[runs["method"] != "wae_mmd"]["mmd"]
    mmd = mean["mmd"]
    assert said[:3] == [round(mmd[m], 4) for m in ("wae_mmd", "vae", "wae_gan")]
    assert said[3:] == [round(others.min(), 3), round(others.max(), 3)]
    assert runs["mmd"].min() > 4 * runs["mmd_null_std"].max()  # "can still be told"
    said = numbers(
        prose,
        r"a Fréchet distance of (\d+) for the VAE, (\d+) for the WAE-MMD, (\d+) for the WAE-GAN, "
        r"where real digits have ([\d.]+)\.",
    )
    floor = round(runs.attrs["floor"]["frechet"], 1)
    assert said == [*(round(v) for v in mean["frechet_samples"]), floor]
    for _, seed in runs.groupby("seed"):
        own = seed.set_index("method")["frechet_samples"]
        assert own["vae"] > own["wae_mmd"] > own["wae_gan"]
    said = numbers(
        prose,
        r"a squared error of ([\d.]+) against ([\d.]+) and ([\d.]+), and their Fréchet distances, "
        r"(\d+) to (\d+),",
    )
    back = mean["frechet_reconstructions"]
    assert said[:3] == [round(v, 1) for v in mean["squared_error"]]
    assert said[3:] == [round(back.min()), round(back.max())]
    sharp = runs[["sharpness_samples", "sharpness_reconstructions"]].to_numpy().max()
    assert sharp < 0.5 * runs.attrs["floor"]["sharpness"]  # "less than half"


def test_the_bias_of_the_diagonal_beside_the_noise(prose):
    """Twice the kernel's value at 0 less its mean, over n, in units of the exact noise."""
    assert "two to seventeen times the noise, in two to 64 dimensions" in prose
    ratios = []
    for dim in (2, 64):
        draw = torch.Generator().manual_seed(0)
        z, other = torch.randn(2, 2_000, dim, generator=draw)
        kernel = kernels.imq(kernels.prior_scales(dim))
        bias = 2 * (7 - kernel(z, other).mean()) / 100  # seven scales, each 1 at distance 0
        ratios.append(round((bias / kernel_theory.mmd_null_std(dim, 100)).item()))
    assert ratios == [2, 17]
