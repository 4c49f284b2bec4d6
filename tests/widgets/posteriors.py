"""Frames whose posteriors are Gaussians of known place and width, and a visit to their page."""

from __future__ import annotations

import base64
import functools
import math

import torch

from tests.widgets.figures import Visit
from tutor.data import four_points
from tutor.priors import Gaussian
from tutor.widgets import PosteriorFrames, PosteriorViewer

CENTRES = torch.tensor([[1.5, -0.8], [-1.2, 1.4], [-1.6, -1.3], [0.9, 1.7]])
WINDOW = torch.tensor([-4.0, 4.0, -4.0, 4.0])


def gaussian_frames(
    name: str = "VAE",
    *,
    moments: int = 5,
    grid: int = 48,
    draws: int = 0,
    narrow: bool = False,
    numbers: bool = True,
) -> PosteriorFrames:
    """Four posteriors that leave the prior for their centres; q(z|x) is the exact posterior.

    Standard deviations fall from 1 to 0.5 along z1 and to 0.3 along z2 (a tenth of all that, if
    narrow, with windows of six of the larger ones to each side).
    """
    share = torch.linspace(0, 1, moments)[:, None, None]
    mean = share * CENTRES
    std = (1 - share * torch.tensor([0.5, 0.7])).expand(moments, 4, 2) * (0.1 if narrow else 1)
    bounds = WINDOW
    if narrow:
        half = 6 * std[..., :1]
        bounds = torch.stack([mean - half, mean + half], 3).flatten(2)
    every = bounds.expand(moments, 4, 4).unsqueeze(-1)
    ticks = (torch.arange(grid) + 0.5) / grid
    z1 = (every[:, :, 0] + (every[:, :, 1] - every[:, :, 0]) * ticks)[..., :, None]
    z2 = (every[:, :, 2] + (every[:, :, 3] - every[:, :, 2]) * ticks)[..., None, :]

    def log_normal(z: torch.Tensor, axis: int) -> torch.Tensor:
        m, s = mean[..., axis, None, None], std[..., axis, None, None]
        return -0.5 * ((z - m) / s).square() - s.log() - 0.5 * math.log(2 * math.pi)

    noise = torch.randn(4, max(draws, 1), 2, generator=torch.Generator().manual_seed(3))
    table = 0.1 * torch.arange(4) + torch.arange(moments)[:, None]
    return PosteriorFrames(
        name,
        1000 * torch.arange(moments),
        log_normal(z1, 0) + log_normal(z2, 1),
        bounds,
        mean=None if draws else mean,
        log_var=None if draws else 2 * std.log(),
        samples=mean.unsqueeze(2) + std.unsqueeze(2) * noise if draws else None,
        log_evidence=-1.5 - table if numbers else None,
        kl=None if draws or not numbers else table,
    )


@functools.cache
def viewer(**arguments) -> PosteriorViewer:
    """Both methods over the four images of two by two pixels; made once, so leave it as it is."""
    vae = gaussian_frames(**arguments)
    avb = gaussian_frames("AVB", draws=200, **arguments)
    return PosteriorViewer(four_points()[:], vae, avb, prior=Gaussian(2))


class PosteriorVisit(Visit):
    """A page with a posterior viewer."""

    def __init__(self, browser, url: str, *, figure: bool = True, **context) -> None:
        super().__init__(browser, url, figure=False, **context)
        self.viewer = figure

    def __enter__(self) -> PosteriorVisit:
        super().__enter__()
        if self.viewer:
            self.page.wait_for_selector(".tutor-posteriors[data-theme]", timeout=15_000)
            self.settle()
        return self

    def root(self, script: str, argument=None):
        """What a function of the figure's root and one argument returns."""
        return self.page.evaluate(
            f"(a) => ({script})(document.querySelector('.tutor-posteriors'), a)", argument
        )

    def rest(self) -> dict:
        """The figure's state, once nothing moves."""
        self.page.wait_for_function(
            """() => {
              const s = document.querySelector(".tutor-posteriors").__state();
              return s.shown === s.frame && !s.playing;
            }"""
        )
        self.settle()
        return self.root("(root) => root.__state()")

    def choose(self, name: str | None) -> None:
        label = "All" if name is None else f"Image {name}"
        self.page.get_by_role("button", name=label, exact=True).click()
        self.settle()

    def panel(self, m: int = 0) -> torch.Tensor:
        """What panel m shows on the figure's paper, as uint8 ``(3, H, W)``."""
        self.settle()
        text, side = self.root(
            """(root, m) => {
              const c = root.querySelectorAll(".tutor-panel-map")[m];
              const g = new OffscreenCanvas(c.width, c.height).getContext("2d");
              g.fillStyle = getComputedStyle(root).backgroundColor;
              g.fillRect(0, 0, c.width, c.height);
              g.drawImage(c, 0, 0);
              const f = g.getImageData(0, 0, c.width, c.height).data;
              let text = "";
              for (let i = 0; i < f.length; i += 30000)
                text += String.fromCharCode(...f.subarray(i, i + 30000));
              return [btoa(text), c.width];
            }""",
            m,
        )
        rgba = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
        return rgba.view(side, side, 4)[:, :, :3].permute(2, 0, 1)

    def where(self, z, m: int = 0) -> tuple[int, int]:
        """Row and column of panel m at which code z is drawn."""
        x, y = self.root("(root, [m, a, b]) => root.__where(m, a, b)", [m, *map(float, z)])
        return round(y), round(x)

    def numbers(self, m: int = 0) -> list[str]:
        panel = self.page.locator(".tutor-panel").nth(m)
        return [text.replace("\u2212", "-") for text in panel.locator("dd").all_inner_texts()]
