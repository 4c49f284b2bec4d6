"""Recordings made up in a moment: codes on a straight way to samples of a prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.widgets.figures import Visit, blobs
from tutor.data import Dataset
from tutor.metrics import energy_distance
from tutor.priors import Gaussian, GaussianMixture, SwissRoll, UniformBox
from tutor.widgets import PriorPlayground, Recording

PRIORS = {
    "Gaussian": Gaussian(2),
    "Mixture of ten": GaussianMixture(),
    "Swiss roll": SwissRoll(),
    "Uniform": UniformBox(2),
}


def decoder(seed: int) -> nn.Sequential:
    """Random weights, large enough that the images vary: 2-64-64-784."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 784),
            nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28)),
        )  # fmt: skip
    with torch.no_grad():
        for layer in network[:5:2]:
            layer.weight *= 2.5
    return network


def digits(n: int = 500) -> Dataset:
    """Smooth spots in ten classes, by the angle at which they lie."""
    images = blobs(n).images
    row = images.float().mean(3).argmax(2).flatten()
    return Dataset(images, (row * 10 // 28).long(), name="spots")


def recording(prior, labels: Tensor, seed: int = 0, moments: int = 25) -> Recording:
    generator = torch.Generator().manual_seed(seed)
    n = len(labels)
    centre = torch.randn(11, 2, generator=generator)[labels]
    start = centre + 0.2 * torch.randn(n, 2, generator=generator)
    end = prior.sample((n,), generator=generator)
    order = torch.linspace(-1, 1, n).unsqueeze(1)
    start, end = start[start[:, 0].argsort()] + 0 * order, end[end[:, 0].argsort()]
    share = torch.linspace(0, 1, moments)[:, None, None] ** 0.5
    codes = (1 - share) * start + share * end
    codes += (1 - share) * 0.05 * torch.randn(codes.shape, generator=generator)
    energy = [energy_distance(c, prior.sample((n,), generator=generator)) for c in codes]
    steps = torch.arange(moments) * 160
    return Recording(prior, steps, codes, labels, decoder(seed), torch.stack(energy), 0.004)


def recordings(n: int = 500, moments: int = 25) -> dict[str, Recording]:
    labels = digits(n).labels
    return {
        name: recording(prior, labels, seed, moments)
        for seed, (name, prior) in enumerate(PRIORS.items())
    }


def playground(n: int = 500, moments: int = 25) -> PriorPlayground:
    return PriorPlayground(recordings(n, moments), images=digits(n)[:])


class PlaygroundVisit(Visit):
    """A page with a playground; leaving it checks that nothing was complained about or fetched."""

    def __enter__(self) -> PlaygroundVisit:
        wanted, self.figure = self.figure, False
        super().__enter__()
        if wanted:
            self.page.wait_for_selector(".tutor-playground[data-theme]", timeout=30_000)
            self.page.locator(".tutor-map").first.scroll_into_view_if_needed()
            self.settle()
        return self

    def ask(self, what: str):
        """The value of an expression in which `root` is the figure."""
        return self.page.evaluate(
            f"() => {{ const root = document.querySelector('.tutor-playground'); return {what}; }}"
        )

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def choose(self, name: str) -> None:
        """Another prior; the dots have arrived when this returns."""
        self.button(name).click()
        self.page.mouse.move(0, 0)
        self.page.wait_for_function(
            "(name) => document.querySelector('.tutor-playground').__state().prior === name",
            arg=name,
        )
        self.page.wait_for_timeout(700)
        self.settle()

    def slide(self, moment: float) -> None:
        self.page.locator(".tutor-playground input").first.fill(str(moment))
        self.settle()

    def decode(self, z: Tensor) -> Tensor:
        return torch.tensor(
            self.page.evaluate(
                "(z) => z.map((v) => [...document.querySelector('.tutor-playground').__decode(v)])",
                z.tolist(),
            )
        )
