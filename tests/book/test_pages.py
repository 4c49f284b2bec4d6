"""The built book, page by page: in a real browser with the network cut, and as plain HTML."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
HTML = ROOT / "book/_build/html"
PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for path in HTML.rglob("*.html")
    if "_static" not in path.relative_to(HTML).parts
)
# Pages that only show source code share one template: the first and the last are opened.
_SOURCES = [page for page in PAGES if page.startswith("_modules/")]
OPENED = [page for page in PAGES if page not in _SOURCES[1:-1]]
each_opened_page = pytest.mark.parametrize("page", OPENED or ["index.html"])
each_page = pytest.mark.parametrize("page", PAGES or ["index.html"])
pytestmark = pytest.mark.browser


# -- as plain HTML --------------------------------------------------------------------------------


@functools.cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(path: Path) -> frozenset[str]:
    page = soup(path)
    ids = {tag["id"] for tag in page.find_all(id=True)}
    return frozenset(ids | {tag["name"] for tag in page.find_all("a", attrs={"name": True})})


@each_page
def test_links_lead_somewhere(html, page):
    here, broken = html / page, []
    for tag, attribute in (("a", "href"), ("link", "href"), ("script", "src"), ("img", "src")):
        for element in soup(here).find_all(tag, attrs={attribute: True}):
            url = urlsplit(element[attribute])
            if url.scheme or url.netloc:
                continue
            target = (here.parent / unquote(url.path)).resolve() if url.path else here
            if target.is_dir():
                target /= "index.html"
            anchored = url.fragment and target.suffix == ".html"
            if not target.exists() or (anchored and unquote(url.fragment) not in anchors(target)):
                broken.append(element[attribute])
    assert not broken, broken


@each_page
def test_every_image_has_alt_text(html, page):
    without = [
        str(image)[:200]
        for image in soup(html / page).find_all("img")
        if not (image.get("alt") or "").strip()
    ]
    assert not without, without


@each_page
def test_ids_are_unique(html, page):
    ids = [tag["id"] for tag in soup(html / page).find_all(id=True)]
    assert not {name for name in ids if ids.count(name) > 1}


def _config() -> dict:
    return yaml.safe_load((ROOT / "book/_config.yml").read_text(encoding="utf-8"))


def test_notebook_pages_open_in_colab_and_can_be_downloaded(html):
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert notebooks
    repository = _config()["repository"]["url"].removeprefix("https://github.com/")
    for notebook in notebooks:
        page = html / f"notebooks/{notebook.stem}.html"
        links = {a["href"] for a in soup(page).find_all("a", href=True)}
        colab = "https://colab.research.google.com/github"
        assert f"{colab}/{repository}/blob/main/notebooks/{notebook.name}" in links
        own = {link for link in links if link.endswith(f"/{notebook.name}")}
        (source,) = {link for link in own if "_sources" in link}
        copy = (page.parent / source).resolve()
        assert copy.read_bytes() == notebook.read_bytes()


def test_the_repository_is_named_in_one_place():
    address = _config()["repository"]["url"].removeprefix("https://")
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "book/_ext").glob("*.py")]
    assert not [path.name for path in pages if address in path.read_text(encoding="utf-8")]


def test_each_equation_links_to_its_row(html):
    marks = 0
    for page in PAGES:
        for mark in soup(html / page).select("a.tie"):
            path, _, label = mark["href"].partition("#")
            target = (html / page).parent / path if path else html / page
            row = soup(target.resolve()).find(id=label).find_parent("tr")
            assert row is not None
            if "tie-tested" in mark["class"]:
                assert row.select("code.tie-test, .tie-test code"), label
            marks += 1
    assert marks >= 10


# -- in the browser -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def context(chromium) -> Iterator:
    """One context for all pages, so that the theme's files are fetched once."""
    context = chromium.new_context()
    yield context
    context.close()


