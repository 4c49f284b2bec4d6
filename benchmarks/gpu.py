"""What `tutor` does on a GPU: one call of under ten minutes that checks and times all of it.

    python -m benchmarks.gpu                 # needs a CUDA device
    python -m benchmarks.gpu --rehearse      # on a CPU in tiny sizes: the rates mean nothing

Every part writes its results to benchmarks/results/gpu.json when it is done, so that a call that
is cut short keeps what it has.  The exit status is 1 when a part failed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

# Streams beyond this number wait for each other; it is read when CUDA starts.
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tutor
from tutor import graphs, models
from tutor.batches import Rows
from tutor.checkpoints import write_atomically
from tutor.data import Dataset, SemiSupervised
from tutor.data.packed import PackedDataset
from tutor.data.sprites import SIZES as SPRITE_SIZES
from tutor.energies import Banana
from tutor.priors import GaussianMixture

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "benchmarks" / "results" / "gpu.json"
PAPER_STEPS = 300_000
GOALS = {"minutes_for_300000_steps": 3.0, "fifty_runs_at_once": 4.0}


@dataclass(frozen=True)
class Sizes:
    """How much of everything: on a GPU, or in a rehearsal."""

    sprites: int  # images that FactorVAE is timed on
    batch: int  # images a step, FactorVAE's two batches together
    few: int  # steps on which devices are compared
    rounds: int  # rounds in which recorded and eager loop are compared
    eager: tuple[int, int]  # a short and a long run; their difference is timed
    recorded: tuple[int, int]
    many: tuple[int, int]
    runs: int
    repeats: int
    matrix: int  # side of the matrices for the peak


FULL = Sizes(20_000, 128, 5, 120, (100, 500), (500, 4500), (200, 1200), 50, 3, 8192)
TINY = Sizes(64, 8, 2, 8, (4, 6), (4, 6), (2, 4), 2, 1, 64)


# -- what is trained ------------------------------------------------------------------------------


def games() -> dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]]:
    """Every model of `tutor.models` with its default networks, and data that it takes."""
    digits = tutor.data.load("digits").subset(slice(0, 256))
    squares = Dataset(
        torch.randint(256, (64, 1, 64, 64), generator=seeded(), dtype=torch.uint8)
    )  # fmt: skip
    semi = SemiSupervised(digits, known=torch.arange(100), batch_size=16)

    def of(data: Any) -> Callable[[], Any]:
        return lambda: data

    points = Rows(torch.zeros(256, 1))
    mixture = functools.partial(models.AAE, supervised=True)
    return {
        "VAE": (models.VAE, of(digits)),
        "BetaVAE": (models.BetaVAE, of(digits)),
        "AAE": (models.AAE, of(digits)),
        "AAE, Gaussian": (lambda: models.AAE(posterior="gaussian"), of(digits)),
        "AAE, universal": (lambda: models.AAE(posterior="universal"), of(digits)),
        "AAE, supervised": (lambda: mixture(prior=GaussianMixture()), of(digits.labelled())),
        "ClusteringAAE": (models.ClusteringAAE, of(digits)),
        "SemiSupervisedAAE": (models.SemiSupervisedAAE, of(semi)),
        "ClusterHeadsAAE": (models.ClusterHeadsAAE, of(semi)),
        "ConditionalAAE": (models.ConditionalAAE, of(digits.labelled())),
        "DigitClassifier": (lambda: models.DigitClassifier(dropout=0.0), of(digits.labelled())),
        "WAE-MMD": (models.WAE, of(digits)),
        "WAE-GAN": (lambda: models.WAE(penalty="gan"), of(digits)),
        "AVB": (lambda: models.AVB(annealing_steps=5), of(digits)),
        "AVB, contrast": (lambda: models.AVB(adaptive_contrast=True), of(digits)),
        "FactorVAE": (models.FactorVAE, of(squares)),
        "BetaTCVAE": (lambda: models.BetaTCVAE(data_size=64), of(squares)),
        "DIPVAE": (models.DIPVAE, of(squares)),
        "EnergyAVB": (lambda: models.EnergyAVB(Banana()), of(points)),
        "GaussianVB": (lambda: models.GaussianVB(Banana()), of(points)),
    }


@functools.cache
def sprites(n: int) -> PackedDataset:
    """That many sprites as bits, drawn at random factors."""
    factors = torch.stack([torch.randint(s, (n,), generator=seeded()) for s in SPRITE_SIZES], 1)
    weights = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8)
    pieces = [tutor.data.render_dsprites(part).view(-1, 512, 8) for part in factors.split(500)]
    packed = [(p.to(torch.uint8) * weights).sum(2, dtype=torch.uint8) for p in pieces]
    return PackedDataset(torch.cat(packed), (1, 64, 64), name="sprites")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class InDouble:
    """A data source whose images are float64."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device) -> InDouble:
        return InDouble(self.source.to(device))

    def take(self, index: Tensor) -> Any:
        batch = self.source.take(index)
        if isinstance(batch, Tensor):
            return batch.double()
        return tuple(t.double() if t.is_floating_point() else t for t in batch)


