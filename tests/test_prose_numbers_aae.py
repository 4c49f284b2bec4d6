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
    half = stated(prose, r"\\tfrac12 s\^2 = ([\d.]+)\$, and a discriminator")
    assert half == pytest.approx(width**2 / 2, rel=1e-12)
    weight = stated(prose, r"With \$\\rho = ([\d.]+)\$ it is never more than two and a half")
    assert 1 / (4 * weight) == 2.5


def numbers(prose: str, pattern: str) -> list[float]:
    """All groups of a pattern that occurs once."""
    (groups,) = re.findall(pattern, prose)
    return [float(number.replace(" ", "")) for number in groups]


def test_the_match_with_the_penalty_and_without(prose):
    stored = pretrained.results("aae_priors").set_index(["recipe", "prior"])["ratio"].round(1)
    full = stored["penalty and dropout"]
    assert "All eight runs with the penalty stay below five" in prose
    assert len(full) == 8
    assert full.max() < 5
    plain = stored["plain"].groupby("prior").agg(list)
    assert "without it three of eight don't" in prose
    assert ((stored["plain"] > 5).sum(), len(stored["plain"])) == (3, 8)
    assert numbers(prose, r"as well without, ([\d.]+) and ([\d.]+)\. That") == plain["gaussian"]
    assert numbers(prose, r"is narrow, is not: ([\d.]+) and ([\d.]+)\.") == plain["swiss roll"]
    assert numbers(prose, r"in one run of two: ([\d.]+) and ([\d.]+)\.") == plain["uniform"]
    narrow = r"stays below five, ([\d.]+) and ([\d.]+) against ([\d.]+) and ([\d.]+), so"
    assert numbers(prose, narrow) == plain["mixture"] + full["mixture"].tolist()
    alone = stored.loc[[("penalty", "swiss roll")]].item()
    assert stated(prose, r"on the swiss roll the penalty alone gives ([\d.]+),") == alone
    alone = stored.loc[[("dropout", "mixture")]].item()
    assert stated(prose, r"on the mixture dropout alone gives ([\d.]+)\.") == alone
    every = pretrained.results("aae_priors").query("recipe in ['penalty and dropout', 'plain']")
    assert (every["unbiased"] > every["unbiased_std"]).all()


def test_four_strips_beat_the_square(prose):
    """In one coordinate four Gaussians on a line; the other is the prior's and adds nothing."""
    x = torch.linspace(-9, 9, 6001, dtype=torch.float64)
    centres = torch.tensor([-1.4, -0.45, 0.45, 1.4], dtype=torch.float64)
    log_q = torch.distributions.Normal(centres[:, None], 0.24).log_prob(x)
    log_mix = log_q.logsumexp(0) - math.log(4)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(x)
    step = (x[1] - x[0]).item()
    told = ((log_q.exp() * (log_q - log_mix)).sum(1) * step).mean().item()
    mismatch = ((log_mix.exp() * (log_mix - log_p)).sum() * step).item()
    least, information = numbers(prose, r"have a mismatch of ([\d.]+) at ([\d.]+) nats of info")
    assert told >= information
    assert round(mismatch, 2) == least


def test_the_circle_of_the_full_game_shrinks(prose):
    """Runge-Kutta on the two equations, without damping: the radius follows sqrt(8 / tau)."""
    assert "the radius falls only like $\\sqrt{8/\\tau}$" in prose

    def velocity(theta: float, psi: float) -> tuple[float, float]:
        u = theta * psi
        return psi / (1 + math.exp(u)), -theta / (1 + math.exp(-u))

    theta, psi, h = 1.0, 0.0, 0.05
    for _ in range(40_000):
        k1 = velocity(theta, psi)
        k2 = velocity(theta + h / 2 * k1[0], psi + h / 2 * k1[1])
        k3 = velocity(theta + h / 2 * k2[0], psi + h / 2 * k2[1])
        k4 = velocity(theta + h * k3[0], psi + h * k3[1])
        theta += h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        psi += h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    radius = math.hypot(theta, psi)  # at tau = 2000; the start shifts tau by 8 / theta^2, 0.4 %
    assert radius == pytest.approx(math.sqrt(8 / 2_000), rel=0.01)