class Visit:
    """One page in the browser, with everything it asked for and complained about."""

    def __init__(self, context, url: str, own: str, width: int = 1280) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(120_000)  # a busy machine may take long over a megabyte
        self.page.set_viewport_size({"width": width, "height": 900})
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self._request(request.url, own))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", lambda r: self.errors.append(f"failed: {r.url}"))
        self.page.on(
            "response",
            lambda r: self.errors.append(f"{r.status}: {r.url}") if r.status >= 400 else None,
        )
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.goto(url, wait_until="load")
        # index.html only leads to the first page
        self.page.wait_for_function("document.querySelector('main') !== null")
        self.page.evaluate("window.MathJax?.startup?.promise.then(() => true)")
        self.page.wait_for_timeout(50)

    def _request(self, url: str, own: str) -> None:
        if not url.startswith((own, "data:", "blob:", "about:")):
            self.foreign.append(url)

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *exception: object) -> None:
        self.page.close()

    def check_quiet(self) -> None:
        assert not self.foreign, f"asks other hosts: {self.foreign}"
        assert not self.errors, self.errors

    def check_math(self) -> None:
        wanted = self.page.locator(".math").count()
        assert self.page.locator("mjx-container").count() >= wanted
        assert self.page.locator("mjx-merror, [data-mjx-error]").count() == 0

    def check_width(self) -> None:
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= self.page.viewport_size["width"], f"the page is {wide} pixels wide"

    def check_no_formula_is_cut_off(self) -> None:
        """A formula wider than its line can be scrolled, with the keyboard too (4 px: accents)."""
        cut = self.page.evaluate(
            """[...document.querySelectorAll("span.math")]
            .filter(box => box.clientWidth > 0 && box.tabIndex < 0)
            .filter(box => box.scrollWidth > box.clientWidth + 4)
            .map(box => box.textContent)"""
        )
        assert not cut, cut

    def check_accessibility(self, *rules: str) -> None:
        """No violation of any kind; of these rules only, if some are named."""
        from axe_playwright_python.sync_playwright import Axe

        # preload would fetch the style sheets' imports from wrong addresses
        options = {"preload": False, "resultTypes": ["violations"]}
        if rules:
            options["runOnly"] = list(rules)
        found = Axe().run(self.page, options=options).response["violations"]
        faults = [
            f"{v['impact']}: {v['id']}: {v['help']}\n    {node['html'][:300]}"
            for v in found
            for node in v["nodes"]
            if not self._is_formula(v["id"], node["target"][0])
        ]
        assert not faults, "\n".join(faults[:10])

    def _is_formula(self, rule: str, target: str) -> bool:
        """axe doesn't count MathML as text, so it calls a header that is a formula empty."""
        formula = self.page.locator(target).locator("mjx-assistive-mml math")
        return rule == "empty-table-header" and formula.count() > 0

    def theme(self, name: str) -> None:
        self.page.evaluate("name => { document.documentElement.dataset.theme = name }", name)
        self.page.wait_for_timeout(250)  # colours change over 0.2 s


@each_opened_page
def test_page_from_a_server(context, server, html, page):
    with Visit(context, f"{server}/{page}", server) as visit:
        visit.check_math()
        visit.check_quiet()
        visit.theme("light")
        visit.check_accessibility()
        visit.theme("dark")  # only colours differ
        visit.check_accessibility("color-contrast", "link-in-text-block")
        visit.page.set_viewport_size({"width": 390, "height": 844})
        visit.page.wait_for_timeout(600)  # the theme and our script follow a change of size
        visit.check_width()
        visit.check_accessibility("scrollable-region-focusable", "target-size", "bypass", "region")
        visit.check_quiet()


@each_opened_page
def test_page_from_disk(context, html, page):
    with Visit(context, f"{html.as_uri()}/{page}", "file:", width=390) as visit:
        visit.check_math()
        visit.check_width()
        visit.check_no_formula_is_cut_off()
        visit.check_quiet()


@pytest.mark.parametrize("origin", ["server", "disk"])
def test_search_finds_a_word(context, server, html, origin):
    base, own = (server, server) if origin == "server" else (html.as_uri(), "file:")
    with Visit(context, f"{base}/search.html?q=posterior", own) as visit:
        visit.page.wait_for_selector("#search-results li a")
        visit.check_quiet()


def test_the_page_that_only_leads_on_asks_for_nothing(html):
    """Without an icon of its own the browser asks for one, and a visit begins with an error."""
    page = soup(html / "index.html")
    assert page.find("a")["href"] == "book/intro.html"
    assert page.find("link", rel="icon")["href"] == "data:,"
    assert not page.select("script, img, link[rel=stylesheet]")


def test_the_first_page_is_the_introduction(context, server, html):
    with Visit(context, f"{server}/", server) as visit:
        assert visit.page.url.endswith("/book/intro.html")


def test_the_theme_can_be_switched_by_keyboard(context, server, html):
    with Visit(context, f"{server}/book/intro.html", server) as visit:
        before = visit.page.evaluate("document.documentElement.dataset.mode")
        visit.page.locator(".theme-switch-button:visible").first.focus()
        visit.page.keyboard.press("Enter")
        assert visit.page.evaluate("document.documentElement.dataset.mode") != before
        visit.check_quiet()
