"""Training steps a second on a CPU, beside other libraries: the table of ``make bench``.

    python -m benchmarks.cpu [--rounds 21] [--threads 2] [--only mlp_vae] [--no-save]

Two contests, in each of which all loops train the same networks from the same first weights on the
same loss, taking turns: a fully connected VAE on MNIST, and FactorVAE on sprites of 64x64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import tutor
from benchmarks import factor_vae, mlp_vae, results
from benchmarks.race import quartiles, race
from tutor.game import player_parameters

CONTESTS = {
    "mlp_vae": ("MLP VAE 784-512-2 on MNIST, batches of 128", mlp_vae, 150),
    "factor_vae": ("FactorVAE, 64x64, two batches of 64 a step", factor_vae, 10),
}
GOALS = [  # contest, precision, beside whom, how many times as fast
    ("mlp_vae", "float32", "pythae", 1.6),
    ("mlp_vae", "bf16", "pythae", 2.2),
    ("factor_vae", "float32", "pythae", 1.6),
    ("factor_vae", "bf16", "pythae", 2.2),
    ("factor_vae", "float32", "disentangling-vae", 2.3),
    ("factor_vae", "bf16", "disentangling-vae", 3.0),
]
SHARE = 0.6  # of the measured float32 peak, in float32


def useful_flop(model: tutor.Model, x: torch.Tensor) -> int:
    """Operations of one step's matrix products and convolutions, each product counted once.

    FactorVAE's discriminator sees the first batch's codes in both turns; the second time is
    not counted.
    """
    owned = player_parameters(model)
    with FlopCounterMode(display=False) as counter:
        for turn in model.step(x):
            torch.autograd.grad(turn.loss, owned[turn.player])
    total = counter.get_total_flops()
    if isinstance(model, tutor.models.FactorVAE):
        with FlopCounterMode(display=False) as again:
            model.log_ratio(torch.zeros(len(x) // 2, model.latent_dim))
        total -= again.get_total_flops()
    return total


def contest(key: str, rounds: int) -> dict[str, Any]:
    """Run one contest; the rows of its table, from the fastest down."""
    title, module, steps = CONTESTS[key]
    loops = module.contestants(steps)
    rates, peaks = race(loops, steps, rounds)
    model = module.make_model()
    flop = useful_flop(model, torch.rand(module.BATCH, *model.image_shape))
    peak = quartiles(peaks)[1]
    base = quartiles(rates["pythae"])[0]
    rows = []
    for loop in loops:
        low, middle, high = quartiles(rates[loop.name])
        rows.append(
            {
                "loop": loop.name,
                "what": loop.what,
                "lower_quartile": low,
                "median": middle,
                "upper_quartile": high,
                "beside_pythae": low / base,
                "share_of_peak": low * flop / 1e9 / peak,
            }
        )
    rows.sort(key=lambda row: -row["lower_quartile"])
    return {
        "title": title,
        "steps_a_round": steps,
        "rounds": rounds,
        "gflop_a_step": flop / 1e9,
        "peak_gflops": peak,
        "rows": rows,
    }


def goals(contests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted and what was reached, by lower quartiles."""
    found = []

    def add(key: str, goal: str, wanted: float, reached: float) -> None:
        contest = {"contest": key, "goal": goal, "wanted": wanted, "reached": reached}
        found.append(contest | {"met": reached >= wanted})

    low = {
        key: {row["loop"]: row["lower_quartile"] for row in one["rows"]}
        for key, one in contests.items()
    }
    for key, precision, other, times in GOALS:
        if key in contests:
            ratio = low[key][f"tutor.fit, {precision}"] / low[key][other]
            add(key, f"{precision}, times {other}", times, ratio)
    for key, one in contests.items():
        (row,) = [row for row in one["rows"] if row["loop"] == "tutor.fit, float32"]
        add(key, "float32, share of the peak", SHARE, row["share_of_peak"])
    return found


def show(one: dict[str, Any]) -> None:
    print(f"\n{one['title']}: {one['rounds']} rounds of {one['steps_a_round']} steps")
    print(
        f"{one['gflop_a_step']:.3g} GFLOP a step; a float32 matrix product runs at "
        f"{one['peak_gflops']:.0f} GFLOP/s\n"
    )
    print(
        f"{'steps a second':26} {'lower':>7} {'median':>7} {'upper':>7} {'pythae':>7} {'peak':>6}"
    )
    for row in one["rows"]:
        print(
            f"{row['loop']:26} {row['lower_quartile']:7.1f} {row['median']:7.1f} "
            f"{row['upper_quartile']:7.1f} {row['beside_pythae']:6.2f}x "
            f"{row['share_of_peak']:6.0%}  {row['what']}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=CONTESTS, help="one of the two contests")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)

    contests = {}
    for key in [options.only] if options.only else CONTESTS:
        contests[key] = contest(key, options.rounds)
        show(contests[key])
    print(f"\n{'goal':45} {'wanted':>7} {'reached':>8}")
    for goal in goals(contests):
        name = f"{goal['contest']}: {goal['goal']}"
        mark = "" if goal["met"] else "  not met"
        print(f"{name:45} {goal['wanted']:7.2f} {goal['reached']:8.2f}{mark}")
    if not options.no_save:
        command = " ".join(["python -m benchmarks.cpu", *sys.argv[1:]])
        results.save("training", {"contests": contests, "goals": goals(contests)}, command)


if __name__ == "__main__":
    main()
