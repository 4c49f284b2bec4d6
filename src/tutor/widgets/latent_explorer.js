// LatentExplorer: the latent plane with the codes of images; a moving point is decoded at once.
import { bytesOf, makeDecoder } from "./runtime.js";
import { DIRECTIONS, makePlane } from "./plane.js";
import { followPage, h, oncePerFrame, paint, throttled } from "./page.js";

const REACH = 18;             // pixels around a code in which a click or tap chooses it
const number = (v) => v.toFixed(2).replace("-", "\u2212");
const pair = (a, b) => `(${number(a)}, ${number(b)})`;

async function render({ model, el }) {
  const spec = model.get("spec"), [, rows, columns] = spec.shape;
  const decode = makeDecoder(spec, model.get("weights"));
  const codes = new Float32Array(bytesOf(model.get("codes")));     // (n, 2) posterior means
  const spreads = new Float32Array(bytesOf(model.get("spreads"))); // (n, 2) posterior std, or empty
  const labels = new Uint8Array(bytesOf(model.get("labels")));     // (n) class, or empty
  const indices = new Int32Array(bytesOf(model.get("indices")));   // (n) row in the data set
  const names = model.get("classes"), plane = makePlane(model.get("bounds"));
  const n = codes.length / 2;
  const code = (i) => [codes[2 * i], codes[2 * i + 1]];
  const spread = (i) => [spreads[2 * i], spreads[2 * i + 1]];
  const classOf = (i) => (labels.length ? labels[i] : 0);
  const images = await createImageBitmap(
    new Blob([bytesOf(model.get("images"))], { type: "image/png" }),
    { colorSpaceConversion: "none" },
  );
  const perRow = Math.floor(images.width / columns);
  const tile = (i) => [(i % perRow) * columns, Math.floor(i / perRow) * rows, columns, rows];

  // ---- the parts of the figure --------------------------------------------------------------
  const map = h("canvas", {
    class: "tutor-map", tabindex: "0", role: "application",
    "aria-label": "Latent plane. Arrow keys move the point, with Shift in larger steps. "
      + "Enter chooses the nearest code, Escape starts again.",
  });
  const picture = (label) => h("canvas", {
    width: columns, height: rows, class: "tutor-pixels", role: "img", "aria-label": label,
  });
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
  const root = h("div", {
    class: "tutor-figure tutor-explorer", role: "group", "aria-label": "Latent space explorer",
    "data-lm-suppress-shortcuts": "true",             // JupyterLab leaves the keys to the figure
  },
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
  const positionOf = (index) => (Number.isInteger(index) ? indices.indexOf(index) : -1);
  let z = [...model.get("z")], chosen = positionOf(model.get("selected"));
  let emphasised = -1, glyphs = false;
  const hidden = new Set();                           // classes
  let ratio = 1, colours = [], sprites = null;
  const dots = document.createElement("canvas");      // prior and codes, repainted only on change
  const colourOf = (i) => colours[classOf(i) % colours.length];

  // ---- drawing -------------------------------------------------------------------------------
  function takeLook(size) {
    const style = getComputedStyle(root), get = (name) => style.getPropertyValue(name).trim();
    plane.look.size = size;
    plane.look.ink = {
      line: get("--tutor-line"), muted: get("--tutor-muted"),
      paper: get("--tutor-paper"), strong: get("--tutor-ink"),
    };
    colours = Array.from({ length: 10 }, (_, k) => get(`--tutor-class-${k}`));
    sprites = null;
  }

  function paintDots() {
    dots.width = map.width;
    dots.height = map.height;
    const g = dots.getContext("2d");
    g.scale(ratio, ratio);
    plane.axes(g);
    const tags = plane.contours(g, model.get("contours"));
    const shown = Array.from({ length: n }, (_, i) => i).filter((i) => !hidden.has(classOf(i)));
    const out = hidden.has(emphasised) ? -1 : emphasised;
    if (out >= 0) shown.sort((a, b) => (classOf(a) === out) - (classOf(b) === out));
    if (glyphs) sprites ??= tinted();
    for (const i of shown) {
      g.globalAlpha = out < 0 ? 0.85 : classOf(i) === out ? 1 : 0.1;
      if (glyphs) paintGlyph(g, i);
      else plane.dot(g, ...code(i), colourOf(i));
    }
    g.globalAlpha = 1;
    for (const tag of tags) plane.tag(g, ...tag);     // readable over the dots
    repaint();
  }

  function paintGlyph(g, i) {
    const [a, b] = code(i), width = Math.max(14, plane.look.size / 26), height = (width * rows) / columns;
    g.drawImage(sprites, ...tile(i), plane.toX(a) - width / 2, plane.toY(b) - height / 2, width, height);
  }

  // Grey images become ink of their class's colour on clear ground; colour images stay as they are.
  function tinted() {
    const canvas = h("canvas", { width: images.width, height: images.height });
    const g = canvas.getContext("2d", { willReadFrequently: true });
    g.drawImage(images, 0, 0);
    if (spec.shape[0] === 3) return canvas;
    for (let i = 0; i < n; i++) {
      const frame = g.getImageData(...tile(i));
      const [red, green, blue] = colourOf(i).match(/[\da-f]{2}/gi).map((v) => parseInt(v, 16));
      for (let p = 0; p < frame.data.length; p += 4) {
        frame.data[p + 3] = frame.data[p];
        frame.data[p] = red;
        frame.data[p + 1] = green;
        frame.data[p + 2] = blue;
      }
      g.putImageData(frame, tile(i)[0], tile(i)[1]);
    }
    return canvas;
  }

  const repaint = oncePerFrame(() => {
    const g = map.getContext("2d");
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, map.width, map.height);
    g.drawImage(dots, 0, 0);
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (chosen >= 0) {
      if (spreads.length) plane.ellipses(g, ...code(chosen), ...spread(chosen), colourOf(chosen));
      plane.dot(g, ...code(chosen), colourOf(chosen));
      plane.ring(g, ...code(chosen));
    }
    const onCode = chosen >= 0 && code(chosen).every((v, d) => v === z[d]);
    if (!onCode) plane.sight(g, ...z);                // there the ring marks the place already
    paint(decoded, decode(z), spec.shape);
    position.textContent = `z = ${pair(...z)}`;
  });

  // ---- acting --------------------------------------------------------------------------------
  const tellPython = throttled(() => {
    model.set("z", [...z]);
    model.set("selected", chosen < 0 ? null : indices[chosen]);
    model.save_changes();
  }, 100);
  let saying = 0;
  function say(text, delay = 0) {
    clearTimeout(saying);
    saying = setTimeout(() => { live.textContent = text; }, delay);
  }

  function move(a, b) {
    z = plane.within(a, b);
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
    original.getContext("2d").drawImage(images, ...tile(chosen), 0, 0, columns, rows);
    paint(rebuilt, decode(code(chosen)), spec.shape);
    const kind = labels.length ? `, class ${names[labels[chosen]]}` : "";
    const width = spreads.length ? `, standard deviations ${pair(...spread(chosen))}` : "";
    facts.textContent = `Image ${indices[chosen]}${kind}. Code: mean ${pair(...code(chosen))}${width}.`;
  }

  function choose(i) {
    chosen = i;
    showChosen();
    say(facts.textContent);
    if (i >= 0) move(...code(i));
    repaint();
    tellPython();
  }

  function nearest(x, y, within = Infinity) {
    let best = -1, least = within * within;
    for (let i = 0; i < n; i++) {
      if (hidden.has(classOf(i))) continue;
      const [a, b] = code(i), d = (plane.toX(a) - x) ** 2 + (plane.toY(b) - y) ** 2;
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
    say("Started again.");
    move(...model.get("start"));
    paintDots();
  }

  const place = (event) => {
    const box = map.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const follow = (event) => move(...plane.at(...place(event)));
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
    else if (event.key === "Enter") choose(nearest(plane.toX(z[0]), plane.toY(z[1])));
    else if (DIRECTIONS[event.key]) {
      const [a, b] = DIRECTIONS[event.key], step = (event.shiftKey ? 0.1 : 0.01) * plane.span;
      move(z[0] + a * step, z[1] + b * step);
      say(`Point at ${pair(...z)}.`, 700);            // once the keys have come to rest
    } else return;
    event.preventDefault();                           // the page does not scroll, and a notebook
    event.stopPropagation();                          // does not leave the cell
  });

  // ---- buttons -------------------------------------------------------------------------------
  const classButtons = names.map((name, k) => {
    const button = h("button", {
      type: "button", class: "tutor-class", title: "Click to hide or show",
      style: `--swatch: var(--tutor-class-${k % 10})`,
    }, name);
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
  const stop = followPage(root, map, (size, r) => {
    ratio = r;
    takeLook(size);
    paintDots();
  });

  root.__decode = (v) => Float32Array.from(decode(v));            // for the tests
  root.__z = () => [...z];
  root.__where = (i) => [plane.toX(codes[2 * i]), plane.toY(codes[2 * i + 1])];
  return () => {
    stop();
    model.off("change:z", takePoint);
    model.off("change:selected", takeChoice);
  };
}

export default { render };
