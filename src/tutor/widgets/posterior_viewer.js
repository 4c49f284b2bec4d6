// PosteriorViewer: exact posteriors as shading, what a method believes on top, over training.
import { bytesOf } from "./runtime.js";
import { makePlane } from "./plane.js";
import { followPage, h, oncePerFrame } from "./page.js";

const INSET = 0.28;             // side of the map in the corner, in sides of the panel
const mix = (a, b, u) => a + (b - a) * u;
const number = (v) => v.toFixed(2).replace("-", "\u2212");
const count = (v) => String(v).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const TURN = 2 * Math.PI;
const rgbOf = (colour) => colour.match(/[\da-f]{2}/gi).map((v) => parseInt(v, 16));

// Markers as polygons: corners, and the angle of the first one; the first marker is a circle.
const MARKERS = [
  null, [4, 0.125], [3, -0.25], [4, 0], [3, 0.25], [5, -0.25], [6, -0.25], [3, 0.5], [3, 0],
];

function marker(g, x, y, radius, kind) {
  const shape = MARKERS[kind % MARKERS.length];
  g.beginPath();
  if (!shape) g.arc(x, y, radius, 0, TURN);
  else
    for (let k = 0; k < shape[0]; k++) {
      const angle = TURN * (shape[1] + k / shape[0]), r = 1.25 * radius;   // as large to the eye
      g.lineTo(x + r * Math.cos(angle), y + r * Math.sin(angle));
    }
  g.closePath();
}

const imageOf = (bytes) => createImageBitmap(
  new Blob([bytesOf(bytes)], { type: "image/png" }), { colorSpaceConversion: "none" },
);