def test_heads_that_are_near(prose):
    near = []
    maps = pretrained.results("aae_maps").sort_values("labels", ascending=False)
    for _, row in maps.iterrows():
        pair = (row["heads_horizontal"], row["heads_vertical"])
        heads = torch.stack([torch.tensor(c, dtype=torch.float64) for c in pair], 1)
        near += [int((torch.pdist(heads) < 2).sum()), len(torch.pdist(heads))]
    pattern = r"three maps (\d+) of (\d+), (\d+) of (\d+) and (\d+) of (\d+) pairs"
    assert numbers(prose, pattern) == near


def test_what_style_tells_of_the_class(prose):
    stored = pretrained.results("aae_style_mnist").set_index("by_class")
    assert "tells the class of half of the images; with it, 18 per cent" in prose
    told = stored["class_from_style_percent"]
    assert (round(told[True]), 49 < told[False] < 52) == (18, True)
    errors = numbers(prose, r"squared error rises from ([\d.]+) to ([\d.]+)\. Both")
    assert errors == [round(stored["squared_error"][by], 1) for by in (False, True)]
    assert stored["energy_distance_to_prior"].abs().max() <= 0.002  # "of the size of the noise"


def test_agreement_with_all_labels(prose):
    stored = pretrained.results("aae_supervised")
    missed = stored[stored["agreement"] < 0.95]
    assert "One run of nine misses it: the second seed on the square" in prose
    assert (len(stored), len(missed)) == (9, 1)
    assert missed[["prior", "seed"]].values.tolist() == [["uniform", 1]]
    said = stated(prose, r"the second seed on the square, with ([\d.]+)\.")
    assert said == round(100 * missed["agreement"].item(), 1)


def test_agreement_with_few_labels(prose):
    stored = pretrained.results("aae_labels")
    first = stored.query("seed == 0").set_index("labels")["agreement"]
    every = pretrained.results("aae_supervised").query("prior == 'mixture'")
    said = numbers(
        prose,
        r"With 100 labels, ten a class, (\d+) per cent of the codes of seed 0 lie in their own "
        r"petal; with 1 000 it is (\d+), with 10 000 it is (\d+), and all 60 000 give (\d+)\.",
    )
    want = [*first[[100, 1_000, 10_000]], every["agreement"].mean()]
    assert said == [round(100 * share) for share in want]
    assert "the ratio is below three in each of these runs" in prose
    assert stored["ratio"].max() < 3
    assert every["ratio"].max() < 3


def test_errors_with_few_labels(prose):
    stored = pretrained.results("aae_semi").groupby(["labels", "model"])["test_error_percent"]
    mean = stored.mean().round(1)
    said = numbers(
        prose,
        r"With 100 labels the mean error falls from ([\d.]+) to ([\d.]+) per cent, with 1 000 "
        r"from ([\d.]+) to ([\d.]+)\.",
    )
    assert said == [mean[n, m] for n in (100, 1_000) for m in ("encoder alone", "aae")]
    maps = pretrained.results("aae_maps").set_index("labels")["test_error_percent"].round(1)
    said = numbers(
        prose,
        r"costs little: ([\d.]+) per cent, beside ([\d.]+) for the code with a style of ten "
        r"numbers\. With 100 labels it is ([\d.]+), and without any ([\d.]+)\.",
    )
    assert said == [maps[1_000], mean[1_000, "aae"], maps[100], maps[0]]
    assert pretrained.results("aae_semi").attrs["style_dimensions"] == 10


