// TransportPlan: two clouds of points, the plans that carry one to the other, and other distances.
import { DIRECTIONS, makePlane } from "./plane.js";
import { followPage, h, oncePerFrame, throttled } from "./page.js";
import { exactPlan } from "./exact_plan.js";
import { blur, entropicPlan } from "./entropic_plan.js";
import { KERNELS, discrepancy, pointDivergences, smoothedDivergences } from "./cloud_distances.js";
import { makeCard, short } from "./quantity_card.js";

const REACH = { mouse: 14, pen: 18, touch: 30 };      // pixels around a point that take hold of it
const CATCH = 5;              // pixels from a point of the other cloud within which one lands on it
const THICK = 5;              // pixels of the line that carries all that one line can
const SAMPLES = 41, SLICE = 8;                        // of a curve; milliseconds of work in a frame
const COSTS = { squared: (d) => d, plain: Math.sqrt };
const fixed = (v) => v.toFixed(2).replace("-", "\u2212");

// Everything that is shown about clouds x and y.
function compare(x, y, { cost, epsilon, width, kernel, near }) {
  const n = x.length, m = y.length;
  const a = new Float64Array(n).fill(1 / n), b = new Float64Array(m).fill(1 / m);
  const table = new Float64Array(n * m);
  for (let i = 0, k = 0; i < n; i++)
    for (let j = 0; j < m; j++, k++)
      table[k] = COSTS[cost]((x[i][0] - y[j][0]) ** 2 + (x[i][1] - y[j][1]) ** 2);
  const paid = (plan) => plan.reduce((sum, p, k) => sum + p * table[k], 0);
  const exact = exactPlan(table, a, b).plan, entropic = entropicPlan(table, a, b, epsilon).plan;
  return {
    plans: { exact, entropic },
    transport: { exact: paid(exact), entropic: paid(entropic) },
    partners: { exact: blur(exact, a).partners, entropic: blur(entropic, a).partners },
    entropy: { exact: blur(exact, a).entropy, entropic: blur(entropic, a).entropy },
    points: pointDivergences(x, y, near),
    smoothed: smoothedDivergences(x, y, width),
    mmd: discrepancy(x, y, KERNELS[kernel](width)),
  };
}

