"""VAE, AVB and AVB with adaptive contrast on binary MNIST in 2, 8 and 32 dimensions.

Pixels are drawn anew from the grey values at every fetch while training, as AVB's authors did; the
test images are drawn once, with seed 0.  All methods have the same decoder, the same batches and
the same number of steps, far fewer than the authors' 2.5 million: the comparison is of methods
at this budget.  Beside what the critic claims stand log p(x) by AIS, and in two dimensions by
quadrature, where the true ELBO is found from draws as well.  Of the runs in the plane the page
shows codes of test images and what draws of the prior decode to; they are recorded.

    python -m experiments.avb_mnist     # about five minutes a run
    python -m experiments.avb_mnist 1   # the next one
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Adam

import tutor
from experiments.record import ROOT, origin
from experiments.runs import do_all
from tutor.critics import BilinearCritic
from tutor.grids import row_name
from tutor.metrics import ais, elbo, exact_elbo, quadrature, sampled_density
from tutor.models import AVB, VAE
from tutor.nets import mlp_decoder, mlp_encoder
from tutor.noise_encoders import FactoredNoiseEncoder, NoiseEncoder

SHAPE, HIDDEN = (1, 28, 28), (256, 256)
STEPS, BATCH = 5_000, 128
RATE = 1e-3  # constant over the first half, then linear to 0
IMAGES, FEW, FEWER = 1_000, 100, 25  # test images of the claims, of log p(x), of true ELBOs
PLANE = [{"method": m, "dim": 2, "seed": s} for m in ("avb", "vae") for s in (0, 1)]
SETTINGS = PLANE + [
    {"method": m, "dim": d, "seed": 0} for d in (8, 32) for m in ("avb", "avb_ac", "vae")
]
CODES, DRAWN = 2_000, 24  # recorded: codes of test images, images from the prior
RUNS = ROOT / "build" / "experiments" / "avb_mnist" / "runs"


def make(dim: int, method: str) -> AVB | VAE:
    decoder = mlp_decoder(dim, SHAPE, hidden=HIDDEN)
    if method == "vae":
        return VAE(dim, encoder=mlp_encoder(SHAPE, 2 * dim, hidden=HIDDEN), decoder=decoder)
    if method == "avb":
        encoder: nn.Module = NoiseEncoder(SHAPE, dim, noise_dim=32, hidden=HIDDEN)
    else:
        encoder = FactoredNoiseEncoder(SHAPE, dim, bases=16, noise_dim=4, hidden=HIDDEN)
    return AVB(
        dim,
        adaptive_contrast=method == "avb_ac",
        contrast_samples=256,
        encoder=encoder,
        decoder=decoder,
        critic=BilinearCritic(SHAPE, dim),
    )


def train(dim: int, method: str, seed: int, folder: Path) -> tuple[AVB | VAE, float | None]:
    torch.manual_seed(seed)
    model = make(dim, method)
    adam = partial(Adam, lr=RATE, betas=(0.9 if method == "vae" else 0.5, 0.999), fused=True)
    history = tutor.fit(
        model,
        tutor.data.load("mnist").binarized_each_time(),
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        checkpoint=folder,
        device="cpu",
        optimizer=adam,
        schedule=tutor.training.decay_after(0.5),
        progress=False,
    )
    whole = history.attrs["steps"] == STEPS  # a resumed run has not timed all of it
    return model.eval(), history.attrs["seconds"] if whole else None


def bound(model: AVB | VAE, x: Tensor, samples: int, seed: int) -> Tensor:
    """The VAE's ELBO, or what AVB's critic claims it to be, ``(n,)``."""
    g = torch.Generator().manual_seed(seed)
    if isinstance(model, AVB):
        return model.claimed_elbo(x, samples=samples, generator=g)
    return elbo(model, x, samples=samples, generator=g)


def true_elbo(
    model: AVB, x: Tensor, evidence: Tensor, draws: int = 400_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """``log p(x) - KL(q(z|x) || p(z|x))`` in the plane, q from counted draws, ``(n,)``.

    Each posterior is looked at in units of its own standard deviation: a KL does not change when
    both densities are stretched.  The second answer is from cells twice as wide.
    """
    g = torch.Generator().manual_seed(seed)
    misses = []
    with torch.no_grad():
        for image, log_p in zip(x.split(1), evidence, strict=True):
            q = model.encode(image)
            mean, std = q.moments(10_000, generator=g)
            draw = partial(_normalised, q, mean, std, g)
            density = sampled_density(draw, draws=draws, bounds=(-25.0, 25.0), points=400)
            z = mean + std * density.z.float()
            joint = model.decode(z).log_prob(image) + model.prior.log_prob(z)
            weights = (joint - log_p + std.log().sum()).double().exp() * density.cell
            misses.append(torch.stack(density.kl(weights)).float())  # (2, 1)
    fine, coarse = torch.cat(misses, 1)
    return evidence - fine, evidence - coarse


def _normalised(q, mean: Tensor, std: Tensor, g: torch.Generator, n: int) -> Tensor:
    return (q.sample((n,), generator=g) - mean) / std


def measure(model: AVB | VAE, dim: int, seed: int) -> dict[str, float | int]:
    x = tutor.data.load("mnist", split="test").binarized(seed=0)[:IMAGES]
    few = x[:FEW]
    claims, claimed = bound(model, x, 10, seed), bound(model, few, 100, seed)
    row: dict[str, float | int] = {
        "images": IMAGES,
        "bound": claims.mean().item(),
        "few": FEW,
        "bound_on_few": claimed.mean().item(),
    }
    if dim == 2:
        exact = quadrature(model, few, tolerance=0.05)
        if isinstance(model, AVB):
            found, coarse = true_elbo(model, few[:FEWER], exact[:FEWER], seed=seed)
            row["true_elbo_on_fewer_coarser_cells"] = coarse.mean().item()
        else:
            found = exact_elbo(model, few[:FEWER], nodes=32)
        row |= {
            "exact": exact.mean().item(),
            "fewer": FEWER,
            "true_elbo_on_fewer": found.mean().item(),
            "bound_on_fewer": claimed[:FEWER].mean().item(),
            "exact_on_fewer": exact[:FEWER].mean().item(),
        }
        over = claimed - exact
    else:
        g = torch.Generator().manual_seed(seed)
        result = ais(model, few, temperatures=200, chains=8, generator=g)
        row |= {
            "ais": result.log_likelihood.mean().item(),
            "ais_standard_error_of_an_image": result.standard_error.mean().item(),
            "ais_acceptance": result.acceptance.mean().item(),
        }
        over = claimed - result.log_likelihood
    row |= {
        "bound_minus_log_likelihood": over.mean().item(),
        "its_standard_error_over_images": (over.std() / math.sqrt(len(over))).item(),
        "share_of_images_with_bound_above": (over > 0).float().mean().item(),
    }
    return row


def shown(model: AVB | VAE, seed: int) -> dict[str, Tensor]:
    """What the page draws: mean images of draws of the prior, and codes of digits."""
    g = torch.Generator().manual_seed(seed)
    x = tutor.data.load("mnist", split="test").binarized(seed=0)[:CODES]
    with torch.no_grad():
        prior = model.decode(model.prior.sample((DRAWN,), generator=g)).mean
        codes = model.encode(x).sample(generator=g).half()  # (CODES, 2)
    return {"images": (255 * prior[:, 0]).round().to(torch.uint8), "codes": codes}


def run(method: str, dim: int, seed: int, checkpoint: Path) -> dict[str, float | int | None]:
    model, seconds = train(dim, method, seed, checkpoint)
    if dim == 2:
        torch.save(shown(model, seed), checkpoint / "shown.pt")
    return {"steps": STEPS, "seconds": seconds, **measure(model, dim, seed)}


def record() -> None:
    """What the page draws of each method's last seed in the plane, once all of it is there."""
    last = {setting["method"]: setting for setting in PLANE}
    files = {method: RUNS / row_name(setting) / "shown.pt" for method, setting in last.items()}
    if not all(file.exists() for file in files.values()):
        return
    tensors = {"labels": tutor.data.load("mnist", split="test").labels[:CODES].to(torch.uint8)}
    for method, file in files.items():
        tensors |= {f"{method}_2.{k}": v for k, v in torch.load(file).items()}
    seeds = {f"{method}_2": setting["seed"] for method, setting in last.items()}
    folder, about = ROOT / "src" / "tutor" / "recordings", {"seeds": seeds, "origin": origin()}
    tutor.pretrained.save_recording(tensors, folder, "avb_mnist", about)


def main() -> None:
    facts = {"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE, "hidden": HIDDEN}
    do_all("avb_mnist", SETTINGS, run, **facts)
    record()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