def test_what_even_clusters_must_get_wrong(prose):
    labels = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)  # of the MNIST test set
    share = torch.tensor(labels, dtype=torch.float64) / sum(labels)

    def bound(clusters: int) -> float:
        named = torch.zeros(10, dtype=torch.float64)
        for _ in range(clusters):  # gains fall with every cluster, so the greedy choice is best
            gain = torch.minimum(share, (named + 1) / clusters)
            named[(gain - torch.minimum(share, named / clusters)).argmax()] += 1
        return 100 - 100 * torch.minimum(share, named / clusters).sum().item()

    said = numbers(prose, r"the bound is ([\d.]+) per cent for 16 clusters and ([\d.]+) for 30\.")
    assert said == [round(bound(16), 1), round(bound(30), 1)]


def test_clusters_beside_those_of_k_means(prose):
    stored = pretrained.results("aae_clusters")
    rows = {name: pretrained.results(f"{name}_clusters") for name in ("aae", "kmeans")}
    error = {name: r.groupby("clusters")["test_error_percent"] for name, r in rows.items()}
    mean = {name: groups.mean().round(1) for name, groups in error.items()}
    said = numbers(
        prose,
        r"With 16 clusters the AAE has a mean error of ([\d.]+) per cent and k-means ([\d.]+); "
        r"with 30 it is ([\d.]+) and ([\d.]+)\.",
    )
    assert said == [mean[name][count] for count in (16, 30) for name in ("aae", "kmeans")]
    said = numbers(
        prose,
        r"from ([\d.]+) to ([\d.]+) with 16 clusters and from ([\d.]+) to ([\d.]+) with 30\.",
    )
    low, high = error["aae"].min().round(1), error["aae"].max().round(1)
    assert said == [low[16], high[16], low[30], high[30]]
    sure = stored.groupby("clusters")["mean_confidence"].mean().round(2)
    said = numbers(
        prose, r"its mean confidence is ([\d.]+) and ([\d.]+), and all clusters are in use"
    )
    assert said == [sure[16], sure[30]]
    assert (stored["used_clusters"] == stored["clusters"]).all()
    assert stored["drawn"].all()


def test_the_windows_on_digits(prose):
    stored = pretrained.results("aae_parzen")
    rows = stored.set_index(["source", "samples"])["log_likelihood"].round()
    said = numbers(
        prose,
        r"The AAE reaches (\d+) nats\. Ten thousand training images, handed out as they are, reach "
        r"(\d+): .*? they reach (\d+)\. A thousand k-means centroids reach (\d+)\. .*? fall to "
        r"(\d+)\. .*? the AAE has (\d+) nats and the training images have (\d+), and the order",
    )
    assert said == [
        rows["aae", 10_000],
        rows["training images", 10_000],
        rows["training images, smeared", 10_000],
        rows["k-means centroids", 1_000],
        rows["training images, moved by one pixel", 10_000],
        rows["aae", 1_000],
        rows["training images", 1_000],
    ]
    assert stated(prose, r"was trained for (\d+ \d+) rounds\. After this") == stored.attrs["steps"]


def test_the_schedules(prose):
    stored = pretrained.results("aae_priors")
    assert stated(prose, r"with (\d+ \d+) rounds each, on MNIST") == stored.attrs["steps"]
    hidden = stated(prose, r"codes with a class our networks have (\d+) hidden units a layer")
    said = numbers(prose, r"trained for (\d+ \d+) rounds of (\d+) images, eight times through")
    for name in ("aae_semi", "aae_clusters"):
        attrs = pretrained.results(name).attrs
        assert attrs["hidden_units"] == hidden
        assert [attrs["steps"], attrs["batch_size"]] == said
        assert attrs["steps"] * attrs["batch_size"] == 8 * attrs["training_images"]


def test_the_share_left_out_by_a_code_on_natural_spectra(prose):
    f = torch.fft.fftfreq(64, d=1 / 64, dtype=torch.float64)
    power = 1 / (f[:, None].square() + f.square()).clamp(min=1e-9)
    power[0, 0] = 0
    falling = power.flatten().sort(descending=True).values
    left = [1 - falling[:d].sum() / falling.sum() for d in (64, 128)]
    assert "four tenths or more of the variance are lost at $64 \\times 64$" in prose
    assert 0.4 < left[1] < left[0]