@contextlib.contextmanager
def noise_from_the_cpu() -> Iterator[None]:
    """Random numbers are drawn on the CPU whatever the device: the same ones on every device."""

    def moved(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def drawn(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            return draw(*args, **kwargs).to("cpu" if device is None else device)

        return drawn

    def like(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x: draw(x.shape, dtype=x.dtype).to(x.device)

    with contextlib.ExitStack() as stack:
        for name in ("rand", "randn", "randint"):
            stack.enter_context(mock.patch.object(torch, name, moved(getattr(torch, name))))
        stack.enter_context(mock.patch.object(torch, "randn_like", like(torch.randn)))
        stack.enter_context(mock.patch.object(torch, "rand_like", like(torch.rand)))
        yield


# -- parts ----------------------------------------------------------------------------------------


def agreement(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """A few steps on the device change the weights as on the CPU: in float64, by relative size."""
    rows = {}
    for name, (make, source) in games().items():
        torch.manual_seed(0)
        first = make().double()
        changes = []
        for where in (torch.device("cpu"), device):
            model = copy.deepcopy(first)
            with noise_from_the_cpu(), graphs.eager():
                tutor.fit(
                    model,
                    InDouble(source()),
                    steps=sizes.few,
                    batch_size=16,
                    device=where,
                    optimizer=functools.partial(torch.optim.SGD, lr=1e-4),
                    progress=False,
                )
            before = dict(first.named_parameters())
            after = {k: p.detach().cpu() for k, p in model.named_parameters()}
            changes.append({k: after[k] - before[k].detach() for k in after})
        here, there = changes
        # A change that is all rounding (a bias before a batch normalisation) is measured against
        # the whole model's.
        whole = max(change.norm() for change in here.values())
        rows[name] = max(
            float((there[k] - here[k]).norm() / max(here[k].norm(), 1e-6 * whole)) for k in here
        )
    worst = max(rows.values())
    return {"passed": worst < 1e-6, "largest_relative_difference": worst, "by_model": rows}


def recorded_equals_eager(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Rounds of every model, recorded and twice eager, from the same weights: where they end.

    Some sums on a GPU are taken in any order, so two eager runs may differ.  A recorded one may
    differ from them by no more than a few times that.
    """
    rows = {}
    for name, (make, source) in games().items():
        ends = []
        for loop in (contextlib.nullcontext, graphs.eager, graphs.eager):
            torch.manual_seed(0)
            model = make()
            with loop():
                history = tutor.fit(
                    model,
                    source(),
                    steps=sizes.rounds,
                    batch_size=16,
                    device=device,
                    progress=False,
                )
            ends.append(dict(model.named_parameters()))
            rows.setdefault(name, {"loop": history.attrs["loop"]})
        recorded, eager, again = ends
        rows[name]["largest_difference"] = apart(recorded, eager)
        rows[name]["of_two_eager_runs"] = apart(eager, again)
        rows[name]["passed"] = rows[name]["largest_difference"] <= 1e-6 + 5 * rows[name][
            "of_two_eager_runs"
        ] and (rows[name]["loop"] == "CUDA graph" or device.type == "cpu")
    return {"passed": all(row["passed"] for row in rows.values()), "by_model": rows}


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest difference of two runs' weights."""
    return max(float((one[k] - other[k]).detach().abs().max()) for k in one)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether products of float32 numbers may drop 13 of their bits; convolutions do by default."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


PRECISIONS = {"float32": (False, "float32"), "TF32": (True, "float32"), "bf16": (False, "bf16")}


def speed(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Steps a second of FactorVAE with the paper's networks, 64x64, two batches of 64 a step."""
    data = sprites(sizes.sprites).to(device)
    rows: dict[str, Any] = {}
    for name, (allowed, precision) in PRECISIONS.items():
        rows[name] = {"peak_tflops": peak(device, sizes.matrix, name)}
        for loop, block, steps in (
            ("recorded", contextlib.nullcontext, sizes.recorded),
            ("eager", graphs.eager, sizes.eager),
        ):
            rates = []
            for _ in range(sizes.repeats):
                with tf32(allowed), block():
                    short, long = (
                        fitted(models.FactorVAE, data, n, sizes.batch, device, precision)
                        for n in steps
                    )
                rates.append((steps[1] - steps[0]) / (long - short))
            rows[name][loop] = {
                "steps_per_second": statistics.median(rates),
                "lowest": min(rates),
                "highest": max(rates),
            }
        minutes = PAPER_STEPS / rows[name]["recorded"]["steps_per_second"] / 60
        rows[name]["minutes_for_300000_steps"] = minutes
    best = min(row["minutes_for_300000_steps"] for row in rows.values())
    goal = best < GOALS["minutes_for_300000_steps"]
    return {"passed": True, "goal_reached": goal, "least_minutes": best, "by_precision": rows}


def fitted(
    make: Callable[[], nn.Module],
    data: Any,
    steps: int,
    batch: int,
    device: torch.device,
    precision: str = "float32",
) -> float:
    """Seconds that `fit` takes for that many steps, the first ones and the recording included."""
    torch.manual_seed(0)
    history = tutor.fit(
        make(), data, steps=steps, batch_size=batch, device=device, precision=precision,
        progress=False,
    )  # fmt: skip
    wait(device)
    return history.attrs["seconds"]


def peak(device: torch.device, side: int, name: str) -> float:
    """Measured rate of a large matrix product in that precision, in TFLOP a second."""
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    with tf32(name == "TF32"):
        for _ in range(4):
            wait(device)
            began = time.perf_counter()
            a @ a
            wait(device)
            best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best / 1e12


def many(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Steps a second of many runs at once, beside those of one run after another."""
    digits = tutor.data.load("digits").to(device)
    cases = {
        "FactorVAE": (models.FactorVAE, sprites(sizes.sprites).to(device), sizes.batch),
        "VAE": (models.VAE, digits, sizes.batch),
    }
    short, long = sizes.many
    rows: dict[str, Any] = {}
    for name, (make, data, batch) in cases.items():
        alone = statistics.median(
            (long - short)
            / (
                fitted(make, data, long, batch, device)
                - fitted(make, data, short, batch, device)
            )
            for _ in range(sizes.repeats)
        )  # fmt: skip
        seconds = []
        for steps in (short, long):  # their difference leaves out the recordings
            began = time.perf_counter()
            tutor.fit_many(
                make, data, seeds=range(sizes.runs), steps=steps, batch_size=batch,
                device=device, progress=False,
            )  # fmt: skip
            wait(device)
            seconds.append(time.perf_counter() - began)
        together = sizes.runs * (long - short) / (seconds[1] - seconds[0])
        rows[name] = {
            "runs": sizes.runs,
            "steps_per_second_one_after_another": alone,
            "steps_per_second_at_once": together,
            "times": together / alone,
            "seconds_before_the_first_replays": seconds[0] - sizes.runs * short / together,
        }
    rows["VAE"]["steps_per_second_batched_parameters"] = batched(device, sizes, digits)
    equal = _runs_are_single_runs(device, sizes, digits)
    goal = rows["FactorVAE"]["times"] >= GOALS["fifty_runs_at_once"]
    return {"passed": equal, "goal_reached": goal, "equal_to_single_runs": equal, "by_model": rows}


def _runs_are_single_runs(device: torch.device, sizes: Sizes, data: Dataset) -> bool:
    arguments = {"steps": sizes.rounds, "batch_size": 16, "device": device, "progress": False}
    for run in tutor.fit_many(models.VAE, data, seeds=range(3), **arguments):
        torch.manual_seed(run.seed)
        model = models.VAE()
        tutor.fit(model, data, seed=run.seed, **arguments)
        for one, other in zip(run.model.parameters(), model.parameters(), strict=True):
            if not torch.allclose(one, other, rtol=1e-5, atol=1e-6):
                return False
    return True


def batched(device: torch.device, sizes: Sizes, data: Dataset) -> float:
    """The other way to train many VAEs: their weights stacked, one step for all, recorded too."""
    vaes = [models.VAE().to(device) for _ in range(sizes.runs)]
    weights, _ = torch.func.stack_module_state(vaes)
    weights = {k: w.detach().requires_grad_() for k, w in weights.items()}
    skeleton = vaes[0]

    class Bound(nn.Module):
        """The negative ELBO of one VAE on one batch."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = skeleton.encoder, skeleton.decoder

        def forward(self, x: Tensor, noise: Tensor) -> Tensor:
            mean, log_var = self.encoder(x).chunk(2, dim=1)
            logits = self.decoder(mean + (0.5 * log_var).exp() * noise)
            pixels = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum()
            return (pixels + kl) / len(x)

    bound = Bound()
    each = torch.vmap(lambda w, x, e: torch.func.functional_call(bound, w, (x, e)))
    optimizer = torch.optim.Adam(
        weights.values(), lr=1e-3, fused=True, capturable=device.type == "cuda"
    )
    optimizer._warned_capturable_if_run_uncaptured = True
    shape = (sizes.runs, sizes.batch)

    def step() -> None:
        index = torch.randint(len(data), shape, device=device)
        x = data.take(index.view(-1)).view(*shape, *data.shape)
        losses = each(weights, x, torch.randn(*shape, skeleton.latent_dim, device=device))
        own = list(weights.values())
        for weight, gradient in zip(own, torch.autograd.grad(losses.sum(), own), strict=True):
            weight.grad = gradient
        optimizer.step()

    with graphs.own_stream(device):
        for _ in range(graphs.WARM_UP):
            step()
        play = graphs.record(step, device) if device.type == "cuda" else step
        rates = []
        for _ in range(sizes.repeats + 1):
            wait(device)
            began = time.perf_counter()
            for _ in range(sizes.many[1]):
                play()
            wait(device)
            rates.append(sizes.runs * sizes.many[1] / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def checkpoints(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """A run that is stopped and taken up again ends with the weights of one that was not."""
    half = sizes.rounds // 2
    digits = tutor.data.load("digits")

    def end(stops: tuple[int, ...], folder: str | None) -> Mapping[str, Tensor]:
        for steps in stops:
            torch.manual_seed(0)
            model = models.AVB(annealing_steps=5)
            tutor.fit(
                model, digits, steps=steps, batch_size=16, device=device, checkpoint=folder,
                progress=False,
            )  # fmt: skip
        return model.state_dict()

    with tempfile.TemporaryDirectory() as folder:
        resumed = end((half, sizes.rounds), folder)
    whole = end((sizes.rounds,), None)
    worst = apart(resumed, whole)
    return {"passed": worst < 1e-5, "largest_difference": worst}


PARTS = {
    "agreement": agreement,
    "recorded_equals_eager": recorded_equals_eager,
    "checkpoints": checkpoints,
    "speed": speed,
    "many": many,
}


# -- running them ---------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def origin(device: torch.device, command: str) -> dict[str, Any]:
    """Command, version, commit, machine and date of this run."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    facts = {
        "command": command,
        "version": tutor.__version__,
        "commit": subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        facts |= {
            "device": card.name,
            "memory_gib": card.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "connections": os.environ["CUDA_DEVICE_MAX_CONNECTIONS"],
        }
    return facts


def rounded(value: Any) -> Any:
    """Numbers with four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, in tiny sizes")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--output", type=Path, help="where to write (a rehearsal: nowhere)")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("no CUDA device here, nothing was run; --rehearse tries every line on the CPU")
        return 0
    device = torch.device("cpu") if options.rehearse else tutor.devices.resolve_device("cuda")
    sizes = TINY if options.rehearse else FULL
    output = options.output or (None if options.rehearse else FILE)
    command = " ".join(
        ["python -m benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)]
    )
    results: dict[str, Any] = {}
    if output is not None and output.exists():
        results = json.loads(output.read_text())
    failed = []
    for name in options.only:
        began = time.perf_counter()
        try:
            result = PARTS[name](device, sizes)
        except Exception as error:
            traceback.print_exc()
            result = {"passed": False, "error": f"{type(error).__name__}: {error}"}
        result["seconds"] = time.perf_counter() - began
        result["origin"] = origin(device, command)
        results[name] = rounded(result)
        if not result["passed"]:
            failed.append(name)
        shown = {k: v for k, v in results[name].items() if k != "origin"}
        print(f"\n{name}\n{json.dumps(shown, indent=1)}", flush=True)
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(output, (json.dumps(results, indent=1) + "\n").encode())
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall parts passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
