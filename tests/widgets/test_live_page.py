"""The live figure in a real Chromium, without a kernel and without a network."""

from __future__ import annotations

import html
import json
import re

import pytest
import torch

from tests.widgets.figures import PAGE, Shown, Visit

pytestmark = pytest.mark.browser

ORIGINS = ["file", "http"]
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}


def levels(images: torch.Tensor) -> torch.Tensor:
    """What a screen shows of means in [0, 1]: levels 0 to 255, three channels."""
    shown = 255 * images.detach().clamp(0, 1)
    return shown.expand(-1, 3, -1, -1) if shown.shape[1] == 1 else shown


@pytest.fixture
def mlp(pages) -> Shown:
    return pages["mlp"]


@pytest.fixture(params=ORIGINS)
def live(request, chromium, origins, pages):
    with Visit(chromium, f"{origins[request.param]}/mlp.html") as visit:
        yield visit


@pytest.fixture
def on_disk(chromium, origins, pages):
    with Visit(chromium, f"{origins['file']}/mlp.html") as visit:
        yield visit


# -- the arithmetic -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "convolutional", "colour"])
def test_the_browser_decodes_as_torch_does(chromium, origins, pages, name, capsys):
    z = 1.5 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = pages[name].model.decode(z).mean.flatten(1)
    with Visit(chromium, f"{origins['file']}/{name}.html") as visit:
        difference = (visit.decode(z) - wanted).abs().max().item()
    assert wanted.std(0).max() > 0.05  # the images do vary with z, or agreement would say little
    with capsys.disabled():
        print(f"\n{name}: largest difference to torch over 100 codes {difference:.1e} a pixel")
    assert difference < 1e-3


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_an_image_takes_less_than_a_frame(chromium, origins, pages, name, capsys):
    with Visit(chromium, f"{origins['file']}/{name}.html") as visit:
        times = visit.page.evaluate(
            """() => {
              const root = document.querySelector(".tutor-explorer"), times = [];
              for (let i = 0; i < 200; i++) {
                const start = performance.now();
                root.__decode([Math.sin(i), Math.cos(2 * i)]);
                times.push(performance.now() - start);
              }
              return times.sort((a, b) => a - b);
            }"""
        )
    with capsys.disabled():
        print(f"\n{name}: median {times[100]:.2f} ms, 95 % under {times[190]:.2f} ms")
    assert times[100] < 16


@pytest.mark.parametrize("name", ["mlp", "convolutional", "colour"])
def test_the_canvas_shows_the_decoder_mean_to_one_level(chromium, origins, pages, name):
    shown = pages[name]
    with Visit(chromium, f"{origins['file']}/{name}.html") as visit:
        drawn = visit.pixels("Decoded image").float()
    wanted = levels(shown.model.decode(torch.zeros(1, 2)).mean)[0]
    assert (drawn - wanted).abs().max() <= 1


# -- pointer, finger, keys ----------------------------------------------------------------------


def test_the_pointer_moves_the_point(live, mlp):
    before = live.pixels("Decoded image")
    x, y = live.at(3)
    live.page.mouse.move(x, y)
    drawn = live.pixels("Decoded image").float()
    assert (drawn - before.float()).abs().max() > 50
    code = torch.frombuffer(bytearray(mlp.widget.codes), dtype=torch.float32).view(-1, 2)[3]
    # the caption has two decimals, the pointer whole pixels of about 0.02
    assert (live.point() - code).abs().max() < 0.03


