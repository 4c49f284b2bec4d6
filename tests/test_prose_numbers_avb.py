"""Numbers that chapter 3 states in a sentence are those of the stored results."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch

from tests.equations.test_avb_game import information
from tutor import pretrained

CHAPTER = Path(__file__).parents[1] / "notebooks" / "03_avb.ipynb"


@pytest.fixture(scope="module")
def prose() -> str:
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    text = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    captions = [c["metadata"].get("caption", "") for c in cells]
    return re.sub(r"\s+", " ", " ".join([text, *captions]))


def stated(prose: str, pattern: str) -> float:
    (number,) = re.findall(pattern, prose)
    return float(number.replace(" ", ""))


def test_four_points(prose):
    four = pretrained.results("avb_four_points")
    assert stated(prose, r"counting (\d+) million draws") * 1e6 == four.attrs["draws"]
    avb, vae = (four[four["method"] == m] for m in ("avb", "vae"))
    assert len(avb) == len(vae) == 3  # "three seeds"
    within = stated(prose, r"AVB comes within ([\d.]+) nats of it with every seed")
    best = -math.log(4)
    assert (avb["log_likelihood"] > best - within).all()
    assert (vae["log_likelihood"] < best - within).all()
    # "With each of the three seeds above the exact ELBO, and with two of them above -log 4"
    assert (avb["claimed_elbo"] > avb["elbo"]).all()
    assert (avb["claimed_elbo"] > best).sum() == 2
    finest = stated(prose, r"they differ by less than ([\d.]+) nats")
    for name in ("kl_to_exact_posterior", "kl_aggregate_to_prior"):
        assert ((four[name] - four[f"{name}_coarser_cells"]).abs() < finest).all()


def test_the_critic_against_the_truth(prose):
    stored = pretrained.results("avb_critic")
    assert stated(prose, r"from (\d+ \d+) batches of \d+ pairs") == stored.attrs["steps"]
    assert stated(prose, r"from \d+ \d+ batches of (\d+) pairs") == stored.attrs["batch_size"]
    assert stored["seed"].nunique() == 3
    trained = stored[~stored["adaptive_contrast"]]
    mean = trained.groupby(["family", "dim", "prior_in_critic", "distance"])["error"].mean()
    by_distance = mean.unstack("distance")
    # "Up to 2 all critics are usable. At 3 and 4 too much. At 6 several nats too little."
    assert (by_distance[[0.0, 1.0, 2.0]].abs() < 0.25).all().all()
    assert (by_distance[[3.0, 4.0]] > 0).all().all()
    assert (by_distance[6.0] < -3).all()
    assert stored["distance"].max() == 6


def test_how_many_pairs_a_critic_needs(prose):
    def pairs(distance: float) -> float:
        at_q = torch.tensor([1.0, distance], dtype=torch.float64)
        variance = at_q @ torch.linalg.solve(information(distance), at_q) - 2
        return variance.item() / 0.1**2

    needed = stated(prose, r"and (\d+ \d+) pairs are needed for a divergence of 8 nats")
    assert needed == pytest.approx(pairs(4.0), rel=0.05)
    millions = stated(prose, r"and (\d+) million pairs are needed")
    assert millions * 1e6 == pytest.approx(pairs(8.0), rel=0.05)
    wrong = [0.5 * math.erfc(d / 2 / math.sqrt(2)) for d in (4.0, 8.0)]
    assert stated(prose, r"At distance 4 one point in (\d+) is there") == round(1 / wrong[0])
    few = stated(prose, r"At distance 8 there is one in (\d+ \d+)")
    assert few == pytest.approx(1 / wrong[1], rel=0.06)
    one = math.sqrt(2 * 0.1 / 1.01) * math.exp(-1 / 4.04)
    assert stated(prose, r"e\^\{-1/\(4\(1 \+ \\sigma\^2\)\)\} = ([\d.]+)\$") == round(one, 2)
    power = stated(prose, r"of all of them, \$2 \\cdot 10\^\{-(\d+)\}\$")
    assert one**32 == pytest.approx(2 * 10**-power, rel=0.1)


def test_energies(prose):
    stored = pretrained.results("energies")
    draws = stated(prose, r"energy distance compare (\d+ \d+) draws with as many exact ones")
    assert draws == stored.attrs["draws"]
    steps = stated(prose, r"for (\d+ \d+) steps of 512 draws, by `experiments/energies.py`")
    assert (steps, 512) == (stored.attrs["steps"], stored.attrs["batch_size"])
    assert stored["seed"].nunique() == 1  # "One seed of each"
    shown = pretrained.results("energies_draws")
    assert stated(prose, r"and (\d+) draws \(orange\) of each method\. The Gaussians") == len(
        shown["x_1"].iloc[0]
    )
    ring = shown.set_index(["energy", "method"]).loc[("ring", "AVB")]
    radius = torch.tensor([ring["x_1"], ring["x_2"]]).square().sum(0).sqrt()
    inside = stated(prose, r"of the 500 draws, (\d+) lie within 0\.7 of the centre")
    assert inside == (radius < 0.7).sum()
    # the squared radius is normal with mean 2 and variance 1/2, cut off at zero
    below = torch.special.ndtr(torch.tensor([0.7**2 - 2, -2.0]) * math.sqrt(2))
    expected = 500 * (below[0] - below[1]) / (1 - below[1])
    assert stated(prose, r"where one would expect (\d+)\.") == expected.round()
    found = stored.set_index(["energy", "method"])
    for energy, floors in stored.attrs["floors"].items():
        # "Full rank gains nothing over mean field"
        gaussians = found.loc[(energy, ["mean field", "full rank"]), "gap"]
        assert gaussians.max() - gaussians.min() < 1e-3
        for name, floor in floors.items():
            above = (found.loc[(energy, "AVB"), name] - floor["mean"]) / floor["std"]
            # "at the floor for the banana", "between two and three standard deviations"
            assert above < 1 if energy == "banana" else 2 < above < 3, (energy, name, above)


def test_eight_schools(prose):
    schools = pretrained.results("eight_schools")
    assert stated(prose, r"every measure compares (\d+ \d+) draws") == schools.attrs["draws"]
    by_method = schools.groupby("method").mean(numeric_only=True)
    counts = r"Some (\d+ \d+) evaluations of the density for NUTS, [\d.]+ million"
    assert stated(prose, counts) == round(by_method.loc["NUTS", "evaluations"], -3)
    counts = r"Some \d+ \d+ evaluations of the density for NUTS, ([\d.]+) million"
    assert stated(prose, counts) == round(by_method.loc["AVB", "evaluations"] / 1e6, 1)
    # "each of their distances lies within two standard deviations of the floor"
    for name, floor in schools.attrs["floors"].items():
        for method in ("NUTS", "AVB"):
            assert by_method.loc[method, name] < floor["mean"] + 2 * floor["std"], (method, name)
        for method in ("mean field", "full rank"):
            far = by_method.loc[method, name] > floor["mean"] + 4 * floor["std"]
            assert far == (name != "kl_mu"), (method, name)
    assert by_method.loc["AVB", "gap"] < 0  # "slightly negative on average"
    worst = stated(prose, r"the worst coordinate has (\d+) effective draws")
    assert worst == round(by_method.loc["NUTS", "effective_draws"], -1)
    assert by_method.loc["NUTS", "divergences"] == 0  # "none diverged"
    assert stated(prose, r"with (\d+) steps of warm-up") == schools.attrs["nuts_warmup"]
    shown = pretrained.results("eight_schools_draws")
    assert stated(prose, r"and (\d+) draws of each method \(orange\)") == len(shown["mu"].iloc[0])
    curves = pretrained.results("eight_schools_curves")
    assert curves["seed"].nunique() == 3
    assert stated(prose, r"mean over three seeds, (\d+ \d+) draws against") == curves.attrs["draws"]


def pairs(prose: str, pattern: str) -> list[float]:
    """Two numbers in one sentence, of seed 0 and of seed 1."""
    (found,) = re.findall(pattern, prose)
    return [float(number) for number in found]


def test_mnist_in_the_plane(prose):
    plane = pretrained.results("avb_mnist").query("dim == 2").sort_values("seed")
    vae, avb = (plane[plane["method"] == m].reset_index() for m in ("vae", "avb"))
    assert list(vae["seed"]) == list(avb["seed"]) == [0, 1]
    assert stated(prose, r"(\d+) test images the next table puts") == avb["fewer"].iloc[0]
    below = vae["exact_on_fewer"] - vae["true_elbo_on_fewer"]
    told = pairs(prose, r"seeds it lies ([\d.]+) and ([\d.]+) nats below the evidence")
    assert told == list(below.round(1))
    assert (vae["bound_on_fewer"] - vae["true_elbo_on_fewer"]).abs().max() < 0.1  # "agrees"
    above = avb["bound_on_fewer"] - avb["exact_on_fewer"]
    told = pairs(prose, r"evidence of these images, by ([\d.]+) and ([\d.]+) nats")
    assert told == list(above.round(1))
    lower = avb["bound_on_fewer"] - avb["true_elbo_on_fewer"]
    told = pairs(prose, r"exact ELBO is ([\d.]+) and ([\d.]+) nats lower than that")
    assert told == list(lower.round(1))
    told = pairs(prose, r"above the exact evidence for (\d+) % and (\d+) % of them")
    assert told == list((100 * avb["share_of_images_with_bound_above"]).round())
    # "about 3 nats", and more than either VAE
    gap = avb["exact_on_fewer"] - avb["true_elbo_on_fewer"]
    assert (gap - 3).abs().max() < 0.1
    assert gap.min() > below.max()
    recorded, about = pretrained.recording("avb_mnist")
    assert set(about["seeds"].values()) == {1}
    codes = stated(prose, r"one code for each of (\d+ \d+) test digits")
    assert codes == len(recorded["labels"]) == len(recorded["avb_2.codes"])
    drawn = stated(prose, r"Below, what (\d+) draws of the prior decode to")
    assert drawn == len(recorded["avb_2.images"]) == len(recorded["vae_2.images"])
    # counting in cells of twice the width tells the same
    coarser = avb["true_elbo_on_fewer_coarser_cells"] - avb["true_elbo_on_fewer"]
    assert coarser.abs().max() < 0.1


def test_mnist_in_8_and_32_dimensions(prose):
    mnist = pretrained.results("avb_mnist")
    steps = stated(prose, r"Our MNIST runs have (\d+ \d+) steps of \d+ images")
    assert (mnist["steps"] == steps).all()
    large = mnist.query("dim > 2")
    assert large["seed"].nunique() == 1  # "single runs, one seed each"
    large = large.set_index(["dim", "method"])
    excess, share = large["bound_minus_log_likelihood"], large["share_of_images_with_bound_above"]
    above = stated(prose, r"no contrast it lies (\d+) nats \*above\* the log-likelihood")
    assert above == round(excess[8, "avb"])
    assert stated(prose, r"and (\d+) nats above in 32") == round(excess[32, "avb"])
    assert share[8, "avb"] == share[32, "avb"] == 1
    assert stated(prose, r"for every one of the (\d+) images") == mnist["few"].iloc[0]
    for dim in (8, 32):
        assert 0 < excess[dim, "avb_ac"] < excess[dim, "avb"] / 2  # "more than half of the excess"
        assert -4 < excess[dim, "vae"] < -2  # "two to four nats below"
    error = large.loc[8, "ais_standard_error_of_an_image"]
    assert stated(prose, r"standard error of AIS is about ([\d.]+) nats") == round(error.mean(), 1)
    claims = large.loc[8, "bound_on_few"]
    lead = claims["avb"] - claims.drop("avb").max()
    assert stated(prose, r"would rank plain AVB first, by (\d+) nats") == round(lead)
    assert list(large.loc[8, "ais"].sort_values().index) == ["avb_ac", "avb", "vae"]
    # "equal within the error of AIS": of a mean over 100 images, 0.07 nats or so, and its bias
    assert abs(large.loc[(32, "avb"), "ais"] - large.loc[(32, "vae"), "ais"]) < 0.3
