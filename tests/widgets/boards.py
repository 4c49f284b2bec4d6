"""Small models with random decoders of Kim & Mnih's shape, and a visit to their page."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.widgets.figures import Visit
from tutor.data import Dataset
from tutor.models import BetaVAE
from tutor.nets.factor_vae import factor_vae_decoder
from tutor.widgets import TraversalBoard

FACTORS = {"shape": 3, "size": 4, "row": 8, "column": 8}


def world() -> Dataset:
    """Squares, discs and diamonds of four sizes on a grid of places, 64x64, binary."""
    factors = torch.cartesian_prod(*(torch.arange(size) for size in FACTORS.values()))
    kind, size, row, column = (f[:, None, None].float() for f in factors.T)
    pixels = torch.arange(64.0)
    up = (pixels[:, None] - (14 + 5 * row)).abs()
    across = (pixels[None, :] - (14 + 5 * column)).abs()
    distance = torch.where(
        kind == 0,
        torch.maximum(up, across),
        torch.where(kind == 1, (up**2 + across**2).sqrt(), up + across),
    )
    images = (distance <= 5 + 2 * size).to(torch.uint8)[:, None] * 255
    dataset = Dataset(images, name="places")
    dataset.factors = factors
    dataset.factor_names = tuple(FACTORS)
    dataset.factor_sizes = tuple(FACTORS.values())
    return dataset


class Reader(nn.Module):
    """An encoder of the world: code 0 is the row, 1 the column, 2 minus the size; 3 to 9 noise.

    It counts pixels, so it reads the factors exactly up to scale; returns means and log variances.
    """

    def __init__(self, tilt: float, dims: int = 10) -> None:
        super().__init__()
        self.tilt, self.dims = tilt, dims
        self.weight = nn.Parameter(torch.zeros(1))  # a module without weights has no device

    def forward(self, x: Tensor) -> Tensor:
        pixels = torch.linspace(-1, 1, 64)
        mass = x.sum((1, 2, 3))
        row = (x.sum((1, 3)) * pixels).sum(1) / mass
        column = (x.sum((1, 2)) * pixels).sum(1) / mass
        size = mass.sqrt() / 15 - 1
        noise = 0.01 * torch.sin(1e4 * (row + 7 * column + 3 * size)[:, None] * torch.arange(1, 30))
        code = torch.stack([row + self.tilt * column, column - self.tilt * row, -size], 1)
        code = torch.cat([2 * code, noise[:, : self.dims - 3]], 1)
        return torch.cat([code, torch.full_like(code, -4.0)], 1)


def board_model(seed: int = 0, tilt: float = 0.0, channels: int = 1) -> BetaVAE:
    """Random decoder weights, large enough that images vary with every dimension."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        decoder = factor_vae_decoder(10, channels=channels)
        model = BetaVAE(10, image_shape=(channels, 64, 64), encoder=Reader(tilt), decoder=decoder)
    with torch.no_grad():
        for layer in decoder:
            if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                layer.weight *= 3
    return model.eval()


def board(points: int = 500) -> TraversalBoard:
    models = {"beta-VAE": board_model(0, tilt=0.7), "FactorVAE": board_model(1)}
    return TraversalBoard(models, world(), images=5, points=points)


class BoardVisit(Visit):
    """A page with a board; leaving it checks that nothing was complained about or fetched."""

    def __enter__(self) -> BoardVisit:
        wanted, self.figure = self.figure, False
        super().__enter__()
        if wanted:
            self.page.wait_for_selector(".tutor-board[data-theme]", timeout=30_000)
            self.page.locator(".tutor-board").first.scroll_into_view_if_needed()
            self.rest()
        return self

    def ask(self, what: str, given=None):
        """The value of an expression in which `root` is the figure and `given` an argument."""
        return self.page.evaluate(
            f"(given) => {{ const root = document.querySelector('.tutor-board'); return {what}; }}",
            given,
        )

    def rest(self) -> dict:
        """The state once the strip is complete."""
        self.settle()
        self.page.wait_for_function(
            "() => document.querySelector('.tutor-board').__state().tiles === 9", timeout=30_000
        )
        self.settle()
        return self.ask("root.__state()")

    def button(self, name: str):
        return self.page.get_by_role("button", name=name, exact=True)

    def slider(self, k: int):
        return self.page.get_by_role("slider", name=f"z{k + 1}", exact=True)

    def decode(self, z: Tensor, name: str | None = None) -> Tensor:
        images = self.page.evaluate(
            "([z, name]) => z.map((v) => "
            "document.querySelector('.tutor-board').__decode(v, name ?? undefined))",
            [z.tolist(), name],
        )
        return torch.tensor(images)

    def table(self) -> list[list[str]]:
        rows = self.page.locator(".tutor-heat tbody tr")
        return [
            [text.replace("\u2212", "-") for text in rows.nth(k).locator("td").all_inner_texts()]
            for k in range(rows.count())
        ]