def test_a_click_on_a_code_shows_image_reconstruction_and_ellipse(live, mlp):
    plain = live.pixels_of_map()
    live.page.mouse.click(*live.at(7))
    image = mlp.dataset[7:8]
    assert torch.equal(live.pixels("Image of the chosen code").float(), levels(image)[0].round())
    rebuilt = live.pixels("Its reconstruction").float()
    assert (rebuilt - levels(mlp.model.reconstruct(image))[0]).abs().max() <= 1
    said = live.page.locator("[aria-live=polite]").inner_text()
    assert said.startswith(f"Image 7, class {mlp.dataset.labels[7]}. Code: mean (")
    q = mlp.model.encode(image)
    for value in (*q.mean[0].tolist(), *q.stddev[0].tolist()):
        assert f"{value:.2f}".replace("-", "\u2212") in said
    # the ellipse of two standard deviations is drawn: its rightmost point has changed colour
    live.page.mouse.move(*live.at(0))
    x, y = live.page.evaluate("() => document.querySelector('.tutor-explorer').__where(7)")
    scale = live.page.locator(".tutor-map").bounding_box()["width"]
    low, high, *_ = mlp.widget.bounds
    radius = 2 * q.stddev[0, 0].item() * scale / (high - low)
    at = (slice(None), slice(round(y) - 2, round(y) + 3), round(x + radius) + torch.arange(-2, 3))
    changed = (live.pixels_of_map()[at].float() - plain[at].float()).abs().amax(0)
    assert radius > 12  # otherwise this would look at the dot
    assert changed.max() > 100


def test_the_arrow_keys_move_and_shift_moves_further(on_disk, mlp):
    low, high, *_ = mlp.widget.bounds
    on_disk.page.locator(".tutor-map").focus()
    on_disk.page.keyboard.press("ArrowRight")
    on_disk.settle()
    assert on_disk.point()[0].item() == pytest.approx(0.01 * (high - low), abs=0.006)
    on_disk.page.keyboard.press("Shift+ArrowUp")
    on_disk.settle()
    assert on_disk.point()[1].item() == pytest.approx(0.1 * (high - low), abs=0.006)
    on_disk.page.wait_for_function(
        "() => document.querySelector('[aria-live]').textContent.startsWith('Point at')"
    )


def test_enter_chooses_the_nearest_code_and_escape_starts_again(on_disk, mlp):
    codes = torch.frombuffer(bytearray(mlp.widget.codes), dtype=torch.float32).view(-1, 2)
    nearest = codes.norm(dim=1).argmin().item()
    on_disk.page.locator(".tutor-map").focus()
    on_disk.page.keyboard.press("Enter")
    on_disk.settle()
    facts = on_disk.page.locator(".tutor-facts")
    assert facts.inner_text().startswith(f"Image {nearest}, ")
    on_disk.page.keyboard.press("Escape")
    on_disk.settle()
    assert facts.inner_text() == "No code chosen."
    assert on_disk.point().tolist() == [0, 0]


def test_every_control_is_reached_by_tab_and_shows_it(on_disk):
    on_disk.page.locator(".tutor-map").focus()
    on_disk.page.keyboard.press("Shift+Tab")
    names = []
    for _ in range(7):
        on_disk.page.keyboard.press("Tab")
        name, outline = on_disk.page.evaluate(
            """() => [document.activeElement.textContent || document.activeElement.className,
                      getComputedStyle(document.activeElement).outlineStyle]"""
        )
        names.append(name)
        assert outline == "solid", name
    assert names == ["tutor-map", "0", "10", "20", "30", "Draw as images", "Reset"]


def test_a_finger_drags_the_point_and_the_page_stays(chromium, origins, pages, mlp):
    with Visit(chromium, f"{origins['file']}/mlp.html", **PHONE) as visit:
        box = visit.page.locator(".tutor-map").bounding_box()
        x, y = box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"]
        scroll = visit.page.evaluate("scrollY")
        drag(visit, x, y, 0, 120)
        low, high, bottom, top = mlp.widget.bounds
        wanted = torch.tensor(
            [low + 0.3 * (high - low), top - (0.3 + 120 / box["height"]) * (top - bottom)]
        )
        assert (visit.point() - wanted).abs().max() < 0.05
        assert visit.page.evaluate("scrollY") == scroll
        # below the plane the same finger scrolls the page
        help_text = visit.page.locator(".tutor-help").bounding_box()
        drag(visit, 195, help_text["y"] + 10, 0, -150)
        visit.page.wait_for_function("(before) => scrollY > before + 50", arg=scroll)


