"""The posterior viewer in a real Chromium, without a kernel and without a network."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import pytest
import torch

from tests.widgets.figures import PAGE
from tests.widgets.posteriors import CENTRES, PosteriorVisit, gaussian_frames, viewer
from tests.widgets.test_live_page import MODEL, PHONE, drag
from tutor.data import four_points
from tutor.widgets import PosteriorViewer

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def posterior_pages(pages) -> dict[str, Path]:
    """Pages beside those of the explorer, so that the same server shows them."""
    folder = pages["mlp"].page.parent
    widgets = {
        "posteriors": viewer(),
        "narrow": viewer(narrow=True),
        "single": PosteriorViewer(four_points()[:], gaussian_frames(moments=1, numbers=False)),
    }
    for name, widget in widgets.items():
        text = PAGE.format(figure=widget.to_html())
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in widgets}


@pytest.fixture
def on_disk(chromium, posterior_pages):
    with PosteriorVisit(chromium, posterior_pages["posteriors"].as_uri()) as visit:
        yield visit


def paper(visit: PosteriorVisit) -> tuple[int, ...]:
    text = visit.root("(root) => getComputedStyle(root).backgroundColor")
    return tuple(int(v) for v in text[4:-1].split(","))


def dark(visit: PosteriorVisit, panel: torch.Tensor, z, m: int = 0) -> bool:
    """Whether a pixel at z, or one of its neighbours, has at least half of the light page's ink.

    The shading of image 1, violet, is never as dark: its blue stays full.
    """
    row, column = visit.where(z, m)
    near = panel[:, row - 1 : row + 2, column - 1 : column + 2].float().sum(0)
    return bool(near.min() < 3 * 120)


# -- what is drawn ----------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["file", "http"])
def test_it_runs_from_disk_and_from_a_server(chromium, origins, posterior_pages, origin):
    with PosteriorVisit(chromium, f"{origins[origin]}/posteriors.html") as visit:
        assert visit.rest() == {"frame": 4, "shown": 4, "point": -1, "playing": False}
        assert visit.page.locator(".tutor-step").inner_text() == "step 4\u202f000"
        assert visit.panel(0).float().std() > 5


def test_the_shading_is_the_exact_posterior(on_disk):
    """Against the page's paper: full at the peak, e^-1/4 at one deviation, nothing far away.

    The shade is the root of the density, so it falls like exp(-d^2 / 4) with d in deviations.
    """
    on_disk.choose("2")
    std = torch.tensor([0.5, 0.3])
    # along a diagonal away from the ellipses' strokes and from the axes
    shades = []
    for steps in (0.3, 0.75, 1.5, 2.5):
        z = CENTRES[1] + steps * std * torch.tensor([0.70711, 0.70711])
        row, column = on_disk.where(z)
        pixel = on_disk.panel(0)[:, row, column].float()
        d = (torch.tensor([0xFC, 0xFB, 0xF8]) - pixel)[2].item()  # blue: what rust takes away
        shades.append(d)
    wanted = [torch.exp(torch.tensor(-(d**2) / 4)).item() for d in (0.3, 0.75, 1.5, 2.5)]
    ratios = [shade / shades[0] * wanted[0] for shade in shades]
    # a pixel is 1/40 of a unit and the shading is drawn in cells of 1/6: linear between them
    assert ratios == pytest.approx(wanted, abs=0.06)
    assert shades[0] > 60


def test_the_ellipses_are_one_and_two_deviations(on_disk):
    on_disk.choose("1")
    panel = on_disk.panel()
    for deviations, drawn in ((0.6, False), (1, True), (1.5, False), (2, True), (2.4, False)):
        for side in torch.eye(2).repeat(2, 1) * torch.tensor([1, 1, -1, -1])[:, None]:
            z = CENTRES[0] + deviations * side * torch.tensor([0.5, 0.3])
            assert dark(on_disk, panel, z) is drawn, (deviations, side)


def test_the_dots_lie_where_the_draws_are(on_disk):
    on_disk.choose("1")
    draws = gaussian_frames("AVB", draws=200).samples[-1, 0]
    panel = on_disk.panel(1)
    found = sum(dark(on_disk, panel, z, 1) for z in draws)
    moved = sum(dark(on_disk, panel, z + torch.tensor([0.5, 0.5]), 1) for z in draws)
    assert found > 190  # the rims of later dots and a label of the prior hide a few
    assert moved < 100


def test_all_points_have_their_colours_and_images(on_disk):
    """In panel 2 dots of the four colours, and at their middle the image in a frame."""
    panel = on_disk.panel(1).float()
    colours = ["#5a0fff", "#c34b0f", "#009678", "#3c3c5a"]
    for i, colour in enumerate(colours):
        rgb = torch.tensor([int(colour[k : k + 2], 16) for k in (1, 3, 5)])[:, None, None]
        close = (panel - rgb).abs().amax(0) < 12
        assert close.sum() > 200, colour
        rows, columns = close.nonzero().float().mean(0)
        row, column = on_disk.where(CENTRES[i], 1)
        assert abs(rows - row) < 12
        assert abs(columns - column) < 12


def test_time_between_two_frames_is_halfway(on_disk):
    """On the way dots and ellipses move straight: half the time, half the way."""
    on_disk.choose("1")
    draws = gaussian_frames("AVB", draws=200).samples[:, 0]
    on_disk.root("(root) => root.__paint(1.5)")  # nothing else asks for a frame now
    panel = on_disk.panel(1)
    found = [
        sum(dark(on_disk, panel, z, 1) for z in positions)
        for positions in (0.5 * (draws[1] + draws[2]), draws[1], draws[2])
    ]
    assert found[0] > 185
    assert max(found[1:]) < 140
    std = 1 - 0.375 * torch.tensor([0.5, 0.7])
    for deviations, drawn in ((0.6, False), (1, True), (1.5, False), (2, True), (2.4, False)):
        z = 0.375 * CENTRES[0] + torch.tensor([deviations * std[0], 0.0])
        assert dark(on_disk, on_disk.panel(), z) is drawn, deviations


def processor_seconds() -> float:
    """Processor time so far of all processes that this one has started, the browser's among them.

    Unlike the clock on the wall it does not count what other programs do in the meantime.
    """
    used, parent = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = int(stat.parent.name), stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has just ended
            continue
        parent[pid], used[pid] = int(rest[1]), int(rest[11]) + int(rest[12])

    def ours(pid: int) -> bool:
        return pid in parent and (parent[pid] == os.getpid() or ours(parent[pid]))

    return sum(t for pid, t in used.items() if ours(pid)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to read times from")
def test_a_frame_takes_less_than_a_sixtieth_of_a_second(on_disk, capsys):
    rounds = []
    for _ in range(3):
        before = processor_seconds()
        on_disk.root(
            """(root) => {
              const g = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
              const canvases = root.querySelectorAll(".tutor-panel-map");
              for (let i = 0; i < 80; i++) {
                root.__paint((i % 40) / 10);
                // reading a pixel waits until all is painted
                for (const c of canvases) g.drawImage(c, 0, 0, 1, 1);
                g.getImageData(0, 0, 1, 1);
              }
            }"""
        )
        rounds.append(1000 * (processor_seconds() - before) / 80)
    with capsys.disabled():
        print(
            f"\nposterior viewer, all points, two panels of {on_disk.panel().shape[1]} pixels, "
            f"no graphics card: {min(rounds):.1f} ms of processor time a frame"
        )
    assert min(rounds) < 16


# -- choosing and scrubbing -------------------------------------------------------------------


def test_a_point_is_chosen_and_given_up(on_disk):
    plain = on_disk.panel()
    on_disk.choose("2")
    assert on_disk.root("(root) => root.__state().point") == 1
    pressed = on_disk.page.locator(".tutor-points [aria-pressed=true]")
    assert pressed.get_attribute("aria-label") == "Image 2"
    assert not torch.equal(on_disk.panel(), plain)
    on_disk.page.keyboard.press("Escape")
    on_disk.settle()
    assert pressed.inner_text() == "All"
    assert torch.equal(on_disk.panel(), plain)


def test_the_numbers_are_those_of_frame_and_point(on_disk):
    assert on_disk.numbers(0) == ["-5.65 nats, mean", "4.15 nats, mean"]
    assert on_disk.numbers(1) == ["-5.65 nats, mean", "not measured"]
    on_disk.choose("4")
    assert on_disk.numbers(0) == ["-5.80 nats", "4.30 nats"]
    on_disk.page.get_by_label("Training step").press("Home")
    assert on_disk.numbers(0) == ["-1.80 nats", "0.30 nats"]
    said = on_disk.page.locator("[aria-live=polite]")
    on_disk.page.wait_for_function(
        "() => document.querySelector('[aria-live]').textContent.startsWith('Step 0, image 4.')"
    )
    assert said.inner_text().replace("\u2212", "-") == (
        "Step 0, image 4. VAE: log p(x) -1.80 nats, KL 0.30 nats. AVB: log p(x) -1.80 nats."
    )


def test_the_arrow_keys_move_through_training(on_disk):
    slider = on_disk.page.get_by_label("Training step")
    last = on_disk.panel()
    slider.focus()
    on_disk.page.keyboard.press("ArrowLeft")
    assert on_disk.rest()["frame"] == 3
    assert slider.get_attribute("aria-valuetext") == "step 3\u202f000"
    assert not torch.equal(on_disk.panel(), last)
    on_disk.page.keyboard.press("ArrowRight")
    assert on_disk.rest()["frame"] == 4
    assert torch.equal(on_disk.panel(), last)  # at rest exactly the recorded frame
    on_disk.page.get_by_role("button", name="Image 1", exact=True).focus()
    on_disk.page.keyboard.press("Home")  # from any part of the figure
    assert on_disk.rest()["frame"] == 0
    on_disk.page.keyboard.press("End")
    assert on_disk.rest()["frame"] == 4


def test_the_slider_is_dragged(on_disk):
    box = on_disk.page.get_by_label("Training step").bounding_box()
    y = box["y"] + box["height"] / 2
    on_disk.page.mouse.move(box["x"] + box["width"] - 8, y)
    on_disk.page.mouse.down()
    seen = set()
    for share in (0.9, 0.75, 0.6, 0.5):
        on_disk.page.mouse.move(box["x"] + share * box["width"], y)
        seen.add(on_disk.rest()["frame"])
    on_disk.page.mouse.up()
    assert {2, 3} <= seen
    assert on_disk.rest()["frame"] == 2


def test_play_runs_once_through_and_stops(on_disk):
    on_disk.root(
        """(root) => {
          root.seen = [];
          new MutationObserver(() => root.seen.push(root.__state().frame))
            .observe(root.querySelector(".tutor-step"), { childList: true });
        }"""
    )
    button = on_disk.page.get_by_role("button", name="Play")
    button.click()
    on_disk.page.get_by_role("button", name="Pause").wait_for()
    on_disk.page.get_by_role("button", name="Play").wait_for()
    assert on_disk.rest()["frame"] == 4
    assert on_disk.root("(root) => root.seen") == [0, 1, 2, 3, 4]


def test_pause_and_scrubbing_stop_it(on_disk):
    on_disk.page.get_by_role("button", name="Play").click()
    on_disk.page.get_by_role("button", name="Pause").click()
    first = on_disk.rest()
    on_disk.page.wait_for_timeout(600)
    assert on_disk.rest() == first
    on_disk.page.get_by_role("button", name="Play").click()
    on_disk.page.get_by_label("Training step").press("Home")
    on_disk.page.wait_for_timeout(600)
    assert on_disk.rest()["frame"] == 0


def test_with_less_motion_nothing_glides(chromium, posterior_pages):
    url = posterior_pages["posteriors"].as_uri()
    with PosteriorVisit(chromium, url, reduced_motion="reduce") as visit:
        visit.page.get_by_label("Training step").press("ArrowLeft")
        visit.settle()
        assert visit.root("(root) => root.__state().shown") == 3
        shown = visit.root(
            """async (root) => {
              const shown = new Set();
              root.querySelector(".tutor-play").click();
              for (let i = 0; i < 30; i++) {
                await new Promise((f) => setTimeout(f, 20));
                shown.add(root.__state().shown);
              }
              return [...shown];
            }"""
        )
        assert all(f == int(f) for f in shown)
        visit.page.get_by_role("button", name="Play").wait_for()
        assert visit.rest()["frame"] == 4


def test_every_control_is_reached_by_tab_and_shows_it(on_disk):
    on_disk.page.get_by_role("button", name="All").focus()
    on_disk.page.keyboard.press("Shift+Tab")
    names = []
    for _ in range(7):
        on_disk.page.keyboard.press("Tab")
        name, outline = on_disk.page.evaluate(
            """() => [document.activeElement.ariaLabel || document.activeElement.textContent,
                      getComputedStyle(document.activeElement).outlineStyle]"""
        )
        names.append(name)
        assert outline == "solid", name
    assert names == ["All", *(f"Image {i}" for i in (1, 2, 3, 4)), "Play", "Training step"]


def test_fingers(chromium, posterior_pages):
    with PosteriorVisit(chromium, posterior_pages["posteriors"].as_uri(), **PHONE) as visit:
        visit.page.get_by_role("button", name="Image 3", exact=True).tap()
        visit.settle()
        assert visit.root("(root) => root.__state().point") == 2
        box = visit.page.get_by_label("Training step").bounding_box()
        visit.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert visit.rest()["frame"] == 2
        # a finger on a panel scrolls the page
        panel = visit.page.locator(".tutor-panel-map").first.bounding_box()
        drag(visit, panel["x"] + 50, panel["y"] + 150, 0, -120)
        visit.page.wait_for_function("() => scrollY > 50")


def test_one_method_at_one_moment_has_no_slider(chromium, posterior_pages):
    with PosteriorVisit(chromium, posterior_pages["single"].as_uri()) as visit:
        assert not visit.page.get_by_label("Training step").is_visible()
        assert visit.page.locator(".tutor-panel").count() == 1
        assert visit.page.locator("dd:visible").count() == 0
        visit.choose("2")
        visit.page.keyboard.press("ArrowRight")
        assert visit.rest() == {"frame": 0, "shown": 0, "point": 1, "playing": False}


# -- windows of their own ---------------------------------------------------------------------


def test_a_narrow_posterior_is_shown_in_its_window(chromium, posterior_pages):
    with PosteriorVisit(chromium, posterior_pages["narrow"].as_uri()) as visit:
        size = visit.page.locator(".tutor-panel-map").first.bounding_box()["width"]
        plain = visit.panel()
        visit.choose("2")
        # the window is six deviations of 0.05 to each side: its middle is the panel's
        assert visit.where(CENTRES[1]) == pytest.approx((size / 2, size / 2), abs=1)
        edge = visit.where(CENTRES[1] + torch.tensor([0.3, 0.0]))
        assert edge[1] == pytest.approx(size, abs=1)
        # where the corner's map puts this window: a frame in the accent's colour, #2f5fb3
        low, high, _, top = viewer(narrow=True).bounds
        side = round(0.28 * size)
        x = size - side - 6 + (CENTRES[1][0].item() - low) / (high - low) * side
        y = 6 + (top - CENTRES[1][1].item()) / (high - low) * side
        panel = visit.panel().float()
        accent = torch.tensor([0x2F, 0x5F, 0xB3])[:, None, None]
        rows, columns = ((panel - accent).abs().amax(0) < 40).nonzero().float().mean(0)
        assert (rows.item(), columns.item()) == pytest.approx((y, x), abs=1.5)
        visit.choose(None)
        assert torch.equal(visit.panel(), plain)


def test_both_panels_have_one_scale(chromium, tmp_path):
    vae, avb = gaussian_frames(narrow=True), gaussian_frames("AVB", draws=20)
    page = tmp_path / "scales.html"
    widget = PosteriorViewer(four_points()[:], vae, avb)
    page.write_text(PAGE.format(figure=widget.to_html()), encoding="utf-8")
    with PosteriorVisit(chromium, page.as_uri()) as visit:
        visit.choose("1")
        spans = []
        for m in (0, 1):
            (_, a), (_, b) = (visit.where([v, 0.0], m) for v in (0.0, 1.0))
            spans.append(b - a)
        assert spans[0] == pytest.approx(spans[1], abs=1)


# -- the page around --------------------------------------------------------------------------


def test_the_theme_is_followed_while_it_changes(on_disk):
    for theme in ("dark", "light", "dark"):
        before = on_disk.panel()
        on_disk.page.evaluate(f"() => {{ document.documentElement.dataset.theme = '{theme}'; }}")
        on_disk.page.wait_for_selector(f".tutor-posteriors[data-theme={theme}]")
        assert (sum(paper(on_disk)) < 200) is (theme == "dark")
        if theme == "dark":
            assert not torch.equal(on_disk.panel(), before)


@pytest.mark.parametrize("width", [340, 390, 700, 1400])
def test_nothing_sticks_out_and_nothing_jumps(chromium, posterior_pages, width):
    viewport = {"width": width, "height": 900}
    url = posterior_pages["posteriors"].as_uri()
    with PosteriorVisit(chromium, url, viewport=viewport) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        edges = visit.root(
            """(root) => {
              const right = root.getBoundingClientRect().right;
              return [...root.querySelectorAll("*:not(.tutor-said)")].map(
                (node) => right - node.getBoundingClientRect().right);
            }"""
        )
        assert min(edges) >= 0
        heights = set()
        for name in (None, "1", "4"):
            visit.choose(name)
            for key in ("Home", "ArrowRight", "End"):
                visit.page.keyboard.press(key)
                visit.rest()
                heights.add(visit.root("(root) => root.getBoundingClientRect().height"))
        assert len(heights) == 1
        boxes = [visit.page.locator(".tutor-panel-map").nth(m).bounding_box() for m in (0, 1)]
        assert boxes[0]["y"] == boxes[1]["y"]  # side by side, to be compared
        assert boxes[0]["width"] > 0.4 * min(width, 736) - 10


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
@pytest.mark.parametrize("point", [None, "2"])
def test_axe_finds_no_violation(chromium, posterior_pages, theme, width, point):
    from axe_playwright_python.sync_playwright import Axe

    viewport = {"width": width, "height": 900}
    url = posterior_pages["posteriors"].as_uri()
    with PosteriorVisit(chromium, url, viewport=viewport) as visit:
        visit.page.evaluate(f"() => {{ document.documentElement.dataset.theme = '{theme}'; }}")
        visit.choose(point)
        results = Axe().run(visit.page, context=".tutor-posteriors")
    assert len(results.response["passes"]) > 5  # it did look
    assert [v["id"] for v in results.response["violations"]] == []


def test_the_panels_say_what_they_show(on_disk):
    on_disk.choose("2")
    labels = [
        on_disk.page.locator(".tutor-panel-map").nth(m).get_attribute("aria-label") for m in (0, 1)
    ]
    step = "step 4\u202f000"
    assert labels == [
        f"VAE, {step}: exact posterior of image 2, with the Gaussian q(z|x) as ellipses.",
        f"AVB, {step}: exact posterior of image 2, with 200 draws of q(z|x) as dots.",
    ]


def test_draws_outside_are_counted(chromium, tmp_path):
    small = torch.tensor([-1.0, 2.0, -2.0, 1.0])  # not the recorded grid's window, but a window
    frames = gaussian_frames("AVB", draws=200)._replace(bounds=small)
    page = tmp_path / "outside.html"
    widget = PosteriorViewer(four_points()[:], frames)
    page.write_text(PAGE.format(figure=widget.to_html()), encoding="utf-8")
    draws = frames.samples[-1]
    inside = (draws >= small[0::2]) & (draws <= small[1::2])
    outside = (~inside.all(-1)).sum(1).tolist()
    with PosteriorVisit(chromium, page.as_uri()) as visit:
        label = visit.page.locator(".tutor-panel-map").get_attribute("aria-label")
        assert label.endswith(
            f"of all 4 images, with 200 draws each of q(z|x) as dots, {sum(outside)} outside."
        )
        visit.choose("1")
        label = visit.page.locator(".tutor-panel-map").get_attribute("aria-label")
        assert f"200 draws of q(z|x) as dots, {outside[0]} outside." in label
    assert 0 < outside[0] < sum(outside)


def test_without_javascript_the_picture_stays(chromium, posterior_pages):
    url = posterior_pages["posteriors"].as_uri()
    with PosteriorVisit(chromium, url, figure=False, java_script_enabled=False) as visit:
        image = visit.page.get_by_role("img", name=viewer().alt)
        assert image.is_visible()
        assert image.bounding_box()["width"] > 300


def test_a_sandboxed_frame_without_origin_runs_it(chromium, tmp_path, posterior_pages):
    """So are stored outputs shown by Colab: scripts may run, and nothing else is granted."""
    page = tmp_path / "frame.html"
    inner = html.escape(posterior_pages["posteriors"].read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe title="output" sandbox="allow-scripts" width="800" srcdoc="{inner}"></iframe>'
    page.write_text(PAGE.replace("{figure}", frame), encoding="utf-8")
    with PosteriorVisit(chromium, page.as_uri(), figure=False) as visit:
        inside = visit.page.frame_locator("iframe")
        inside.locator(".tutor-posteriors[data-theme]").wait_for()
        inside.get_by_role("button", name="Image 2", exact=True).click()
        inside.locator("dd", has_text="5.60 nats").first.wait_for()


def test_a_figure_in_a_closed_box_is_drawn_when_it_opens(chromium, tmp_path):
    page = tmp_path / "closed.html"
    closed = f"<details><summary>Open</summary>{viewer().to_html()}</details>"
    page.write_text(PAGE.format(figure=closed), encoding="utf-8")
    with PosteriorVisit(chromium, page.as_uri(), figure=False) as visit:
        visit.page.get_by_text("Open").click()
        visit.page.wait_for_selector(".tutor-posteriors[data-theme]")
        assert visit.panel(1).float().std() > 5


@pytest.mark.parametrize("wrap", ["new DataView(view(text))", "view(text)"])
def test_the_module_keeps_the_widget_contract(chromium, tmp_path, wrap):
    """Binary data as Jupyter's DataView or Colab's ArrayBuffer; frame and point both ways."""
    widget = viewer()
    payload = json.loads(
        re.search(r'data-tutor-state="\w+">(.*?)</script>', widget.to_html(), re.DOTALL)[1]
    )
    module = str(widget._esm).replace("export default ", "const figure = ")
    script = MODEL.replace("STATE", json.dumps(payload["state"])).replace("WRAP", wrap)
    script = module + script.replace("BYTES", json.dumps(payload["bytes"]))
    figure = f'<style>{widget._css}</style><script type="module">{script}</script>'
    page = tmp_path / "kernel.html"
    page.write_text(PAGE.replace("{figure}", figure), encoding="utf-8")
    with PosteriorVisit(chromium, page.as_uri()) as visit:
        visit.choose("2")
        assert visit.page.evaluate("() => model.get('point')") == 1
        visit.page.get_by_label("Training step").press("ArrowLeft")
        assert visit.page.evaluate("() => [model.get('frame'), model.saves]") == [3, 2]
        visit.page.evaluate("() => model.fromPython('frame', 0)")
        visit.page.evaluate("() => model.fromPython('point', null)")
        assert visit.rest() == {"frame": 0, "shown": 0, "point": -1, "playing": False}
        assert visit.numbers()[0] == "-1.65 nats, mean"
        visit.page.evaluate("() => stop()")
        assert visit.page.evaluate("() => model.listeners.length") == 0
