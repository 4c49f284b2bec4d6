"""Training steps a second of `tutor.fit`, beside loops in plain PyTorch on the same networks.

    python benchmarks/train_step.py [--steps 100] [--rounds 9] [--threads N]

All loops train a fully connected VAE on MNIST with batches of 128 and Adam. They take turns, round
by round, so that a busy machine slows all of them alike; each goes on training its own copy.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import tutor

BATCH = 128


def negative_elbo(model: tutor.models.VAE, x: torch.Tensor) -> torch.Tensor:
    """The loss as a plain script writes it."""
    mean, log_var = model.encoder(x).chunk(2, dim=1)
    z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
    logits = model.decoder(z)
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
    return (reconstruction + kl) / len(x)


def check_same_loss(model: tutor.models.VAE, x: torch.Tensor) -> None:
    """The loops would not be comparable if they minimised different things."""
    torch.manual_seed(0)
    plain = negative_elbo(model, x)
    torch.manual_seed(0)
    (turn,) = model.step(x)
    torch.testing.assert_close(turn.loss, plain, rtol=1e-5, atol=0)


def plain_loop(model, batches: Iterator[torch.Tensor], optimizer) -> Callable[[int], None]:
    def train(steps: int) -> None:
        for x in itertools.islice(batches, steps):
            loss = negative_elbo(model, x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def from_loader(images: torch.Tensor) -> Iterator[torch.Tensor]:
    loader = DataLoader(TensorDataset(images), batch_size=BATCH, shuffle=True, drop_last=True)
    while True:
        for (x,) in loader:
            yield x


def from_tensor(images: torch.Tensor) -> Iterator[torch.Tensor]:
    while True:
        for index in torch.randperm(len(images)).split(BATCH)[:-1]:
            yield images[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100, help="steps a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    data = tutor.data.load("mnist", fallback="digits")
    images = data[:]
    torch.manual_seed(0)
    first = tutor.models.VAE(latent_dim=2)
    check_same_loss(first, images[:BATCH])

    own, loaded, gathered = (copy.deepcopy(first) for _ in range(3))
    adam = torch.optim.Adam

    def fit(steps: int) -> None:
        tutor.fit(own, data, steps=steps, batch_size=BATCH, device="cpu", progress=False)

    loops = {
        "tutor.fit": fit,
        "plain loop, DataLoader, Adam": plain_loop(
            loaded, from_loader(images), adam(loaded.parameters(), lr=1e-3)
        ),
        "plain loop, gather, fused Adam": plain_loop(
            gathered, from_tensor(images), adam(gathered.parameters(), lr=1e-3, fused=True)
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(options.rounds + 1):
        for name, train in loops.items():
            began = time.perf_counter()
            train(options.steps)
            if turn:  # the first round warms up
                rates[name].append(options.steps / (time.perf_counter() - began))

    parameters = sum(p.numel() for p in first.parameters())
    print(f"VAE with {parameters:,} parameters on {data.name}, batch {BATCH}, CPU")
    version = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{version}, {options.threads} threads")
    print(f"{options.rounds} rounds of {options.steps} steps, taken in turns\n")
    print(f"{'steps a second':32} {'median':>8} {'quartiles':>15} {'beside DataLoader':>19}")
    base = statistics.median(rates["plain loop, DataLoader, Adam"])
    for name, values in rates.items():
        low, middle, high = statistics.quantiles(values, n=4)
        span = f"{low:.0f} to {high:.0f}"
        print(f"{name:32} {middle:8.0f} {span:>15} {middle / base:18.2f}x")


if __name__ == "__main__":
    main()