def test_a_tap_chooses_a_code(chromium, origins, pages, mlp):
    with Visit(chromium, f"{origins['http']}/mlp.html", **PHONE) as visit:
        visit.page.touchscreen.tap(*visit.at(11))
        visit.settle()
        assert visit.page.locator(".tutor-facts").inner_text().startswith("Image 11, ")


def drag(visit: Visit, x: float, y: float, dx: float, dy: float) -> None:
    """A finger put down, moved in ten steps, and lifted."""
    session = visit.context.new_cdp_session(visit.page)

    def send(kind: str, points: list[dict[str, float]]) -> None:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", [{"x": x, "y": y}])
    for step in range(1, 11):
        send("touchMove", [{"x": x + dx * step / 10, "y": y + dy * step / 10}])
    send("touchEnd", [])
    visit.settle()


# -- legend ---------------------------------------------------------------------------------------


def test_a_class_is_brought_out_by_hover_and_by_focus(on_disk):
    plain = on_disk.pixels_of_map()
    button = on_disk.page.get_by_role("button", name="10", exact=True)
    button.hover()
    hovered = on_disk.pixels_of_map()
    on_disk.page.mouse.move(0, 0)
    assert torch.equal(on_disk.pixels_of_map(), plain)
    button.focus()
    assert torch.equal(on_disk.pixels_of_map(), hovered)
    assert not torch.equal(hovered, plain)


def test_a_hidden_class_is_neither_drawn_nor_chosen(on_disk, mlp):
    plain = on_disk.pixels_of_map()
    label = mlp.dataset.labels[7].item()
    button = on_disk.page.get_by_role("button", name=str(label), exact=True)
    button.click()
    on_disk.page.mouse.move(0, 0)
    button.blur()
    assert button.get_attribute("aria-pressed") == "false"
    assert not torch.equal(on_disk.pixels_of_map(), plain)
    on_disk.page.mouse.click(*on_disk.at(7))
    assert f"class {label}." not in on_disk.page.locator(".tutor-facts").inner_text()


def test_images_as_markers(on_disk):
    plain = on_disk.pixels_of_map()
    button = on_disk.page.get_by_role("button", name="Draw as images")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert (on_disk.pixels_of_map().float() - plain.float()).abs().mean() > 1


# -- the page around ------------------------------------------------------------------------------


def paper(visit: Visit) -> tuple[int, ...]:
    text = visit.page.evaluate(
        "() => getComputedStyle(document.querySelector('.tutor-explorer')).backgroundColor"
    )
    return tuple(int(v) for v in text[4:-1].split(","))


@pytest.mark.parametrize(
    ("dark", "light"),
    [
        ("documentElement.dataset.theme = 'dark'", "documentElement.dataset.theme = 'light'"),
        ("body.dataset.jpThemeLight = 'false'", "body.dataset.jpThemeLight = 'true'"),
        ("body.className = 'vscode-dark'", "body.className = 'vscode-light'"),
        ("body.style.background = '#111'", "body.style.background = '#fff'"),
    ],
    ids=["book", "jupyterlab", "vscode", "background"],
)
def test_the_theme_is_followed_while_it_changes(on_disk, dark, light):
    for change, is_dark in ((dark, True), (light, False), (dark, True)):
        before = on_disk.pixels_of_map()
        on_disk.page.evaluate(f"() => {{ document.{change}; }}")
        on_disk.page.wait_for_function(
            "(theme) => document.querySelector('.tutor-explorer').dataset.theme === theme",
            arg="dark" if is_dark else "light",
        )
        assert (sum(paper(on_disk)) < 200) is is_dark
        if is_dark:
            assert not torch.equal(on_disk.pixels_of_map(), before)