function render({ model, el }) {
  const bounds = model.get("bounds"), plane = makePlane(bounds, ["", ""]), [left, right] = bounds;
  const grain = plane.span / 200, near = 1e-9 * plane.span, start = model.get("start");
  const presets = model.get("presets"), ranges = model.get("ranges");

  // ---- the parts of the figure --------------------------------------------------------------
  const button = (text, onclick, more = {}) =>
    h("button", { type: "button", onclick, ...more }, text);
  const map = h("canvas", { class: "tutor-map", tabindex: "0", role: "application" });
  const presetButtons = presets.map((p) => button(p.name, () => take(p)));
  const slider = (label) => h("input", { type: "range", step: "any", "aria-label": label });
  const shiftSlider = slider("Shift of cloud y"), shiftText = h("output");
  const epsilonSlider = slider("Epsilon"), epsilonText = h("output");
  const widthSlider = slider("Width h"), widthText = h("output");
  const choices = (label, options, key) => {
    const buttons = Object.entries(options).map(([value, text]) =>
      button(text, () => change({ [key]: value }), { "data-value": value }));
    return { key, buttons, node: h("div", { class: "tutor-choices", role: "group", "aria-label": label },
      h("span", { class: "tutor-choice-name" }, label), ...buttons) };
  };
  const costChoice = choices("Cost", { squared: "|x\u2212y|\u00b2", plain: "|x\u2212y|" }, "cost");
  const kernelChoice = choices("MMD kernel", { imq: "IMQ", rbf: "RBF" }, "kernel");
  const shown = { exact: true, entropic: true };
  const showButtons = Object.keys(shown).map((which) => button(which, () => {
    shown[which] = !shown[which];
    showControls();
    repaint();
  }, { class: `tutor-plan-${which}` }));
  const divergence = (title, more) => makeCard(title,
    [{ key: "smoothed", name: "smoothed" }, { key: "points", name: "points", dashed: true }], more);
  const pair = [{ key: "exact", name: "exact" }, { key: "entropic", name: "entropic", dashed: true }];
  const cards = {
    transport: makeCard("", pair),
    partners: makeCard("Partners of a point", pair, { least: 1 }),
    mmd: makeCard("MMD", [{ key: "mmd", name: "points" }]),
    kl: divergence("KL(x \u2016 y)"),
    js: divergence("Jensen\u2013Shannon", { most: Math.LN2 }),
    tv: divergence("Total variation", { most: 1 }),
  };
  const line = (label, input, output) => h("div", { class: "tutor-line" },
    h("span", { "aria-hidden": "true" }, label), output, input);
  const live = h("p", { class: "tutor-said", "aria-live": "polite" });
  const root = h("div", {
    class: "tutor-figure tutor-transport", role: "group", "aria-label": "Transport plans",
    "data-lm-suppress-shortcuts": "true",             // JupyterLab leaves the keys to the figure
  },
    h("div", { class: "tutor-transport-layout" },
      h("div", { class: "tutor-presets", role: "group", "aria-label": "Clouds" }, ...presetButtons),
      h("div", { class: "tutor-plane" }, map, line("shift of y", shiftSlider, shiftText)),
      h("div", { class: "tutor-settings" },
        h("p", { class: "tutor-key" },
          h("span", { class: "tutor-key-x" }, "x"), h("span", { class: "tutor-key-y" }, "y")),
        h("div", { class: "tutor-choices", role: "group", "aria-label": "Plans drawn" },
          h("span", { class: "tutor-choice-name" }, "Plan"), ...showButtons),
        costChoice.node,
        line("\u03b5 of the entropic plan", epsilonSlider, epsilonText),
        line("width h of smoothing, kernel", widthSlider, widthText),
        kernelChoice.node,
        button("Reset", () => reset())),
      h("p", { class: "tutor-help" },
        "Drag points with the pointer or a finger. Keys on the plane: comma and full stop choose a "
        + "point, arrows move it, Enter puts it on the nearest point of the other cloud. "
        + "A line\u2019s width is the mass it carries. The curves are over the shift of y."),
      h("div", { class: "tutor-cards" }, ...Object.values(cards).map((card) => card.node))),
    live);
  el.append(root);

  // ---- state --------------------------------------------------------------------------------------
  const copy = (cloud) => cloud.map((point) => [...point]);
  const KEYS = ["shift", "epsilon", "width", "cost", "kernel"];
  const state = { x: copy(model.get("x")), y: copy(model.get("y")) };
  for (const key of KEYS) state[key] = model.get(key);
  let chosen = null;                                  // { cloud: "x" or "y", i }
  let held = null, now = null, ratio = 1, colours = [];
  const moved = (y, s) => y.map(([a, b]) => [a + s, b]);
  const place = ({ cloud, i }) => (cloud === "x" ? state.x[i] : [state.y[i][0] + state.shift, state.y[i][1]]);
  const settings = () => ({ ...state, near });

  // How far y can be shifted within the plane; where it is, at least.
  function reachOfShift() {
    const across = state.y.map((point) => point[0]);
    return [Math.min(state.shift, left - Math.min(...across)), Math.max(state.shift, right - Math.max(...across))];
  }

  // ---- the plane --------------------------------------------------------------------------------
  function paintPlan(g, plan, colour) {
    const n = state.x.length, m = state.y.length, y = moved(state.y, state.shift);
    g.strokeStyle = colour;
    g.lineCap = "butt";
    for (let i = 0; i < n; i++)
      for (let j = 0; j < m; j++) {
        g.lineWidth = THICK * Math.min(n, m) * plan[i * m + j];
        if (g.lineWidth < 0.02 || plan[i * m + j] === 0) continue;
        g.beginPath();
        g.moveTo(plane.toX(state.x[i][0]), plane.toY(state.x[i][1]));
        g.lineTo(plane.toX(y[j][0]), plane.toY(y[j][1]));
        g.stroke();
      }
  }
  function paintPoint(g, [a, b], cloud, ringed) {
    const px = plane.toX(a), py = plane.toY(b), r = 7.5;   // a square within a circle: both are seen
    const outline = (size) => {
      g.beginPath();
      if (cloud === "x") g.arc(px, py, size, 0, 2 * Math.PI);
      else g.rect(px - 0.68 * size, py - 0.68 * size, 1.36 * size, 1.36 * size);
    };
    outline(r);
    g.fillStyle = colours[cloud === "x" ? 0 : 1];
    g.fill();
    g.lineWidth = 1.25;
    g.strokeStyle = plane.look.ink.paper;
    g.stroke();
    if (!ringed) return;
    outline(r + 4);
    g.lineWidth = 2;
    g.strokeStyle = plane.look.ink.strong;
    g.stroke();
  }
  const repaint = oncePerFrame(() => {
    const began = performance.now(), g = map.getContext("2d"), { ink, size } = plane.look;
    refresh();
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, size, size);
    plane.axes(g);
    if (shown.entropic) paintPlan(g, now.plans.entropic, ink.accent);
    if (shown.exact) paintPlan(g, now.plans.exact, ink.strong);
    const is = (cloud, i) => chosen?.cloud === cloud && chosen.i === i;
    state.x.forEach((point, i) => paintPoint(g, point, "x", is("x", i)));
    moved(state.y, state.shift).forEach((point, i) => paintPoint(g, point, "y", is("y", i)));
    g.fillStyle = ink.strong;
    g.font = "13px system-ui, sans-serif";
    g.textAlign = "left";
    g.textBaseline = "top";
    const { exact, entropic } = now.transport, symbol = state.cost === "squared" ? "W\u2082\u00b2" : "W\u2081";
    g.fillText(`${symbol} = ${short(exact)}, entropic ${short(entropic)}`, 6, 5);
    root.__ms = performance.now() - began;             // for the tests
  });

  // ---- numbers and curves ------------------------------------------------------------------------
  // Of a comparison, what the cards show.
  const quantities = ({ transport, partners, mmd, points, smoothed }) => ({
    transport, partners, mmd: { mmd },
    ...Object.fromEntries(["kl", "js", "tv"].map((k) => [k, { points: points[k], smoothed: smoothed[k] }])),
  });
  const slopes = {};                                  // of the quantities, a frame or two behind them
  const at = (s) => compare(state.x, moved(state.y, s), settings());
  function refresh() {
    if (now) return;
    now = at(state.shift);
    for (const [name, values] of Object.entries(quantities(now)))
      cards[name].mark(state.shift, Object.fromEntries(
        Object.entries(values).map(([key, value]) => [key, [value, slopes[name]?.[key]]])));
  }
  function findSlopes() {
    const d = 1e-4 * plane.span, here = quantities(now ?? at(state.shift));
    const [before, after] = [at(state.shift - d), at(state.shift + d)].map(quantities);
    for (const [name, values] of Object.entries(here)) {
      slopes[name] = {};
      for (const [key, value] of Object.entries(values)) {
        const low = before[name][key], high = after[name][key];
        const jumps = key === "points" && (low !== value || high !== value);
        slopes[name][key] = jumps ? NaN : (high - low) / (2 * d);  // infinite: NaN too
      }
      for (const [key, slope] of Object.entries(slopes[name])) cards[name].lean(key, slope);
    }
  }

  // Slopes and curves take longer than a frame: they are computed in slices, the curves from the clouds
  // at one moment.
  let pass = null, stale = true, leaning = true, asked = 0;
  function* curves() {
    const { x, y } = { x: copy(state.x), y: copy(state.y) }, fixedSettings = settings();
    const [low, high] = reachOfShift(), found = [];
    const xs = Array.from({ length: SAMPLES }, (_, k) => low + ((high - low) * k) / (SAMPLES - 1));
    for (const s of xs) {
      // a hair off the spots where points meet, which are shown by themselves
      found.push(quantities(compare(x, moved(y, s), { ...fixedSettings, near: -1 })));
      yield;
    }
    const meetings = new Set();
    for (const [a, b] of x) for (const [c, d] of y)
      if (Math.abs(b - d) <= near && a - c >= low && a - c <= high) meetings.add(Number((a - c).toPrecision(10)));
    const spots = [...meetings].map((s) => [s, pointDivergences(x, moved(y, s), near)]);
    for (const [name, card] of Object.entries(cards))
      card.draw(xs, Object.fromEntries(Object.keys(found[0][name]).map((key) => [key, {
        values: found.map((q) => q[name][key]),
        spots: key === "points" ? spots.map(([s, values]) => [s, values[name]]) : [],
      }])));
    now = null;                                        // the marks are new
    repaint();
  }
  function work() {
    asked = 0;
    const began = performance.now();
    if (leaning) findSlopes();
    leaning = false;
    while (performance.now() - began < SLICE) {
      if (!pass && !stale) return;
      if (!pass) {
        pass = curves();
        stale = false;
      }
      if (pass.next().done) pass = null;
    }
    asked = requestAnimationFrame(work);
  }
  function recompute(alsoCurves) {
    now = null;
    repaint();
    leaning = true;
    stale ||= alsoCurves;
    asked ||= requestAnimationFrame(work);
  }

  // ---- acting ------------------------------------------------------------------------------------
  const tellPython = throttled(() => {
    for (const key of ["x", "y"]) model.set(key, copy(state[key]));
    for (const key of KEYS) model.set(key, state[key]);
    model.save_changes();
  }, 100);
  let saying = 0;
  function say(text, delay = 0) {
    clearTimeout(saying);
    saying = setTimeout(() => { live.textContent = typeof text === "function" ? text() : text; }, delay);
  }

  const logOf = (range, v) => (1000 * Math.log(v / range[0])) / Math.log(range[1] / range[0]);
  const expOf = (range, v) => range[0] * (range[1] / range[0]) ** (v / 1000);
  for (const input of [epsilonSlider, widthSlider]) Object.assign(input, { min: 0, max: 1000 });
  function showControls() {
    const [low, high] = reachOfShift();
    Object.assign(shiftSlider, { min: low, max: high, disabled: high - low < grain });
    shiftSlider.value = state.shift;
    epsilonSlider.value = logOf(ranges.epsilon, state.epsilon);
    widthSlider.value = logOf(ranges.width, state.width);
    shiftText.textContent = fixed(state.shift);
    epsilonText.textContent = short(state.epsilon);
    widthText.textContent = short(state.width);
    for (const [input, text] of [[shiftSlider, shiftText], [epsilonSlider, epsilonText], [widthSlider, widthText]])
      input.setAttribute("aria-valuetext", text.textContent);
    for (const { key, buttons } of [costChoice, kernelChoice])
      for (const node of buttons) node.setAttribute("aria-pressed", String(node.dataset.value === state[key]));
    showButtons.forEach((node, k) => node.setAttribute("aria-pressed", String(Object.values(shown)[k])));
    const same = (p) => ["x", "y"].every((k) => JSON.stringify(p[k]) === JSON.stringify(state[k]));
    presetButtons.forEach((node, k) => node.setAttribute("aria-pressed", String(same(presets[k]))));
    cards.transport.heading.innerHTML = `Transport cost, ${state.cost === "squared" ? "W<sub>2</sub>\u00b2" : "W<sub>1</sub>"}`;
    map.setAttribute("aria-label", `Plane with ${state.x.length} points of cloud x and ${state.y.length} of cloud y. `
      + "Comma and full stop choose a point, arrow keys move it, with Shift in larger steps, Enter puts it on the "
      + "nearest point of the other cloud. Escape starts again.");
  }
  function change(values, { said = true } = {}) {
    Object.assign(state, values);
    showControls();
    recompute(Object.keys(values).some((key) => key !== "shift"));
    tellPython();
    if (said) say(() => `Transport cost ${short(now?.transport.exact)}, entropic ${short(now?.transport.entropic)}.`, 700);
  }
  function take({ x, y, shift }) {
    chosen = held = null;
    change({ x: copy(x), y: copy(y), shift });
  }
  function reset() {
    chosen = held = null;
    Object.assign(shown, { exact: true, entropic: true });
    const { x, y } = start;
    change({ ...start, x: copy(x), y: copy(y) }, { said: false });
    say("Started again.");
  }

  const order = () => [...state.x.map((_, i) => ({ cloud: "x", i })), ...state.y.map((_, i) => ({ cloud: "y", i }))];
  const name = ({ cloud, i }) => `${cloud} ${i + 1}`;
  const nearestOther = (cloud, a, b) => {
    const others = order().filter((p) => p.cloud !== cloud).map(place);
    return others.reduce((best, p) => (Math.hypot(p[0] - a, p[1] - b) < Math.hypot(best[0] - a, best[1] - b) ? p : best));
  };
  const round = (v) => Number((Math.round(v / (1e-4 * plane.span)) * 1e-4 * plane.span).toPrecision(12));
  function movePoint(point, a, b, exactly = false) {
    [a, b] = exactly ? [a, b] : plane.within(a, b).map(round);
    const cloud = copy(state[point.cloud]);
    cloud[point.i] = [point.cloud === "y" ? a - state.shift : a, b];
    change({ [point.cloud]: cloud }, { said: false });
    say(() => `Point ${name(point)} at (${fixed(a)}, ${fixed(b)}). Transport cost ${short(now?.transport.exact)}.`, 700);
  }
  function choose(step) {
    const all = order(), at = all.findIndex((p) => p.cloud === chosen?.cloud && p.i === chosen.i);
    chosen = all[at < 0 ? (step > 0 ? 0 : all.length - 1) : (at + step + all.length) % all.length];
    const [a, b] = place(chosen);
    say(`Point ${name(chosen)} at (${fixed(a)}, ${fixed(b)}).`);
    repaint();
  }

  // ---- pointer and keys ---------------------------------------------------------------------------
  const pixel = (event) => {
    const box = map.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  function pointAt([px, py], kind) {
    let best = null, least = REACH[kind] ?? REACH.mouse;
    for (const point of order()) {
      const [a, b] = place(point), d = Math.hypot(plane.toX(a) - px, plane.toY(b) - py);
      if (d <= least) [best, least] = [point, d];      // of two on one spot the one drawn on top
    }
    return best;
  }
  // A finger on a point drags it; elsewhere on the plane it scrolls the page.
  map.addEventListener("touchstart", (event) => {
    if (event.touches.length === 1 && pointAt(pixel(event.touches[0]), "touch")) event.preventDefault();
  }, { passive: false });
  map.addEventListener("pointerdown", (event) => {
    const at = pixel(event), point = event.button === 0 ? pointAt(at, event.pointerType) : null;
    chosen = point;
    repaint();
    if (!point) return;
    map.setPointerCapture(event.pointerId);           // a drag may leave the plane and come back
    map.focus({ preventScroll: true });
    const [a, b] = place(point);
    held = { point, id: event.pointerId, offset: [plane.toX(a) - at[0], plane.toY(b) - at[1]] };
    event.preventDefault();
  });
  map.addEventListener("pointermove", (event) => {
    const at = pixel(event);
    if (!held || held.id !== event.pointerId) {
      if (event.pointerType === "mouse") map.style.cursor = pointAt(at, "mouse") ? "grab" : "default";
      return;
    }
    map.style.cursor = "grabbing";
    const [px, py] = [at[0] + held.offset[0], at[1] + held.offset[1]], target = plane.at(px, py);
    const other = nearestOther(held.point.cloud, ...target);
    const caught = Math.hypot(plane.toX(other[0]) - px, plane.toY(other[1]) - py) < CATCH;
    movePoint(held.point, ...(caught ? other : target), caught);
  });
  for (const event of ["pointerup", "pointercancel", "lostpointercapture"])
    map.addEventListener(event, () => { held = null; });

  root.addEventListener("keydown", (event) => {
    const { key, target } = event, large = event.shiftKey ? 0.1 : 0.01;
    if (key === "Escape") reset();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (target === shiftSlider && DIRECTIONS[key]) {
      const [a, b] = DIRECTIONS[key];
      shiftTo(state.shift + (a || b) * (event.shiftKey ? 10 : 1) * grain);
    } else if (target !== map) return;
    else if (key === "." || key === ",") choose(key === "." ? 1 : -1);
    else if (DIRECTIONS[key]) {
      if (!chosen) choose(1);
      const [a, b] = place(chosen), [da, db] = DIRECTIONS[key];
      movePoint(chosen, a + da * large * plane.span, b + db * large * plane.span);
    } else if (key === "Enter" && chosen) movePoint(chosen, ...nearestOther(chosen.cloud, ...place(chosen)), true);
    else return;
    event.preventDefault();                           // the page does not scroll, and a notebook
    event.stopPropagation();                          // does not leave the cell
  });
  function shiftTo(s) {
    const [low, high] = reachOfShift(), whole = Math.round(s / grain) * grain;
    change({ shift: Number(Math.min(high, Math.max(low, whole)).toPrecision(12)) });
  }
  shiftSlider.addEventListener("input", () => shiftTo(Number(shiftSlider.value)));
  epsilonSlider.addEventListener("input", () => change({ epsilon: expOf(ranges.epsilon, Number(epsilonSlider.value)) }));
  widthSlider.addEventListener("input", () => change({ width: expOf(ranges.width, Number(widthSlider.value)) }));

  // ---- the page and Python -------------------------------------------------------------------
  const listeners = Object.fromEntries(["x", "y", ...KEYS].map((key) => [key, () => {
    const there = model.get(key);
    if (JSON.stringify(there) === JSON.stringify(state[key])) return;
    if (key === "x" || key === "y") {
      held = null;
      if (chosen && chosen.i >= there.length) chosen = null;
    }
    state[key] = Array.isArray(there) ? copy(there) : there;
    showControls();
    recompute(key !== "shift");
  }]));
  for (const [key, heard] of Object.entries(listeners)) model.on(`change:${key}`, heard);
  showControls();
  recompute(true);
  const stop = followPage(root, map, (size, r) => {
    const style = getComputedStyle(root), get = (name) => style.getPropertyValue(name).trim();
    ratio = r;
    plane.look.size = size;
    plane.look.ink = {
      line: get("--tutor-line"), muted: get("--tutor-muted"), paper: get("--tutor-paper"),
      strong: get("--tutor-ink"), accent: get("--tutor-accent"),
    };
    colours = [0, 1].map((k) => get(`--tutor-class-${k}`));
    repaint();
  });

  root.__compare = (x, y, more) => {                  // for the tests
    const { plans, ...rest } = compare(x, y, { ...settings(), ...more });
    return { exact: [...plans.exact], entropic: [...plans.entropic], ...rest };
  };
  root.__state = () => ({ ...state, x: copy(state.x), y: copy(state.y), chosen, busy: Boolean(pass || stale || leaning) });
  root.__where = (cloud, i) => {
    const [a, b] = place({ cloud, i });
    return [plane.toX(a), plane.toY(b)];
  };
  return () => {
    stop();
    cancelAnimationFrame(asked);
    for (const [key, heard] of Object.entries(listeners)) model.off(`change:${key}`, heard);
  };
}

export default { render };