// The levels 0 to 255 of a grey picture that holds square tiles, row by row: tile -> Uint8Array.
async function tilesOf(bytes, side) {
  const sheet = await imageOf(bytes), { width, height } = sheet;
  const g = h("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  g.drawImage(sheet, 0, 0);
  const perRow = width / side, cache = new Map();
  return (k) => {
    if (!cache.has(k)) {
      const x = (k % perRow) * side, y = Math.floor(k / perRow) * side;
      const rgba = g.getImageData(x, y, side, side).data;
      cache.set(k, Uint8Array.from({ length: side * side }, (_, p) => rgba[4 * p]));
    }
    return cache.get(k);
  };
}

// Everything that was recorded, by method m, point i and a frame f that need not be whole.
async function recordings(model, spec) {
  const T = spec.steps.length, n = spec.names.length, side = spec.grid;
  const floats = (name) => new Float32Array(bytesOf(model.get(name)));
  const windows = floats("windows"), gaussians = floats("gaussians"), numbers = floats("numbers");
  const steps = new Int16Array(bytesOf(model.get("samples")));
  const tile = await tilesOf(model.get("densities"), side);
  let gaussian = 0, drawn = 0;
  const start = spec.methods.map(({ draws }) => {
    const at = draws ? drawn : gaussian;
    if (draws) drawn += T * n * draws * 2;
    else gaussian += T * n * 4;
    return at;
  });
  const between = (array, from, size, f) => {
    const t = Math.floor(f), u = f - t, a = from + t * size;
    return (k) => (u === 0 ? array[a + k] : mix(array[a + k], array[a + size + k], u));
  };
  const four = (array, from, i, f) => Array.from({ length: 4 }, (_, k) =>
    between(array, from, 4 * n, f)(4 * i + k));
  return {
    window: (m, i, f) => four(windows, m * T * n * 4, i, f),
    gaussian: (m, i, f) => four(gaussians, start[m], i, f),
    draws(m, i, f) {
      const { draws, scale } = spec.methods[m];
      const value = between(steps, start[m], n * draws * 2, f);
      return (j) => [0, 1].map((d) => scale * value((i * draws + j) * 2 + d));
    },
    shade(m, i, f) {
      const t = Math.floor(f), u = f - t, a = tile((m * T + t) * n + i);
      if (u === 0) return (p) => a[p];
      const b = tile((m * T + t + 1) * n + i);
      return (p) => mix(a[p], b[p], u);
    },
    // log p(x) and KL(q(z|x) || p(z|x)); NaN where nobody said
    facts: (m, i, t) => [0, 1].map((k) => numbers[((2 * m + k) * T + t) * n + i]),
  };
}

const square = ([left, right, bottom, top], span) => {
  const x = (left + right) / 2, y = (bottom + top) / 2;
  return [x - span / 2, x + span / 2, y - span / 2, y + span / 2];
};

async function render({ model, el }) {
  const spec = model.get("spec"), [, rows, columns] = spec.shape;
  const n = spec.names.length, last = spec.steps.length - 1, all = Array.from({ length: n }, (_, i) => i);
  const contours = model.get("contours"), bounds = model.get("bounds");
  const data = await recordings(model, spec), images = await imageOf(model.get("images"));
  const perRow = Math.floor(images.width / columns);
  const picture = (g, i, ...place) => {
    g.imageSmoothingEnabled = false;
    g.drawImage(images, (i % perRow) * columns, Math.floor(i / perRow) * rows, columns, rows, ...place);
    g.imageSmoothingEnabled = true;
  };

  // ---- the parts of the figure --------------------------------------------------------------
  const allButton = h("button", { type: "button", class: "tutor-all" }, "All");
  const badges = [];
  const pointButtons = all.map((i) => {
    const thumb = h("canvas", { width: columns, height: rows, class: "tutor-pixels" });
    picture(thumb.getContext("2d"), i, 0, 0, columns, rows);
    const badge = h("canvas", { class: "tutor-badge" });
    badges.push(badge);
    return h("button", {
      type: "button", class: "tutor-point", "aria-label": `Image ${spec.names[i]}`,
      title: `Image ${spec.names[i]}`, style: `--swatch: var(--tutor-class-${i % 10})`,
    }, thumb, badge);
  });
  const known = [];                                   // which numbers, by method
  const panels = spec.methods.map(({ name, draws }, m) => {
    const canvas = h("canvas", { class: "tutor-panel-map", role: "img" });
    const values = [0, 1].map(() => h("dd", {}));
    const terms = ["log p(x)", "KL(q(z|x) \u2225 p(z|x))"];
    const facts = h("dl", { class: "tutor-numbers" },
      ...terms.map((term, k) => h("div", {}, h("dt", {}, term), values[k])));
    known[m] = [0, 1].map((k) => all.every((i) => !Number.isNaN(data.facts(m, i, 0)[k])));
    const box = h("div", { class: "tutor-panel", role: "group", "aria-label": name },
      h("p", { class: "tutor-method" }, h("strong", {}, name),
        draws ? `q(z|x): ${draws} draws` : "q(z|x): 1 and 2 std"),
      canvas, facts);
    return { canvas, values, box, facts };
  });
  for (const { facts } of panels)                     // the same lines in both panels
    [0, 1].forEach((k) => { facts.children[k].hidden = !known.some((given) => given[k]); });
  const playButton = h("button", { type: "button", class: "tutor-play" }, "Play");
  const slider = h("input", {
    type: "range", min: "0", max: String(last), step: "1", "aria-label": "Training step",
  });
  const stepText = h("span", { class: "tutor-step" });
  const live = h("p", { class: "tutor-said", "aria-live": "polite" });
  const time = h("div", { class: "tutor-time" }, playButton, slider, stepText);
  time.hidden = last === 0;
  const root = h("div", {
    class: "tutor-figure tutor-posteriors", role: "group", "aria-label": "Posterior viewer",
    "data-lm-suppress-shortcuts": "true",             // JupyterLab leaves the keys to the figure
  },
    h("div", { class: "tutor-points", role: "group", "aria-label": "Image" }, allButton, ...pointButtons),
    h("div", { class: "tutor-panels" }, ...panels.map((p) => p.box)),
    time,
    h("p", { class: "tutor-help" },
      "Shaded: the exact posterior p(z|x) under the decoder (square root of its density, relative to "
      + `its peak); on it q(z|x)${contours.length ? "; dashed: mass of the prior p(z)" : ""}. Choose an `
      + "image, or all (Escape)"
      + (last ? "; move through training with the slider, the left and right arrow keys or Play." : ".")),
    live);
  el.append(root);
  root.classList.toggle("tutor-single", panels.length === 1);
  stepText.style.minWidth = `${6 + count(spec.steps[last]).length}ch`;

  // ---- state ---------------------------------------------------------------------------------
  let frame = model.get("frame"), point = model.get("point") ?? -1;
  let shown = frame;                                  // on its way to frame, then equal to it
  let playing = false, before = 0;
  let ratio = 1, size = 1, colours = [], ink = {};
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const pace = Math.min(400, Math.max(80, 6000 / (last + 1)));      // milliseconds a frame

  // ---- drawing -------------------------------------------------------------------------------
  function takeLook(width) {
    const style = getComputedStyle(root), get = (name) => style.getPropertyValue(name).trim();
    size = width;
    ink = {
      line: get("--tutor-line"), muted: get("--tutor-muted"), paper: get("--tutor-paper"),
      strong: get("--tutor-ink"), accent: get("--tutor-accent"),
    };
    colours = Array.from({ length: 10 }, (_, k) => get(`--tutor-class-${k}`));
    sprites.clear();
    badges.forEach((badge, i) => {
      badge.width = badge.height = Math.round(14 * ratio);
      const g = badge.getContext("2d");
      g.scale(ratio, ratio);
      marker(g, 7, 7, 4.5, i);
      g.fillStyle = colours[i % 10];
      g.fill();
    });
    for (const { canvas } of panels) {
      canvas.width = canvas.height = Math.round(width * ratio);
    }
  }

  // The shades of points that share a window, as one picture: colours multiply on light paper and
  // add up (screen) on dark.  So a panel scales one picture, however many points it shows.
  const patch = h("canvas", { width: spec.grid, height: spec.grid });
  const brush = patch.getContext("2d"), pixels = brush.createImageData(spec.grid, spec.grid);
  const light = new Float32Array(3 * spec.grid * spec.grid);
  function paintShades(g, plane, m, points, [left, right, bottom, top]) {
    const dark = root.dataset.theme === "dark";
    const strength = point < 0 ? (dark ? 0.8 : 0.62) : dark ? 1 : 0.78;
    light.fill(1);
    for (const i of points) {
      const shade = data.shade(m, i, shown);
      const takes = rgbOf(colours[i % 10]).map((v) => (strength / 255) * (dark ? v : 255 - v) / 255);
      for (let p = 0, q = 0; q < light.length; p++) {
        const s = shade(p);
        for (let c = 0; c < 3; c++) light[q++] *= 1 - takes[c] * s;
      }
    }
    for (let p = 0, q = 0; q < light.length; p += 4) {
      for (let c = 0; c < 3; c++, q++) pixels.data[p + c] = 255 * (dark ? 1 - light[q] : light[q]);
      pixels.data[p + 3] = 255;
    }
    brush.putImageData(pixels, 0, 0);
    const x = plane.toX(left), y = plane.toY(top);
    g.drawImage(patch, x, y, plane.toX(right) - x, plane.toY(bottom) - y);
  }

  // Axes and contours of a view, painted once as long as the view stays.
  const layers = panels.map(() => ({ canvas: document.createElement("canvas"), key: "" }));
  function layerOf(m, view, plane) {
    const layer = layers[m], key = [view, size, ratio, root.dataset.theme].join();
    if (layer.key === key) return layer;
    layer.key = key;
    layer.canvas.width = layer.canvas.height = panels[m].canvas.width;
    const g = layer.canvas.getContext("2d");
    g.scale(ratio, ratio);
    plane.axes(g);
    layer.tags = plane.contours(g, contours);
    return layer;
  }

  // A dot as a small picture, painted once a colour, size and screen.
  const sprites = new Map();
  function spriteOf(colour, radius, kind) {
    const key = [colour, ink.paper, radius, kind, ratio].join();
    if (!sprites.has(key)) {
      const side = Math.ceil((3 * radius + 2) * ratio), canvas = h("canvas", { width: side, height: side });
      const g = canvas.getContext("2d");
      g.scale(ratio, ratio);
      marker(g, side / ratio / 2, side / ratio / 2, radius, kind);
      g.fillStyle = colour;
      g.fill();
      g.lineWidth = 0.5;
      g.strokeStyle = ink.paper;                      // keeps overlapping dots apart
      g.stroke();
      sprites.set(key, canvas);
    }
    return sprites.get(key);
  }

  // q(z|x) of one point; returns its middle, how far two standard deviations reach upwards, and
  // how many draws lie outside the panel.
  function paintBelief(g, plane, m, i, alone) {
    const own = colours[i % 10], { draws } = spec.methods[m];
    if (!draws) {
      const [a, b, across, up] = data.gaussian(m, i, shown);
      for (const sigmas of [1, 2]) {
        const [rx, ry] = [across, up].map((spread) => (sigmas * spread * size) / plane.span);
        g.beginPath();
        g.ellipse(plane.toX(a), plane.toY(b), rx, ry, 0, 0, TURN);
        g.lineWidth = sigmas === 1 ? 2 : 1.25;
        g.strokeStyle = alone ? ink.strong : own;
        g.stroke();
      }
      return [plane.toX(a), plane.toY(b), (2 * up * size) / plane.span, 0];
    }
    const at = data.draws(m, i, shown), radius = Math.min(2.6, Math.max(1.3, size / 120));
    const sprite = spriteOf(alone ? ink.strong : own, radius, alone ? 0 : i);
    const side = sprite.width / ratio;
    let middle = 0, height = 0, squares = 0, outside = 0;
    for (let j = 0; j < draws; j++) {
      const [a, b] = at(j), x = plane.toX(a), y = plane.toY(b);
      g.drawImage(sprite, x - side / 2, y - side / 2, side, side);
      outside += x < 0 || x > size || y < 0 || y > size;
      middle += x / draws;
      height += y / draws;
      squares += (y * y) / draws;
    }
    return [middle, height, 2 * Math.sqrt(Math.max(0, squares - height * height)), outside];
  }

  // The images name their posteriors, from above where they would hide them; those that would
  // cover each other step aside.
  function paintTags(g, middles) {
    const side = Math.max(13, Math.min(20, size / 16)), apart = side + 5;
    const places = middles.map(([x, y, reach], i) => {
      const above = reach < side ? reach + side / 2 + 4 : 0;
      return [x + 1e-3 * Math.cos(i), y - above + 1e-3 * Math.sin(i)];
    });
    for (let round = 0; round < 30; round++)
      for (let i = 0; i < n; i++)
        for (let j = 0; j < i; j++) {
          const dx = places[i][0] - places[j][0], dy = places[i][1] - places[j][1];
          const d = Math.hypot(dx, dy), push = (apart - d) / 2;
          if (push <= 0) continue;
          places[i] = [places[i][0] + (push * dx) / d, places[i][1] + (push * dy) / d];
          places[j] = [places[j][0] - (push * dx) / d, places[j][1] - (push * dy) / d];
        }
    const inside = (v) => Math.min(size - side / 2 - 3, Math.max(side / 2 + 3, v));
    places.forEach((place, i) => {
      const [x, y] = place.map(inside);
      const width = side * Math.min(1, columns / rows), height = side * Math.min(1, rows / columns);
      g.fillStyle = colours[i % 10];
      g.fillRect(x - width / 2 - 2, y - height / 2 - 2, width + 4, height + 4);
      picture(g, i, x - width / 2, y - height / 2, width, height);
    });
  }

  // Where a narrow view lies in the plane.
  function paintInset(g, view) {
    const whole = bounds[1] - bounds[0];
    if (view[1] - view[0] > 0.8 * whole) return;
    const side = Math.round(INSET * size), place = size - side - 6;
    g.save();
    g.translate(place, 6);
    g.fillStyle = ink.paper;
    g.strokeStyle = ink.muted;
    g.lineWidth = 1;
    g.fillRect(0, 0, side, side);
    g.strokeRect(0, 0, side, side);
    g.beginPath();
    g.rect(0, 0, side, side);
    g.clip();
    const map = makePlane(bounds);
    Object.assign(map.look, { size: side, ink });
    map.contours(g, contours);
    const x = (map.toX(view[0]) + map.toX(view[1])) / 2, y = (map.toY(view[2]) + map.toY(view[3])) / 2;
    const width = Math.max(5, map.toX(view[1]) - map.toX(view[0]));  // at least to be seen
    g.strokeStyle = ink.accent;
    g.lineWidth = 2;
    g.strokeRect(x - width / 2, y - width / 2, width, width);
    g.restore();
  }

  // What panel m shows: the plane, or the chosen point's window on the same scale in every panel.
  function viewOf(m) {
    if (point < 0) return bounds;
    const spans = panels.map((_, k) => {
      const [left, right, bottom, top] = data.window(k, point, shown);
      return Math.max(right - left, top - bottom);
    });
    return square(data.window(m, point, shown), Math.max(...spans));
  }

  function paintPanel(m) {
    const g = panels[m].canvas.getContext("2d"), view = viewOf(m), plane = makePlane(view);
    Object.assign(plane.look, { size, ink });
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.fillStyle = ink.paper;
    g.fillRect(0, 0, size, size);
    const points = point < 0 ? all : [point], groups = new Map();
    for (const i of points) {
      const window = data.window(m, i, shown), key = window.join();
      groups.set(key, { window, members: [...(groups.get(key)?.members ?? []), i] });
    }
    g.globalCompositeOperation = root.dataset.theme === "dark" ? "screen" : "multiply";
    for (const { window, members } of groups.values()) paintShades(g, plane, m, members, window);
    const layer = layerOf(m, view, plane);
    g.drawImage(layer.canvas, 0, 0, size, size);
    g.globalCompositeOperation = "source-over";
    const middles = points.map((i) => paintBelief(g, plane, m, i, point >= 0));
    if (point < 0) paintTags(g, middles);
    else {
      for (const tag of layer.tags) plane.tag(g, ...tag);
      paintInset(g, view);
    }
    const outside = middles.reduce((sum, q) => sum + q[3], 0);
    if (outside) {
      g.font = "11px system-ui, sans-serif";
      g.textAlign = "right";
      g.textBaseline = "bottom";
      g.fillStyle = ink.strong;
      g.fillText(`${outside} draw${outside > 1 ? "s" : ""} outside`, size - 6, size - 22);
    }
    if (shown === frame) describe(m, outside);
  }

  const repaint = oncePerFrame(() => {
    const now = performance.now(), u = before ? (now - before) / pace : 0;
    const left = Math.abs(frame - shown);             // one frame is walked, a leap is not
    shown = left > 1 || left <= u || calm.matches ? frame : shown + u * Math.sign(frame - shown);
    before = now;
    panels.forEach((_, m) => paintPanel(m));
    if (shown !== frame) repaint();
    else if (playing) playOn();
    else before = 0;
  });

  // ---- words ---------------------------------------------------------------------------------
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const who = () => (point < 0 ? `all ${n} images` : `image ${spec.names[point]}`);
  function factsOf(m) {
    const points = point < 0 ? all : [point];
    return [0, 1].map((k) => mean(points.map((i) => data.facts(m, i, frame)[k])));
  }
  function showWords() {
    stepText.textContent = `step ${count(spec.steps[frame])}`;
    slider.value = String(frame);
    slider.setAttribute("aria-valuetext", stepText.textContent);
    allButton.setAttribute("aria-pressed", String(point < 0));
    pointButtons.forEach((button, i) => button.setAttribute("aria-pressed", String(point === i)));
    panels.forEach(({ values }, m) => {
      const facts = factsOf(m);
      const unit = point < 0 && n > 1 ? "nats, mean" : "nats";
      values.forEach((value, k) => {
        value.textContent = known[m][k] ? `${number(facts[k])} ${unit}` : "not measured";
      });
    });
  }
  function describe(m, outside) {
    const { name, draws } = spec.methods[m];
    const belief = draws
      ? `${point < 0 && n > 1 ? `${draws} draws each` : `${draws} draws`} of q(z|x) as dots${outside ? `, ${outside} outside` : ""}`
      : "the Gaussian q(z|x) as ellipses";
    panels[m].canvas.setAttribute("aria-label",
      `${name}, ${stepText.textContent}: exact posterior of ${who()}, with ${belief}.`);
  }
  let saying = 0;
  function say() {
    clearTimeout(saying);
    saying = setTimeout(() => {
      const lines = spec.methods.map(({ name }, m) => {
        const said = panels[m].values.map((value, k) =>
          (known[m][k] ? `${["log p(x)", "KL"][k]} ${value.textContent}` : ""));
        return said.some(Boolean) ? ` ${name}: ${said.filter(Boolean).join(", ")}.` : "";
      });
      const text = `${stepText.textContent}, ${who()}.${lines.join("")}`;
      live.textContent = text[0].toUpperCase() + text.slice(1);
    }, 600);                                          // once the keys have come to rest
  }

  // ---- acting --------------------------------------------------------------------------------
  function tell() {
    model.set("frame", frame);
    model.set("point", point < 0 ? null : point);
    model.save_changes();
  }
  function go(to) {
    frame = Math.min(last, Math.max(0, to));
    showWords();
    repaint();
  }
  function choose(i) {
    point = i;
    showWords();
    repaint();
    tell();
    say();
  }
  function play(on) {
    playing = on && last > 0;
    playButton.textContent = playing ? "Pause" : "Play";
    if (!playing) return;
    if (frame < last) playOn();
    else {
      shown = 0;
      go(0);
    }
  }
  let waiting = 0;
  function playOn() {
    if (frame === last) {
      play(false);
      tell();
      say();
    } else {
      clearTimeout(waiting);                          // without easing, a frame stays for its time
      waiting = setTimeout(() => { if (playing) go(frame + 1); }, calm.matches ? pace : 0);
    }
  }
  function scrub(to) {
    play(false);
    go(to);
    tell();
    say();
  }

  allButton.onclick = () => choose(-1);
  pointButtons.forEach((button, i) => { button.onclick = () => choose(i); });
  playButton.onclick = () => {
    play(!playing);
    if (!playing) tell();
  };
  slider.oninput = () => scrub(Number(slider.value));
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 5 : 1;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight")
      scrub(frame + (event.key === "ArrowLeft" ? -step : step));
    else if (event.key === "Home") scrub(0);
    else if (event.key === "End") scrub(last);
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();                           // the page does not scroll, and a notebook
    event.stopPropagation();                          // does not leave the cell
  });

  // ---- the page and Python -------------------------------------------------------------------
  const takeFrame = () => {
    if (model.get("frame") === frame) return;
    play(false);
    go(model.get("frame"));
  };
  const takePoint = () => {
    const there = model.get("point") ?? -1;
    if (there === point) return;
    point = there;
    showWords();
    repaint();
  };
  model.on("change:frame", takeFrame);
  model.on("change:point", takePoint);
  showWords();
  const stop = followPage(root, panels[0].canvas, (width, r) => {
    ratio = r;
    takeLook(width);
    repaint();
  });

  root.__paint = (f) => {                             // for the tests
    shown = f;
    panels.forEach((_, m) => paintPanel(m));
  };
  root.__state = () => ({ frame, shown, point, playing });
  root.__where = (m, a, b) => {
    const plane = makePlane(viewOf(m));
    plane.look.size = size;
    return [plane.toX(a), plane.toY(b)];
  };
  return () => {
    stop();
    play(false);
    model.off("change:frame", takeFrame);
    model.off("change:point", takePoint);
  };
}

export default { render };
