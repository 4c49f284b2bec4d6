"""Small models whose figures can be made in a moment, and a visit to a page that shows one."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tutor.data import Dataset
from tutor.models import VAE
from tutor.widgets import LatentExplorer

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A figure</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width, initial-scale=1"></head>
<body style="margin: 8px; background: #fff"><main><h1>A figure</h1>{figure}
<p style="height: 1500px">After the figure.</p></main></body></html>"""


def mlp() -> nn.Sequential:
    """The decoder of the first chapter's plane: 2-256-256-784."""
    return nn.Sequential(
        nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 784),
        nn.Unflatten(1, (1, 28, 28)),
    )  # fmt: skip


def convolutional() -> nn.Sequential:
    """Every layer the runtime knows, odd kernels and uneven strides among them; 28 x 28."""
    return nn.Sequential(
        nn.Linear(2, 64), nn.ELU(0.7), nn.Linear(64, 32 * 7 * 7, bias=False), nn.LeakyReLU(0.2),
        nn.Unflatten(1, (32, 7, 7)),
        nn.Sequential(nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1), nn.Softplus(beta=2.0)),
        nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1), nn.Tanh(),
        nn.ConvTranspose2d(8, 4, (3, 5), stride=1, padding=(1, 2)), nn.Identity(), nn.ReLU(),
        nn.ConvTranspose2d(4, 1, 1), nn.Flatten(), nn.Unflatten(1, (1, 28, 28)),
    )  # fmt: skip


def colourful() -> nn.Sequential:
    """Three channels, not square: 3 x 12 x 20."""
    return nn.Sequential(nn.Linear(2, 720), nn.Sigmoid(), nn.Unflatten(1, (3, 12, 20)))


def vae(decoder: Callable[[], nn.Sequential] = mlp, seed: int = 0, **arguments) -> VAE:
    """A VAE with random weights, large enough that its images and codes vary."""
    devices: list[int] = []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model = VAE(latent_dim=2, decoder=decoder(), **arguments)
    with torch.no_grad():
        for layer in model.decoder.modules():
            if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                layer.weight *= 2.5
        last = model.encoder[-1]
        last.weight *= 20  # spreads the codes
        last.bias[2:] = -3  # standard deviations near exp(-1.5)
    return model.eval()


def blobs(
    n: int = 300, shape: tuple[int, int, int] = (1, 28, 28), labelled: bool = True
) -> Dataset:
    """Images of one smooth bright spot each; the class is the quarter where it lies, times ten."""
    generator = torch.Generator().manual_seed(1)
    c, h, w = shape
    centre = torch.rand(n, 2, generator=generator)
    rows, columns = torch.linspace(0, 1, h), torch.linspace(0, 1, w)
    distance = (rows[None, :, None] - centre[:, 0, None, None]) ** 2 + (
        columns[None, None, :] - centre[:, 1, None, None]
    ) ** 2
    images = torch.exp(-distance / 0.03)[:, None].repeat(1, c, 1, 1)
    images = (images * torch.linspace(1, 0.4, c)[:, None, None] * 255).round().to(torch.uint8)
    labels = (centre[:, 0] > 0.5) * 20 + (centre[:, 1] > 0.5) * 10 if labelled else None
    return Dataset(images, labels, name="blobs")


@dataclass
class Shown:
    """A figure with the model and data it shows, and the page it stands in."""

    model: VAE
    dataset: Dataset
    widget: LatentExplorer
    page: Path


def shown(folder: Path, name: str, model: VAE, dataset: Dataset, points: int) -> Shown:
    widget = LatentExplorer(model, dataset, points=points)
    page = folder / f"{name}.html"
    page.write_text(PAGE.format(figure=widget.to_html()), encoding="utf-8")
    return Shown(model, dataset, widget, page)


class Visit:
    """A page with a live figure; leaving it checks that nothing was complained about or fetched."""

    def __init__(self, browser, url: str, *, figure: bool = True, **context) -> None:
        context.setdefault("viewport", {"width": 1000, "height": 900})
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.figure = figure

    def __enter__(self) -> Visit:
        page = self.page
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(self.url)
        if self.figure:
            page.wait_for_selector(".tutor-explorer[data-theme]", timeout=15_000)
            page.locator(".tutor-map").first.scroll_into_view_if_needed()
            self.settle()
        return self

    def __exit__(self, kind, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert self.complaints == []
            outside = [u for u in self.requests if not u.startswith(("data:", "blob:"))]
            assert outside == [self.url]

    def _hear(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def settle(self) -> None:
        """Two frames: what was asked for is painted."""
        self.page.evaluate(
            "() => new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))"
        )

    def at(self, position: int) -> tuple[float, float]:
        """Where a code is drawn, in the window."""
        x, y = self.page.evaluate(
            "(i) => document.querySelector('.tutor-explorer').__where(i)", position
        )
        box = self.page.locator(".tutor-map").first.bounding_box()
        return box["x"] + x, box["y"] + y

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The browser's decoder at codes ``(n, 2)``: flat images ``(n, D)``."""
        images = self.page.evaluate(
            "(z) => z.map((v) => [...document.querySelector('.tutor-explorer').__decode(v)])",
            z.tolist(),
        )
        return torch.tensor(images)

    def pixels(self, which: str) -> torch.Tensor:
        """What the canvas of this label shows, as uint8 ``(3, H, W)``."""
        return self._read(f'canvas[aria-label="{which}"]')

    def pixels_of_map(self) -> torch.Tensor:
        """What the plane shows, as uint8 ``(3, H, W)``."""
        return self._read("canvas.tutor-map")

    def _read(self, selector: str) -> torch.Tensor:
        self.settle()
        text, width, height = self.page.evaluate(
            """(selector) => {
              const c = document.querySelector(selector);
              const copy = new OffscreenCanvas(c.width, c.height).getContext("2d");
              copy.drawImage(c, 0, 0);
              const f = copy.getImageData(0, 0, c.width, c.height).data;
              let text = "";
              for (let i = 0; i < f.length; i += 30000)
                text += String.fromCharCode(...f.subarray(i, i + 30000));
              return [btoa(text), c.width, c.height];
            }""",
            selector,
        )
        rgba = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
        return rgba.view(height, width, 4)[:, :, :3].permute(2, 0, 1)

    def point(self) -> torch.Tensor:
        """The code that the caption names, to two decimals."""
        text = self.page.locator(".tutor-z").first.inner_text().replace("\u2212", "-")
        return torch.tensor([float(v) for v in text[text.index("(") + 1 : -1].split(",")])