def test_the_system_setting_decides_when_nothing_else_does(chromium, origins, pages):
    with Visit(chromium, f"{origins['file']}/mlp.html", color_scheme="dark") as visit:
        assert sum(paper(visit)) > 600  # the page's own white body
        visit.page.evaluate("() => { document.body.style.background = 'none'; }")
        visit.page.wait_for_selector(".tutor-explorer[data-theme=dark]")
        visit.page.emulate_media(color_scheme="light")
        visit.page.wait_for_selector(".tutor-explorer[data-theme=light]")


@pytest.mark.parametrize("width", [340, 390, 700, 1400])
def test_nothing_sticks_out(chromium, origins, pages, width):
    with Visit(
        chromium, f"{origins['file']}/mlp.html", viewport={"width": width, "height": 900}
    ) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        edges = visit.page.evaluate(
            """() => {
              const root = document.querySelector(".tutor-explorer");
              const right = root.getBoundingClientRect().right;
              return [...root.querySelectorAll("*:not(.tutor-said)")].map(
                (node) => right - node.getBoundingClientRect().right);
            }"""
        )
        assert min(edges) >= 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
def test_axe_finds_no_violation(chromium, origins, pages, theme, width):
    from axe_playwright_python.sync_playwright import Axe

    with Visit(
        chromium, f"{origins['file']}/mlp.html", viewport={"width": width, "height": 900}
    ) as visit:
        visit.page.evaluate(f"() => {{ document.documentElement.dataset.theme = '{theme}'; }}")
        visit.page.get_by_role("button", name="20", exact=True).click()  # one class struck out
        visit.page.mouse.click(*visit.at(7))
        visit.settle()
        results = Axe().run(visit.page, context=".tutor-explorer")
    assert len(results.response["passes"]) > 5  # it did look
    assert [v["id"] for v in results.response["violations"]] == []


def test_without_javascript_the_picture_stays(chromium, origins, mlp):
    visit = Visit(chromium, f"{origins['file']}/mlp.html", figure=False, java_script_enabled=False)
    with visit:
        image = visit.page.get_by_role("img", name=mlp.widget.alt)
        assert image.is_visible()
        assert image.bounding_box()["width"] > 300


def test_when_the_module_fails_the_picture_stays(chromium, tmp_path, mlp):
    page = tmp_path / "broken.html"
    broken = mlp.page.read_text(encoding="utf-8").replace('"type": "dense"', '"type": "mystery"')
    page.write_text(broken, encoding="utf-8")
    visit = Visit(chromium, page.as_uri(), figure=False)
    with visit:
        visit.page.wait_for_timeout(300)
        assert visit.page.get_by_role("img", name=mlp.widget.alt).is_visible()
        assert "a layer this page can't run: mystery" in visit.complaints.pop()


def test_the_same_figure_twice_on_a_page(chromium, tmp_path, mlp):
    page = tmp_path / "twice.html"
    figure = mlp.widget.to_html()
    page.write_text(mlp.page.read_text(encoding="utf-8").replace(figure, figure * 2), "utf-8")
    with Visit(chromium, page.as_uri()) as visit:
        visit.page.wait_for_function(
            "() => document.querySelectorAll('.tutor-explorer[data-theme]').length === 2"
        )
        assert visit.page.locator(".tutor-explorer").count() == 2


def test_a_figure_in_a_closed_box_is_drawn_when_it_opens(chromium, tmp_path, mlp):
    page = tmp_path / "closed.html"
    closed = f"<details><summary>Open</summary>{mlp.widget.to_html()}</details>"
    page.write_text(
        mlp.page.read_text(encoding="utf-8").replace(mlp.widget.to_html(), closed), "utf-8"
    )
    visit = Visit(chromium, page.as_uri(), figure=False)
    with visit:
        visit.page.get_by_text("Open").click()
        visit.page.wait_for_selector(".tutor-explorer[data-theme]")
        assert visit.pixels_of_map().float().std() > 1


