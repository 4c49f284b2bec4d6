// LatentExplorer: the latent plane with the codes of images; a moving point is decoded at once.
import { bytesOf, makeDecoder } from "./runtime.js";
import { followPage, h, oncePerFrame, paint, throttled } from "./page.js";

const REACH = 18;             // pixels around a code in which a click or tap chooses it
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const number = (v) => v.toFixed(2).replace("-", "\u2212");
const pair = (a, b) => `(${number(a)}, ${number(b)})`;

async function render({ model, el }) {
  const spec = model.get("spec"), [, rows, columns] = spec.shape;
  const decode = makeDecoder(spec, model.get("weights"));
  const codes = new Float32Array(bytesOf(model.get("codes")));     // (n, 2) posterior means
  const spreads = new Float32Array(bytesOf(model.get("spreads"))); // (n, 2) posterior std, or empty
  const labels = new Uint8Array(bytesOf(model.get("labels")));     // (n) class, or empty
  const indices = new Int32Array(bytesOf(model.get("indices")));   // (n) row in the data set
  const names = model.get("classes"), bounds = model.get("bounds");
  const n = codes.length / 2;
  const images = await createImageBitmap(
    new Blob([bytesOf(model.get("images"))], { type: "image/png" }),
    { colorSpaceConversion: "none" },
  );
  const perRow = Math.floor(images.width / columns);

  // ---- the parts of the figure --------------------------------------------------------------
  const map = h("canvas", {
    class: "tutor-map", tabindex: "0", role: "application",
    "aria-label": "Latent plane. Arrow keys move the point, with Shift in larger steps. "
      + "Enter chooses the nearest code, Escape starts again.",
  });
  const picture = (label) =>
    h("canvas", { width: columns, height: rows, class: "tutor-pixels", role: "img", "aria-label": label });
  const decoded = picture("Decoded image"), original = picture("Image of the chosen code");
  const rebuilt = picture("Its reconstruction");
  const figure = (kind, canvas, ...caption) =>
    h("figure", { class: kind }, canvas, h("figcaption", {}, ...caption));
  const position = h("span", { class: "tutor-z" });
  const facts = h("p", { class: "tutor-facts" });
  const live = h("p", { class: "tutor-said", "aria-live": "polite" });
  const legend = h("div", { class: "tutor-legend", role: "group", "aria-label": "Classes" });
  const glyphButton = h("button", { type: "button", "aria-pressed": "false" }, "Draw as images");
  const resetButton = h("button", { type: "button" }, "Reset");
  const root = h("div", { class: "tutor-figure tutor-explorer", role: "group", "aria-label": "Latent space explorer" },
    h("div", { class: "tutor-layout" },
      map,
      h("div", { class: "tutor-side" },
        figure("tutor-now", decoded, "decoder at ", position),
        figure("tutor-chosen", original, "image"),
        figure("tutor-chosen", rebuilt, "reconstruction"),
        facts,
        h("p", { class: "tutor-help" },
          "Move the pointer or a finger over the plane, or focus it and use the arrow keys. "
          + "Choose a code with a click, a tap or Enter. Escape starts again.")),
      h("div", { class: "tutor-controls" }, legend, glyphButton, resetButton)),
    live);
  el.append(root);

  // ---- state ---------------------------------------------------------------------------------
  let z = [...model.get("z")], chosen = positionOf(model.get("selected"));
  let emphasised = -1, glyphs = false, focused = false;
  const hidden = new Set();
  let size = 1, ratio = 1, ink = {}, colours = [], sprites = null;
  const dots = document.createElement("canvas");      // prior and codes, repainted only on change

  function positionOf(index) {
    return index === null || index === undefined ? -1 : indices.indexOf(index);
  }
  const span = bounds[1] - bounds[0];                 // both axes have the same scale
  const toX = (v) => ((v - bounds[0]) / span) * size;
  const toY = (v) => ((bounds[3] - v) / span) * size;
  const classOf = (i) => (labels.length ? labels[i] : 0);
  const colourOf = (i) => colours[classOf(i) % colours.length];

  // ---- drawing -------------------------------------------------------------------------------
  function readColours() {
    const style = getComputedStyle(root), get = (name) => style.getPropertyValue(name).trim();
    ink = { line: get("--tutor-line"), text: get("--tutor-muted"), paper: get("--tutor-paper"), strong: get("--tutor-ink") };
    colours = Array.from({ length: 10 }, (_, k) => get(`--tutor-class-${k}`));
    sprites = null;
  }

  function paintDots() {
    dots.width = map.width;
    dots.height = map.height;
    const g = dots.getContext("2d");
    g.scale(ratio, ratio);
    paintAxes(g);
    const tags = paintPrior(g);
    const order = Array.from({ length: n }, (_, i) => i).filter((i) => !hidden.has(classOf(i)));
    if (emphasised >= 0) order.sort((a, b) => (classOf(a) === emphasised) - (classOf(b) === emphasised));
    if (glyphs) sprites ??= tinted();
    for (const i of order) {
      g.globalAlpha = emphasised < 0 ? 0.85 : classOf(i) === emphasised ? 1 : 0.1;
      if (glyphs) paintGlyph(g, i);
      else paintDot(g, toX(codes[2 * i]), toY(codes[2 * i + 1]), colourOf(i));
    }
    g.globalAlpha = 1;
    for (const tag of tags) paintTag(g, ...tag);        // readable over the dots
    repaint();
  }

  function paintDot(g, x, y, colour) {
    g.beginPath();
    g.arc(x, y, 3, 0, 2 * Math.PI);
    g.fillStyle = colour;
    g.fill();
    g.lineWidth = 0.6;
    g.strokeStyle = ink.paper;                        // keeps overlapping dots apart
    g.stroke();
  }

  function paintGlyph(g, i) {
    const side = Math.max(14, size / 26), x = toX(codes[2 * i]), y = toY(codes[2 * i + 1]);
    g.drawImage(sprites, (i % perRow) * columns, Math.floor(i / perRow) * rows, columns, rows,
      x - side / 2, y - (side * rows) / columns / 2, side, (side * rows) / columns);
  }

  // Grey images become ink of their class's colour on clear ground; colour images stay as they are.
  function tinted() {
    const canvas = h("canvas", { width: images.width, height: images.height });
    const g = canvas.getContext("2d", { willReadFrequently: true });
    g.drawImage(images, 0, 0);
    if (spec.shape[0] === 3) return canvas;
    for (let i = 0; i < n; i++) {
      const x = (i % perRow) * columns, y = Math.floor(i / perRow) * rows;
      const frame = g.getImageData(x, y, columns, rows);
      const [red, green, blue] = colourOf(i).match(/[\da-f]{2}/gi).map((v) => parseInt(v, 16));
      for (let p = 0; p < frame.data.length; p += 4) {
        frame.data[p + 3] = frame.data[p];
        frame.data[p] = red;
        frame.data[p + 1] = green;
        frame.data[p + 2] = blue;
      }
      g.putImageData(frame, x, y);
    }
    return canvas;
  }

  function paintAxes(g) {
    const step = [0.5, 1, 2, 5, 10, 20, 50].find((s) => span / s <= 9) ?? span / 5;
    g.font = "11px system-ui, sans-serif";
    g.fillStyle = ink.text;
    g.strokeStyle = ink.line;
    g.lineWidth = 1;
    for (const axis of [0, 1]) {
      const low = bounds[2 * axis], at = axis ? toY : toX;
      for (let k = Math.ceil(low / step); k * step < low + span; k++) {
        const p = Math.round(at(k * step)) + 0.5;
        g.globalAlpha = k === 0 ? 1 : 0.45;
        g.beginPath();
        g.moveTo(axis ? 0 : p, axis ? p : 0);
        g.lineTo(axis ? size : p, axis ? p : size);
        g.stroke();
        g.globalAlpha = 1;
        const text = String(k * step).replace("-", "\u2212");
        if (p < 30 || p > size - 30) continue;        // the corners belong to the axes' names
        g.textAlign = axis ? "left" : "center";
        g.textBaseline = axis ? "middle" : "bottom";
        g.fillText(text, axis ? 5 : p, axis ? p : size - 4);
      }
    }
    g.font = "italic 13px Georgia, serif";
    g.textBaseline = "bottom";
    g.textAlign = "right";
    g.fillText("z\u2081", size - 6, size - 4);
    g.textBaseline = "top";
    g.textAlign = "left";
    g.fillText("z\u2082", 6, 5);
  }

  // Dashed lines; returns where each one's name belongs: at its top.
  function paintPrior(g) {
    g.strokeStyle = ink.text;
    g.lineWidth = 1;
    g.setLineDash([5, 4]);
    const tags = model.get("contours").map(({ mass, lines }) => {
      let top = [0, -Infinity];
      for (const line of lines) {
        g.beginPath();
        for (const [a, b] of line) {
          g.lineTo(toX(a), toY(b));
          if (b > top[1]) top = [a, b];
        }
        g.stroke();
      }
      return [`${Math.round(100 * mass)} %`, toX(top[0]), toY(top[1])];
    });
    g.setLineDash([]);
    return tags;
  }

  function paintTag(g, text, x, y) {
    g.font = "11px system-ui, sans-serif";
    g.textAlign = "center";
    g.textBaseline = "middle";
    const half = g.measureText(text).width / 2 + 4;
    g.fillStyle = ink.paper;
    g.globalAlpha = 0.75;
    g.beginPath();
    g.roundRect(x - half, y - 8, 2 * half, 16, 4);
    g.fill();
    g.globalAlpha = 1;
    g.fillStyle = ink.text;
    g.fillText(text, x, y);
  }

  const repaint = oncePerFrame(() => {
    const g = map.getContext("2d");
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, map.width, map.height);
    g.drawImage(dots, 0, 0);
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (chosen >= 0) paintChosen(g);
    const [x, y] = [toX(z[0]), toY(z[1])];
    const onCode = chosen >= 0 && z[0] === codes[2 * chosen] && z[1] === codes[2 * chosen + 1];
    if (!onCode) paintPoint(g, x, y);                 // the ellipses mark the place already
    paint(decoded, decode(z), spec.shape);
    position.textContent = `z = ${pair(...z)}`;
  });

  function paintPoint(g, x, y) {
    for (const [colour, width] of [[ink.paper, 4.5], [ink.strong, 1.75]]) {
      g.strokeStyle = colour;
      g.lineWidth = width;
      g.beginPath();
      g.arc(x, y, 7, 0, 2 * Math.PI);
      for (const [dx, dy] of Object.values(ARROWS)) {
        g.moveTo(x + 7 * dx, y + 7 * dy);
        g.lineTo(x + 12 * dx, y + 12 * dy);
      }
      g.stroke();
    }
  }

  function paintChosen(g) {
    const x = toX(codes[2 * chosen]), y = toY(codes[2 * chosen + 1]);
    for (const sigmas of spreads.length ? [1, 2] : []) {
      g.beginPath();
      g.ellipse(x, y, (sigmas * spreads[2 * chosen] * size) / span,
        (sigmas * spreads[2 * chosen + 1] * size) / span, 0, 0, 2 * Math.PI);
      g.fillStyle = colourOf(chosen);
      g.globalAlpha = 0.14;
      g.fill();
      g.globalAlpha = 1;
      g.lineWidth = sigmas === 1 ? 1.75 : 1;
      g.strokeStyle = ink.strong;
      g.stroke();
    }
    paintDot(g, x, y, colourOf(chosen));
    g.beginPath();
    g.arc(x, y, 4.5, 0, 2 * Math.PI);
    g.strokeStyle = ink.strong;
    g.lineWidth = 1.5;
    g.stroke();
  }

  // ---- acting --------------------------------------------------------------------------------
  const tellPython = throttled(() => {
    model.set("z", [...z]);
    model.set("selected", chosen < 0 ? null : indices[chosen]);
    model.save_changes();
  }, 100);
  const sayPlace = (() => {
    let timer = 0;                                    // speaks when the keys have come to rest
    return () => {
      clearTimeout(timer);
      timer = setTimeout(() => { live.textContent = `Point at ${pair(...z)}.`; }, 700);
    };
  })();

  function move(a, b) {
    z = [Math.min(bounds[1], Math.max(bounds[0], a)), Math.min(bounds[3], Math.max(bounds[2], b))];
    repaint();
    tellPython();
  }

  function showChosen() {
    root.classList.toggle("tutor-empty", chosen < 0);
    if (chosen < 0) {
      for (const canvas of [original, rebuilt])
        canvas.getContext("2d").clearRect(0, 0, columns, rows);
      facts.textContent = "No code chosen.";
      return;
    }
    original.getContext("2d").drawImage(images, (chosen % perRow) * columns,
      Math.floor(chosen / perRow) * rows, columns, rows, 0, 0, columns, rows);
    paint(rebuilt, decode(codes.subarray(2 * chosen, 2 * chosen + 2)), spec.shape);
    const spread = spreads.length
      ? `, standard deviations ${pair(spreads[2 * chosen], spreads[2 * chosen + 1])}` : "";
    const kind = labels.length ? `, class ${names[labels[chosen]]}` : "";
    facts.textContent = `Image ${indices[chosen]}${kind}. Code: mean `
      + `${pair(codes[2 * chosen], codes[2 * chosen + 1])}${spread}.`;
  }

  function choose(i) {
    chosen = i;
    showChosen();
    live.textContent = facts.textContent;
    if (i >= 0) move(codes[2 * i], codes[2 * i + 1]);
    repaint();
    tellPython();
  }

  function nearest(x, y, within = Infinity) {
    let best = -1, least = within * within;
    for (let i = 0; i < n; i++) {
      if (hidden.has(classOf(i))) continue;
      const d = (toX(codes[2 * i]) - x) ** 2 + (toY(codes[2 * i + 1]) - y) ** 2;
      if (d < least) [best, least] = [i, d];
    }
    return best;
  }

  function reset() {
    hidden.clear();
    emphasised = -1;
    glyphs = false;
    showButtons();
    choose(-1);
    live.textContent = "Started again.";
    move(...model.get("start"));
    paintDots();
  }

  const place = (event) => {
    const box = map.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const follow = (event) => {
    const [x, y] = place(event);
    move(bounds[0] + (x / size) * span, bounds[3] - (y / size) * span);
  };
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);           // a drag may leave the plane and come back
    follow(event);
  });
  map.addEventListener("pointermove", follow);
  map.addEventListener("click", (event) => {
    const i = nearest(...place(event), REACH);
    if (i >= 0 || chosen >= 0) choose(i);
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape") reset();
    else if (event.target !== map || event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key === "Enter") choose(nearest(toX(z[0]), toY(z[1])));
    else if (ARROWS[event.key]) {
      const [a, b] = ARROWS[event.key], step = (event.shiftKey ? 0.1 : 0.01) * span;
      move(z[0] + a * step, z[1] + b * step);
      sayPlace();
    } else return;
    event.preventDefault();                           // the page does not scroll, and a notebook
    event.stopPropagation();                          // does not leave the cell
  });

  // ---- buttons -------------------------------------------------------------------------------
  const classButtons = names.map((name, k) => {
    const button = h("button", { type: "button", class: "tutor-class", style: `--swatch: var(--tutor-class-${k % 10})`, title: "Click to hide or show" }, name);
    const emphasise = (k) => () => { emphasised = k; paintDots(); };
    for (const event of ["pointerenter", "focus"]) button.addEventListener(event, emphasise(k));
    for (const event of ["pointerleave", "blur"]) button.addEventListener(event, emphasise(-1));
    button.onclick = () => {
      if (!hidden.delete(k)) hidden.add(k);
      showButtons();
      paintDots();
    };
    legend.append(button);
    return button;
  });
  legend.hidden = names.length === 0;
  function showButtons() {
    classButtons.forEach((button, k) => button.setAttribute("aria-pressed", String(!hidden.has(k))));
    glyphButton.setAttribute("aria-pressed", String(glyphs));
  }
  glyphButton.onclick = () => { glyphs = !glyphs; showButtons(); paintDots(); };
  resetButton.onclick = reset;

  // ---- the page and Python -------------------------------------------------------------------
  const takePoint = () => {
    const there = model.get("z");
    if (there[0] === z[0] && there[1] === z[1]) return;
    z = [...there];
    repaint();
  };
  const takeChoice = () => {
    const there = positionOf(model.get("selected"));
    if (there === chosen) return;
    chosen = there;
    showChosen();
    repaint();
  };
  model.on("change:z", takePoint);
  model.on("change:selected", takeChoice);
  showButtons();
  showChosen();
  const stop = followPage(root, map, (width, r) => {
    size = width;
    ratio = r;
    readColours();
    paintDots();
  });

  root.__decode = (code) => Float32Array.from(decode(code));      // for the tests
  root.__z = () => [...z];
  root.__where = (i) => [toX(codes[2 * i]), toY(codes[2 * i + 1])];
  return () => {
    stop();
    model.off("change:z", takePoint);
    model.off("change:selected", takeChoice);
  };
}

export default { render };
