"""The benchmark on a CPU: equal losses, a fair race, and tables that read what was stored."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch

from benchmarks import cpu, factor_vae, mlp_vae, results
from benchmarks.race import Contestant, quartiles, race
from tutor import pretrained

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location(
    "stored_tables", ROOT / "book" / "_ext" / "stored_tables.py"
)
PAGE = re.sub(r"\s+", " ", (ROOT / "book" / "speed.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tables():
    module = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(module)
    return module


def test_all_loops_minimise_one_function():
    """The checks that the script makes first pass, and fail for a loss that is a mean."""
    model, x = mlp_vae.make_model(), torch.rand(8, 1, 28, 28)
    mlp_vae.check_same_loss(model, x)
    factor_vae.check_same_losses(factor_vae.make_model(), x.new_ones(1, 64, 64) * 0.3)
    model.weigh = lambda reconstruction, kl: reconstruction / 784 + kl
    with pytest.raises(AssertionError):
        mlp_vae.check_same_loss(model, x)


def test_the_arithmetic_of_a_step():
    """Products of 784-512-4 and 2-512-784, forward and back; no gradient of the images."""
    first, code, before, last = 784 * 512, 512 * 4, 2 * 512, 512 * 784
    wanted = 2 * 128 * (2 * first + 3 * (code + before + last))
    x = torch.rand(128, 1, 28, 28)
    assert cpu.useful_flop(mlp_vae.make_model(), x) == wanted


def test_everybody_runs_once_a_round_and_takes_turns_to_be_first():
    order = []
    loops = [Contestant(name, "", lambda steps, name=name: order.append(name)) for name in "abc"]
    rates, peaks = race(loops, steps=1, rounds=2)
    assert ["".join(order[i : i + 3]) for i in (0, 3, 6)] == ["abc", "bca", "cab"]
    assert {name: len(values) for name, values in rates.items()} == {"a": 2, "b": 2, "c": 2}
    assert len(peaks) == 2
    assert min(peaks) > 0


def test_goals_are_held_against_lower_quartiles():
    names = ("tutor.fit, float32", "tutor.fit, bf16", "pythae", "disentangling-vae")
    rows = [
        {"loop": name, "lower_quartile": low, "share_of_peak": 0.5}
        for name, low in zip(names, (16.0, 21.0, 10.0, 8.0), strict=True)
    ]
    found = {goal["goal"]: goal for goal in cpu.goals({"mlp_vae": {"rows": rows}})}
    assert {name: goal["met"] for name, goal in found.items()} == {
        "float32, times pythae": True,
        "bf16, times pythae": False,
        "float32, share of the peak": False,
    }
    assert found["bf16, times pythae"]["reached"] == 2.1
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_sections_are_kept_and_read_by_the_page(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "FILE", tmp_path / "results" / "cpu.json")
    row = {
        "loop": "one", "what": "ours", "lower_quartile": 8.12345, "median": 9.0,
        "upper_quartile": 10.0, "beside_pythae": 1.5, "share_of_peak": 0.61,
    }  # fmt: skip
    results.save("training", {"contests": {"mlp_vae": {"rows": [row]}}}, "first")
    seconds = {
        "encoding_seconds": {"bf16": 30.0}, "scores_seconds": {"MIG": 0.5},
        "exact_rate_images": 10, "exact_rate_seconds": 1.0,
        "drawing_seconds": {"drawing all rooms": 20.0},
    }  # fmt: skip
    results.save("evaluation", seconds, "second")
    stored = json.loads(results.FILE.read_text())
    assert tables.training(stored, "mlp_vae")[1] == [
        ["one", "ours", "8.123 (9, 10)", "1.50", "61%"]
    ]
    assert tables.evaluation(stored)[1][:2] == [
        ["encoding all images, bf16", "30.00"],
        ["MIG", "0.50"],
    ]
    assert tables.evaluation(stored)[1][-1] == ["drawing all rooms", "20.00"]
    assert "`first` at commit" in tables.origin(stored, "training")


def test_what_the_page_says_of_bfloat16(tables):
    runs = pretrained.results("precision")
    pairs = {
        (model, figure): runs[runs["model"] == model].pivot(
            index="seed", columns="precision", values=figure
        )
        for model, figure in itertools.product(
            ("vae", "factor-vae"), ("negative_elbo", "factor_vae_score")
        )
    }
    gaps = {key: table["bf16"] - table["float32"] for key, table in pairs.items()}
    assert f"after {runs.attrs['steps'] // 1000} 000 steps" in PAGE
    assert f"$\\gamma = {runs.attrs['gamma']:.0f}$" in PAGE
    assert "losses agree within two standard errors" in PAGE
    loss = gaps["vae", "negative_elbo"]
    assert abs(loss.mean()) < 2 * loss.sem()
    assert "negative ELBO is higher in four pairs of five, and its score lower in four" in PAGE
    assert (gaps["factor-vae", "negative_elbo"] > 0).sum() == 4
    assert (gaps["factor-vae", "factor_vae_score"] < 0).sum() == 4
    assert len(loss) >= 5
    assert len(gaps["factor-vae", "factor_vae_score"]) == 5
    assert len(tables.precision()[1]) == 6


def test_what_the_page_says_is_left_to_gain():
    """The sentences about the bare loop, the peak and the goals, from the stored race."""
    stored = json.loads(results.FILE.read_text())["training"]
    low = {
        key: {row["loop"]: row["lower_quartile"] for row in one["rows"]}
        for key, one in stored["contests"].items()
    }
    share = {
        key: {row["loop"]: row["share_of_peak"] for row in one["rows"]}
        for key, one in stored["contests"].items()
    }
    bare, ours = low["mlp_vae"]["bare loop"], low["mlp_vae"]["tutor.fit, float32"]
    pythae = share["factor_vae"]["pythae"]
    assert f"bare loop stops at {share['mlp_vae']['bare loop']:.0%} of the peak" in PAGE
    assert f"`fit` is within {math.ceil(100 * (1 - ours / bare))}% of it" in PAGE
    assert f"useful arithmetic at {pythae:.0%} of the peak" in PAGE
    assert f"1.6 times as fast would need {1.6 * pythae:.0%}" in PAGE
    beside = {(g["contest"], g["goal"]): g for g in stored["goals"]}
    reached = [
        beside[key, f"{precision}, times pythae"]
        for key in ("mlp_vae", "factor_vae")
        for precision in ("float32", "bf16")
    ]
    figures = [f"{goal['reached']:.2f}" for goal in reached]
    assert "{} and {} for the first model, {} and {} for the second".format(*figures) in PAGE
    assert [goal["met"] for goal in reached] == [False, True, False, False]
