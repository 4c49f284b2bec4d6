"""PriorPlayground in a real Chromium, without a kernel and without a network."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.widgets.figures import PAGE
from tests.widgets.playgrounds import PRIORS, PlaygroundVisit, digits, recordings
from tests.widgets.test_live_page import MODEL, PHONE, drag
from tutor.metrics import energy_distance
from tutor.priors import DrawnPrior
from tutor.widgets import PriorPlayground
from tutor.widgets.prior_playground import DRAW

pytestmark = pytest.mark.browser

N, T = 200, 9
HALF_STEP = 0.0025  # codes travel in steps of the plane's width over 2048, here below 0.005


@pytest.fixture(scope="module")
def recorded():
    return recordings(N, T)


@pytest.fixture(scope="module")
def widget(recorded) -> PriorPlayground:
    return PriorPlayground(recorded, images=digits(N)[:])


@pytest.fixture(scope="module")
def page(widget, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("playground") / "playground.html"
    path.write_text(PAGE.format(figure=widget.to_html()), encoding="utf-8")
    return path


@pytest.fixture
def live(chromium, page):
    with PlaygroundVisit(chromium, page.as_uri()) as visit:
        yield visit


def bounds(widget: PriorPlayground, name: str) -> list[float]:
    return next(about["bounds"] for about in widget.recordings if about["name"] == name)


def on_plane(visit: PlaygroundVisit, z, bounds: list[float]) -> torch.Tensor:
    """Where codes ``(..., 2)`` are drawn on the plane, in pixels."""
    size = visit.page.locator(".tutor-map").bounding_box()["width"]
    left, right, _, top = bounds
    z = torch.as_tensor(z)
    return torch.stack([z[..., 0] - left, top - z[..., 1]], -1) * size / (right - left)


def where(visit: PlaygroundVisit, i: int) -> torch.Tensor:
    return torch.tensor(visit.ask(f"root.__where({i})"))


def screen(visit: PlaygroundVisit) -> torch.Tensor:
    """The plane as it is seen, on its paper: ``(3, H, W)``."""
    from PIL import Image

    visit.settle()
    shot = Image.open(io.BytesIO(visit.page.locator(".tutor-map").screenshot()))
    return torch.from_numpy(np.array(shot.convert("RGB"))).permute(2, 0, 1).float()


def state(visit: PlaygroundVisit) -> dict:
    return visit.ask("root.__state()")


# -- what is shown --------------------------------------------------------------------------------


def test_the_browser_reads_codes_and_decoders_as_they_were_recorded(live, recorded):
    z = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    for name, one in recorded.items():
        live.choose(name)
        codes = torch.tensor(
            live.ask(
                f"Array.from({{ length: {T} }}, (_, k) => "
                f"Array.from({{ length: {N} }}, (_, i) => root.__codes(i, k)))"
            )
        )
        assert (codes - one.codes).abs().max() < HALF_STEP
        with torch.no_grad():
            wanted = one.decoder(z).flatten(1)
        assert (live.decode(z) - wanted).abs().max() < 0.5 / 255
        assert wanted.std(0).max() > 0.05


def test_dots_lie_where_their_codes_are_and_between_moments_half_way(live, widget, recorded):
    live.choose("Swiss roll")
    plane, codes = bounds(widget, "Swiss roll"), recorded["Swiss roll"].codes
    for moment, wanted in ((8, codes[8]), (3, codes[3]), (3.5, (codes[3] + codes[4]) / 2)):
        live.slide(moment)
        for i in (0, 77, 199):
            at = on_plane(live, wanted[i], plane)
            assert (where(live, i) - at).abs().max() < 0.5  # a pixel is 0.013 of the plane here


def test_the_numbers_belong_to_the_moment_shown(live, recorded):
    one = recorded["Gaussian"]
    for moment in (0, 5, 8):
        live.slide(moment)
        shown = [live.page.locator("dd").nth(k).inner_text() for k in (0, 1)]
        energy, floor = (float(text.replace("\u2212", "-")) for text in shown)
        assert energy == pytest.approx(one.energy[moment].item(), rel=0.06)  # two digits
        assert floor == 0.004
        step = int(one.steps[moment])
        slider = live.page.get_by_role("slider", name="Training")
        assert slider.get_attribute("aria-valuetext") == f"step {step} of {int(one.steps[-1])}"
    left, right = (live.page.locator(".tutor-curve circle").bounding_box()[k] for k in ("x", "y"))
    box = live.page.locator(".tutor-curve").bounding_box()
    assert box["x"] < left < box["x"] + box["width"]
    assert box["y"] < right < box["y"] + box["height"]


def test_the_prior_is_shaded_and_its_samples_are_shown_on_demand(live):
    live.choose("Uniform")
    for kind in range(10):
        live.page.locator(".tutor-class").nth(kind).click()  # away with the codes
    live.page.mouse.move(0, 0)
    live.button("Reset").focus()
    plain = screen(live)
    _, height, width = plain.shape
    inside, outside = plain[:, height // 2 - 9, width // 2 + 20], plain[:, 30, width // 2 + 20]
    assert (inside - outside).abs().max() > 5
    live.button("Samples of the prior").click()
    live.page.mouse.move(0, 0)
    # 200 crosses of 10 pixels, some over others
    assert (screen(live) - plain).abs().amax(0).gt(30).sum() > 800


def test_a_frame_is_painted_in_time(live, capsys):
    times = live.page.evaluate(
        """async () => {
          const root = document.querySelector(".tutor-playground"), times = [];
          const slider = root.querySelector("input");
          for (let k = 0; k < 60; k++) {
            slider.value = 8 * (k / 60);
            slider.dispatchEvent(new Event("input"));
            await new Promise(requestAnimationFrame);
            await new Promise(requestAnimationFrame);
            times.push(root.__ms);
          }
          return times.sort((a, b) => a - b);
        }"""
    )
    with capsys.disabled():
        print(f"\n{N} codes: a frame takes {times[30]:.2f} ms, 95 % under {times[57]:.2f} ms")
    assert times[30] < 16


# -- playing, sliding, choosing -------------------------------------------------------------------


def test_play_goes_from_the_start_to_the_end_and_stops(live):
    assert state(live)["t"] == T - 1
    live.button("Play").click()
    assert live.page.get_by_role("button", name="Pause").count() == 1
    live.page.wait_for_function(
        """() => {
          const { t } = document.querySelector('.tutor-playground').__state();
          return t > 0 && t < 7 && t !== Math.round(t);
        }"""
    )
    live.page.wait_for_function(
        "() => document.querySelector('.tutor-playground').__state().t === 8", timeout=60_000
    )
    live.page.get_by_role("button", name="Play", exact=True).wait_for()


def test_pause_stays_where_it_is(live):
    live.button("Play").click()
    live.page.wait_for_function("() => document.querySelector('.tutor-playground').__state().t > 0")
    live.button("Pause").click()
    before = state(live)["t"]
    live.page.wait_for_timeout(200)
    assert state(live)["t"] == before


def test_playing_waits_while_the_figure_is_out_of_sight(live):
    live.button("Play").click()
    live.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    live.page.wait_for_function(
        "() => document.querySelector('.tutor-playground').getBoundingClientRect().bottom < 0"
    )
    live.page.wait_for_timeout(300)
    before = state(live)["t"]
    live.page.wait_for_timeout(400)
    assert state(live)["t"] == before < T - 1
    live.page.evaluate("scrollTo(0, 0)")
    live.page.wait_for_function(
        "(before) => document.querySelector('.tutor-playground').__state().t > before", arg=before
    )


def test_keys_step_from_moment_to_moment(live):
    live.page.get_by_role("slider", name="Training").focus()
    live.page.keyboard.press("ArrowLeft")
    assert state(live)["t"] == T - 2
    live.slide(2.3)
    live.page.keyboard.press("ArrowRight")
    assert state(live)["t"] == 3
    live.page.keyboard.press("Home")
    live.settle()
    assert state(live)["t"] == 0
    live.page.locator(".tutor-map").focus()
    for key, moment in ((".", 1), (".", 2), (",", 1)):
        live.page.keyboard.press(key)
        assert state(live)["t"] == moment
    live.page.keyboard.press(" ")
    live.page.get_by_role("button", name="Pause").wait_for()
    live.page.keyboard.press(" ")
    live.page.get_by_role("button", name="Play", exact=True).wait_for()


def test_another_prior_is_shown_at_the_same_moment_and_dots_move_there(live, widget, recorded):
    live.slide(4)
    live.button("Uniform").click()
    live.page.wait_for_timeout(120)
    live.page.wait_for_timeout(800)
    live.settle()
    assert (state(live)["prior"], state(live)["t"]) == ("Uniform", 4)
    pressed = live.page.locator('.tutor-flow-priors [aria-pressed="true"]')
    assert pressed.all_inner_texts() == ["Uniform"]
    wanted = on_plane(live, recorded["Uniform"].codes[4, 5], bounds(widget, "Uniform"))
    assert (where(live, 5) - wanted).abs().max() < 1


def test_without_motion_dots_jump_to_another_prior(chromium, page, widget, recorded):
    with PlaygroundVisit(chromium, page.as_uri(), reduced_motion="reduce") as visit:
        visit.button("Uniform").click()
        visit.settle()
        wanted = on_plane(visit, recorded["Uniform"].codes[-1, 5], bounds(widget, "Uniform"))
        assert (where(visit, 5) - wanted).abs().max() < 1


def test_the_pointer_and_the_arrows_move_the_decoded_point(live, widget, recorded):
    before = live.pixels("Decoded image").float()
    box = live.page.locator(".tutor-map").bounding_box()
    live.page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.3 * box["height"])
    drawn = live.pixels("Decoded image").float()
    z = torch.tensor([live.ask("root.__z()")])
    left, right, bottom, top = bounds(widget, "Gaussian")
    wanted = torch.tensor([left + 0.8 * (right - left), top - 0.3 * (top - bottom)])
    assert (z[0] - wanted).abs().max() < 0.02
    with torch.no_grad():
        image = 255 * recorded["Gaussian"].decoder(z)[0]
    # half a level from 13-bit weights, half from whole levels
    assert (drawn - image).abs().max() <= 1
    assert (drawn - before).abs().max() > 50
    live.page.locator(".tutor-map").focus()
    live.page.keyboard.press("Shift+ArrowLeft")
    moved = torch.tensor(live.ask("root.__z()"))
    assert (z[0] - moved).tolist() == pytest.approx([0.1 * (right - left), 0], abs=1e-4)


def test_classes_are_hidden_brought_out_and_marked(live):
    plain = live.pixels_of_map()
    button = live.page.locator(".tutor-class").nth(3)
    button.hover()
    brought_out = live.pixels_of_map()
    assert not torch.equal(brought_out, plain)
    button.click()
    live.page.mouse.move(0, 0)
    button.blur()
    assert button.get_attribute("aria-pressed") == "false"
    hidden = live.pixels_of_map()
    assert not torch.equal(hidden, plain)
    button.click()
    live.page.mouse.move(0, 0)
    button.blur()
    assert torch.equal(live.pixels_of_map(), plain)
    for name in ("Classes as marks", "Colour by class"):
        before = live.pixels_of_map()
        live.button(name).click()
        live.page.mouse.move(0, 0)
        assert not torch.equal(live.pixels_of_map(), before)


def test_without_colours_all_dots_look_alike(live):
    def hues() -> int:
        """Strongly coloured pixels, counted by which channels lead."""
        rgb = live.pixels_of_map().float()
        strong = rgb.amax(0) - rgb.amin(0) > 90
        order = 3 * rgb.argmax(0) + rgb.argmin(0)
        return sum((order[strong] == k).sum().item() > 20 for k in range(9))

    assert hues() >= 4
    live.button("Colour by class").click()
    live.page.mouse.move(0, 0)
    assert hues() == 1


def test_escape_starts_again(live):
    live.choose("Uniform")
    live.slide(2)
    live.button("Classes as marks").click()
    live.page.locator(".tutor-map").focus()
    live.page.keyboard.press("Escape")
    live.settle()
    assert (state(live)["prior"], state(live)["t"]) == ("Gaussian", T - 1)
    assert live.button("Classes as marks").get_attribute("aria-pressed") == "false"


# -- drawing a prior ------------------------------------------------------------------------------


def stroke(visit: PlaygroundVisit, points: list[tuple[float, float]]) -> None:
    """The mouse goes down, along these shares of the plane, and up."""
    box = visit.page.locator(".tutor-map").bounding_box()
    path = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in points]
    visit.page.mouse.move(*path[0])
    visit.page.mouse.down()
    for x, y in path[1:]:
        visit.page.mouse.move(x, y, steps=3)
    visit.page.mouse.up()
    visit.settle()


def drawn(visit: PlaygroundVisit) -> torch.Tensor:
    return torch.tensor(visit.ask("root.__drawn()"))


@pytest.mark.slow
def test_a_prior_is_drawn_and_learned_in_the_page(live):
    live.choose(DRAW)
    live.button("Train").click()
    live.page.wait_for_function(
        "() => document.querySelector('[aria-live]').textContent === 'Draw a prior first.'"
    )
    stroke(live, [(0.25, 0.3), (0.75, 0.3)])
    stroke(live, [(0.25, 0.7), (0.75, 0.7)])
    points = drawn(live)
    # two strokes of 3 at heights 1.2 and -1.2 of the plane from -3 to 3, a point every 0.06
    assert len(points) == pytest.approx(100, abs=6)
    assert points[:, 0].min() == pytest.approx(-1.5, abs=0.07)
    assert points[:, 0].max() == pytest.approx(1.5, abs=0.07)
    assert points[:, 1].abs().tolist() == pytest.approx([1.2] * len(points), abs=0.03)
    before = live.pixels("Decoded image")
    live.button("Train").click()
    live.page.wait_for_function(
        "() => document.querySelector('.tutor-playground').__state().moments > 6", timeout=120_000
    )
    live.button("Stop").click()
    after = state(live)
    assert not after["training"]
    assert after["energy"][-1] < after["energy"][0] / 8
    # the codes are what the number says: against draws of the same prior in Python
    codes = torch.tensor(
        live.ask(
            f"Array.from({{ length: {N} }}, (_, i) => root.__codes(i, {after['moments'] - 1}))"
        )
    )
    prior = DrawnPrior(points, thickness=0.12)
    wanted = prior.sample((N,), generator=torch.Generator().manual_seed(0))
    # both are estimates against N draws: they differ by the noise of a few hundredths
    assert energy_distance(codes, wanted).item() == pytest.approx(after["energy"][-1], abs=0.05)
    box = live.page.locator(".tutor-map").bounding_box()
    live.page.mouse.move(box["x"] + 60, box["y"] + 60)
    assert not torch.equal(live.pixels("Decoded image"), before)
    # what was learned can be looked at again
    live.slide(0)
    assert state(live)["t"] == 0
    live.button("Play").click()
    live.page.wait_for_function("() => document.querySelector('.tutor-playground').__state().t > 0")


def test_a_prior_is_drawn_with_keys(live):
    live.choose(DRAW)
    live.page.locator(".tutor-map").focus()
    live.page.keyboard.press("ArrowRight")
    assert len(drawn(live)) == 0
    live.page.keyboard.press(" ")
    for _ in range(3):
        live.page.keyboard.press("Shift+ArrowUp")
    live.page.keyboard.press(" ")
    live.page.keyboard.press("Shift+ArrowUp")
    points = drawn(live)
    assert points[:, 0].tolist() == pytest.approx([0.06] * len(points), abs=1e-3)
    assert points[0, 1] == pytest.approx(0, abs=1e-3)
    assert points[-1, 1] == pytest.approx(1.8, abs=0.061)
    live.page.keyboard.press("Enter")
    live.button("Stop").wait_for()
    live.page.keyboard.press("Enter")
    live.button("Train").wait_for()
    live.button("Clear").click()
    assert len(drawn(live)) == 0


def test_a_finger_draws_and_the_page_stays(chromium, page):
    with PlaygroundVisit(chromium, page.as_uri(), **PHONE) as visit:
        visit.choose(DRAW)
        visit.page.locator(".tutor-map").scroll_into_view_if_needed()
        box = visit.page.locator(".tutor-map").bounding_box()
        scroll = visit.page.evaluate("scrollY")
        drag(visit, box["x"] + 0.5 * box["width"], box["y"] + 0.3 * box["height"], 0, 120)
        points = drawn(visit)
        assert visit.page.evaluate("scrollY") == scroll
        assert points[:, 0].abs().max() < 0.05
        assert points[0, 1] == pytest.approx(1.2, abs=0.05)
        wanted = 1.2 - 6 * 120 / box["height"]
        assert points[-1, 1] == pytest.approx(wanted, abs=0.1)


def test_what_is_drawn_is_shaded(live):
    live.choose(DRAW)
    before = live.pixels_of_map().float()
    live.button("Ring").click()
    live.page.mouse.move(0, 0)
    changed = (live.pixels_of_map().float() - before).abs().amax(0)
    size = changed.shape[0]
    ring = [round(size * (0.5 + 2 / 6 * s)) for s in (-1, 1)]
    assert min(changed[size // 2 + 9, x] for x in ring) > 10
    assert changed[size // 2 + 40, size // 2 + 40] == 0


def test_leaving_a_training_stops_it(live):
    live.choose(DRAW)
    live.button("Ring").click()
    live.button("Train").click()
    live.page.wait_for_function(
        "() => document.querySelector('.tutor-playground').__state().training"
    )
    live.choose("Gaussian")
    assert not state(live)["training"]
    assert len(drawn(live)) == 210  # the drawing waits


def test_without_images_nothing_can_be_drawn(chromium, tmp_path, recorded):
    page = tmp_path / "bare.html"
    widget = PriorPlayground({"Uniform": recorded["Uniform"]})
    page.write_text(PAGE.format(figure=widget.to_html()), encoding="utf-8")
    with PlaygroundVisit(chromium, page.as_uri()) as visit:
        assert visit.page.locator(".tutor-flow-priors button").all_inner_texts() == ["Uniform"]


# -- the page around ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [340, 390, 700, 1400])
def test_nothing_sticks_out_and_nothing_jumps(chromium, page, width):
    viewport = {"width": width, "height": 900}
    with PlaygroundVisit(chromium, page.as_uri(), viewport=viewport) as visit:
        heights = []
        for name in (*PRIORS, DRAW):
            visit.button(name).click()
            if name == DRAW:
                visit.button("Ring").click()
            visit.settle()
            assert visit.page.evaluate("document.documentElement.scrollWidth") == width
            edges = visit.page.evaluate(
                """() => {
                  const root = document.querySelector(".tutor-playground");
                  const right = root.getBoundingClientRect().right;
                  return [...root.querySelectorAll("*:not(.tutor-said)")].map(
                    (node) => right - node.getBoundingClientRect().right);
                }"""
            )
            assert min(edges) >= 0
            heights.append(
                visit.page.evaluate(
                    """() => {
                      const box = (name) => document.querySelector(name).getBoundingClientRect();
                      const { top, height } = box(".tutor-playground");
                      return [height, box(".tutor-map").top - top,
                              box(".tutor-flow-time").top - top].join();
                    }"""
                )
            )
        assert len(set(heights)) == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_followed(live, theme):
    before = live.pixels_of_map()
    live.page.evaluate(f"() => {{ document.documentElement.dataset.theme = '{theme}'; }}")
    live.page.wait_for_selector(f".tutor-playground[data-theme={theme}]")
    ground = live.ask("getComputedStyle(root).backgroundColor")
    assert (sum(int(v) for v in re.findall(r"\d+", ground)) < 200) is (theme == "dark")
    assert torch.equal(live.pixels_of_map(), before) is (theme == "light")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
def test_axe_finds_no_violation(chromium, page, theme, width):
    from axe_playwright_python.sync_playwright import Axe

    viewport = {"width": width, "height": 900}
    with PlaygroundVisit(chromium, page.as_uri(), viewport=viewport) as visit:
        visit.page.evaluate(f"() => {{ document.documentElement.dataset.theme = '{theme}'; }}")
        visit.page.wait_for_selector(f".tutor-playground[data-theme={theme}]")
        for name in ("Swiss roll", DRAW):
            visit.choose(name)
            visit.page.locator(".tutor-class").nth(2).click()  # a class struck out
            results = Axe().run(visit.page, context=".tutor-playground")
            assert len(results.response["passes"]) > 5  # it did look
            assert [v["id"] for v in results.response["violations"]] == []


def test_every_control_is_reached_by_tab_and_shows_it(live):
    live.button("Gaussian").focus()
    live.page.keyboard.press("Shift+Tab")
    names = []
    for _ in range(21):
        live.page.keyboard.press("Tab")
        name, outline = live.page.evaluate(
            """() => [document.activeElement.textContent || document.activeElement.className
                        || document.activeElement.type,
                      getComputedStyle(document.activeElement).outlineStyle]"""
        )
        names.append(name)
        assert outline == "solid", name
    assert names == [
        *PRIORS, DRAW, "tutor-map", "Play", "range", *map(str, range(10)),
        "Colour by class", "Classes as marks", "Samples of the prior",
    ]  # fmt: skip
    live.page.keyboard.press("Tab")
    live.page.keyboard.press("Tab")
    # what only serves drawing is out of reach while nothing is drawn
    assert live.page.evaluate("document.activeElement.textContent") not in ("Train", "Clear")


def test_without_javascript_the_picture_stays(chromium, page, widget):
    visit = PlaygroundVisit(chromium, page.as_uri(), figure=False, java_script_enabled=False)
    with visit:
        image = visit.page.get_by_role("img", name=widget.alt)
        assert image.is_visible()
        assert image.bounding_box()["width"] > 300


def test_when_the_data_are_damaged_the_picture_stays(chromium, page, widget, tmp_path):
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8").replace('"type": "dense"', '"type": "mystery"')
    broken.write_text(text, encoding="utf-8")
    visit = PlaygroundVisit(chromium, broken.as_uri(), figure=False)
    with visit:
        visit.page.wait_for_function("() => document.querySelector('[data-live]')")
        visit.page.wait_for_timeout(500)
        assert visit.page.get_by_role("img", name=widget.alt).is_visible()
        assert "a layer this page can't run: mystery" in visit.complaints.pop()


# -- the contract with a kernel -------------------------------------------------------------------


@pytest.mark.parametrize("wrap", ["new DataView(view(text))", "view(text)"])
def test_the_module_keeps_the_widget_contract(chromium, tmp_path, widget, recorded, wrap):
    """Binary data as DataView or ArrayBuffer; prior, progress, z and drawing both ways."""
    page = tmp_path / "kernel.html"
    payload = json.loads(
        re.search(r'data-tutor-state="\w+">(.*?)</script>', widget.to_html(), re.DOTALL)[1]
    )
    module = str(widget._esm).replace("export default ", "const figure = ")
    script = MODEL.replace("STATE", json.dumps(payload["state"])).replace("WRAP", wrap)
    script = module + script.replace("BYTES", json.dumps(payload["bytes"]))
    figure = f'<style>{widget._css}</style><script type="module">{script}</script>'
    page.write_text(PAGE.replace("{figure}", figure), encoding="utf-8")
    with PlaygroundVisit(chromium, page.as_uri()) as visit:
        visit.choose("Swiss roll")
        visit.slide(2)
        visit.page.wait_for_function(
            "() => model.get('prior') === 'Swiss roll' && model.get('progress') === 0.25"
        )
        visit.page.evaluate("() => model.fromPython('prior', 'Uniform')")
        visit.page.evaluate("() => model.fromPython('progress', 0.5)")
        visit.page.evaluate("() => model.fromPython('z', [0.25, -0.5])")
        visit.settle()
        assert (state(visit)["prior"], state(visit)["t"]) == ("Uniform", 4)
        assert visit.ask("root.__z()") == [0.25, -0.5]
        visit.choose(DRAW)
        before = visit.page.evaluate("() => model.saves")
        stroke(visit, [(0.3, 0.5), (0.5, 0.5), (0.6, 0.6)])
        visit.page.wait_for_function(
            "(n) => model.get('drawn').length === n", arg=len(drawn(visit))
        )
        assert visit.page.evaluate("() => model.saves") - before < 10  # ten times a second
        visit.page.evaluate("() => model.fromPython('drawn', [[0, 0], [1, 1]])")
        visit.settle()
        assert drawn(visit).tolist() == [[0, 0], [1, 1]]
        # a training that was done in Python
        shown = PriorPlayground(dict(recorded), images=digits(N)[:])
        shown.show_trained(recorded["Mixture of ten"])
        visit.page.evaluate("(v) => model.fromPython('trained', v)", shown.trained)
        visit.page.wait_for_function(
            "() => document.querySelector('.tutor-playground').__state().moments === 9"
        )
        assert state(visit)["prior"] == DRAW
        got = torch.tensor(visit.ask("[0, 50, 199].map((i) => root.__codes(i, 8))"))
        wanted = recorded["Mixture of ten"].codes[8, [0, 50, 199]]
        assert (got - wanted).abs().max() < HALF_STEP
        # drawing anew begins anew
        stroke(visit, [(0.3, 0.3), (0.4, 0.3)])
        assert state(visit)["moments"] == 1
        visit.page.evaluate("() => stop()")
        assert visit.page.evaluate("() => model.listeners.length") == 0