def test_a_sandboxed_frame_without_origin_runs_it(chromium, tmp_path, mlp):
    """So are stored outputs shown by Colab: scripts may run, and nothing else is granted."""
    page = tmp_path / "frame.html"
    inner = html.escape(mlp.page.read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe title="output" sandbox="allow-scripts" width="800" srcdoc="{inner}"></iframe>'
    page.write_text(PAGE.replace("{figure}", frame), encoding="utf-8")
    visit = Visit(chromium, page.as_uri(), figure=False)
    with visit:
        inside = visit.page.frame_locator("iframe")
        inside.locator(".tutor-explorer[data-theme]").wait_for()
        inside.locator(".tutor-map").press("Enter")
        inside.locator(".tutor-facts", has_text="Image ").wait_for()


# -- the contract with a kernel -------------------------------------------------------------------

MODEL = """
  window.model = (() => {
    const state = STATE;
    const view = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
    for (const [name, text] of Object.entries(BYTES)) state[name] = WRAP;
    const listeners = [];
    return {
      saves: 0, listeners,
      get: (name) => state[name],
      set: (name, value) => { state[name] = value; },
      on: (event, f) => listeners.push([event, f]),
      off(event, f) {
        listeners.splice(listeners.findIndex(([e, g]) => e === event && g === f), 1);
      },
      save_changes() { this.saves += 1; },
      fromPython(name, value) {
        state[name] = value;
        for (const [event, f] of [...listeners]) if (event === `change:${name}`) f();
      },
    };
  })();
  const el = document.createElement("div");
  window.stop = await figure.render({ model, el });
  document.querySelector("main").prepend(el);      // after rendering, as some front ends do
"""


@pytest.mark.parametrize("wrap", ["new DataView(view(text))", "view(text)"])
def test_the_module_keeps_the_widget_contract(chromium, tmp_path, mlp, wrap):
    """Binary data as Jupyter's DataView or Colab's ArrayBuffer; z and selected both ways."""
    page = tmp_path / "kernel.html"
    payload = json.loads(
        re.search(r'data-tutor-state="\w+">(.*?)</script>', mlp.widget.to_html(), re.DOTALL)[1]
    )
    module = str(mlp.widget._esm).replace("export default ", "const figure = ")
    script = MODEL.replace("STATE", json.dumps(payload["state"])).replace("WRAP", wrap)
    script = module + script.replace("BYTES", json.dumps(payload["bytes"]))
    figure = f'<style>{mlp.widget._css}</style><script type="module">{script}</script>'
    page.write_text(PAGE.replace("{figure}", figure), encoding="utf-8")
    with Visit(chromium, page.as_uri()) as visit:
        visit.page.mouse.click(*visit.at(7))
        visit.page.wait_for_function("() => model.get('selected') === 7")
        x, y = visit.at(3)
        before = visit.page.evaluate("() => model.saves")
        for step in range(40):
            visit.page.mouse.move(x - 40 + step, y)
        visit.page.wait_for_function(
            "() => `${model.get('z')}` === `${document.querySelector('.tutor-explorer').__z()}`"
        )
        # forty moves within a second or so reach Python at most ten times a second
        assert 1 <= visit.page.evaluate("() => model.saves") - before < 30
        visit.page.evaluate("() => model.fromPython('z', [0.25, -0.5])")
        visit.page.evaluate("() => model.fromPython('selected', 9)")
        visit.settle()
        assert visit.point().tolist() == pytest.approx([0.25, -0.5])
        assert visit.page.locator(".tutor-facts").inner_text().startswith("Image 9, ")
        visit.page.evaluate("() => stop()")
        assert visit.page.evaluate("() => model.listeners.length") == 0
