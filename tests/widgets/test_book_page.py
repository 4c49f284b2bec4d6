"""The live figure as a reader meets it: on the built page of the first chapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.widgets.figures import Visit
from tutor import pretrained

pytestmark = pytest.mark.browser

PAGE = Path(__file__).parents[2] / "book/_build/html/notebooks/01_vae.html"


@pytest.fixture(scope="module")
def chapter() -> str:
    if not PAGE.exists():
        pytest.skip("book/_build/html/notebooks/01_vae.html is missing: run make book first")
    return PAGE.as_uri()


@pytest.fixture(scope="module")
def model():
    return pretrained.load("vae_mnist_2d")


class Chapter(Visit):
    """The page asks for its own files; the book's tests look at those."""

    def __exit__(self, kind, *rest: object) -> None:
        self.requests = [self.url]
        super().__exit__(kind, *rest)


def test_the_chapter_draws_what_torch_decodes(chromium, chapter, model, capsys):
    z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model.decode(z).mean.flatten(1)
    with Chapter(chromium, chapter) as visit:
        difference = (visit.decode(z) - wanted).abs().max().item()
    with capsys.disabled():
        print(f"\n01_vae.html: largest difference to torch over 100 codes {difference:.1e} a pixel")
    assert difference < 1e-3


def test_the_pointer_changes_the_drawn_image(chromium, chapter, model):
    with Chapter(chromium, chapter) as visit:
        before = visit.pixels("Decoded image").float()
        visit.page.mouse.move(*visit.at(0))
        drawn = visit.pixels("Decoded image").float()
        z = torch.tensor([visit.page.evaluate("document.querySelector('.tutor-explorer').__z()")])
    assert (drawn - before).abs().max() > 50
    with torch.no_grad():
        wanted = 255 * model.decode(z).mean[0]
    # the canvas has whole levels: half a level of rounding, and 1e-3 of a pixel is a quarter level
    assert (drawn - wanted).abs().max() < 0.76


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_wears_the_theme_of_the_page(chromium, chapter, theme):
    with Chapter(chromium, chapter) as visit:
        visit.page.evaluate(f"() => {{ document.documentElement.dataset.theme = '{theme}'; }}")
        visit.page.wait_for_selector(f".tutor-explorer[data-theme={theme}]")


def test_the_chapter_fits_a_phone(chromium, chapter):
    viewport = {"width": 390, "height": 844}
    with Chapter(chromium, chapter, viewport=viewport, has_touch=True) as visit:
        box = visit.page.locator(".tutor-explorer").first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        visit.page.touchscreen.tap(*visit.at(0))
        visit.settle()
        assert "class" in visit.page.locator(".tutor-facts").first.inner_text()
