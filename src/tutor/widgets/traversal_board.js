// TraversalBoard: one slider for each latent dimension, decoded at once, and what each dimension follows.
import { bytesOf, makeDecoder } from "./runtime.js";
import { followPage, h, oncePerFrame, paint, throttled } from "./page.js";
import { unfolded } from "./unpack.js";
import { makeHeatTable } from "./heat_table.js";

const TILES = 9, GAP = 2;     // of the strip; pixels between them
const number = (v) => v.toFixed(2).replace(/^-(?=0\.00)/, "").replace("-", "\u2212");
const MEASURES = { correlation: "Correlation", ratio: "Correlation ratio" };
const SAY = {
  correlation: "Pearson\u2019s correlation of each code with each factor. A factor without order, such as "
    + "shape, or one that comes round, such as orientation, hardly shows in it.",
  ratio: "Correlation ratio: the root of the share of a code\u2019s variance that the factor explains, by any "
    + "curve, less what chance explains.",
};
const NOTABLE = 0.3;          // below it a slider is not said to move a factor
const IDLE = 0.1;             // a code of a smaller standard deviation is said to be unused

async function render({ model, el }) {
  const bytes = await unfolded(model.get("weights"));
  const nets = model.get("models").map((net) =>
    ({ ...net, decode: makeDecoder(net.spec, new Uint8Array(bytes.slice(...net.weights))) }));
  const shape = nets[0].spec.shape, [, rows, columns] = shape, d = nets[0].spec.inputs;
  const factors = model.get("factors"), values = model.get("factor_values"), reach = model.get("reach");
  const images = await createImageBitmap(
    new Blob([bytesOf(model.get("images"))], { type: "image/png" }), { colorSpaceConversion: "none" });
  const across = Math.floor(images.width / columns);
  const tile = (i) => [(i % across) * columns, Math.floor(i / across) * rows, columns, rows];
  const dimensions = Array.from({ length: d }, (_, k) => k);

  // ---- the parts of the figure --------------------------------------------------------------
  const button = (content, onclick, more = {}) =>
    h("button", { type: "button", onclick, ...more }, content);
  const picture = (label, more = {}) =>
    h("canvas", { width: columns, height: rows, class: "tutor-pixels", role: "img", "aria-label": label, ...more });
  const label = (k) => h("span", { class: "tutor-dimension" }, "z", h("sub", {}, String(k + 1)));
  const modelButtons = nets.map((net) => button(net.name, () => choose({ model: net.name })));
  const starts = values.map((_, i) => {
    const small = h("canvas", { width: columns, height: rows, class: "tutor-pixels", "aria-hidden": "true" });
    small.getContext("2d").drawImage(images, ...tile(i), 0, 0, columns, rows);
    return button(small, () => choose({ start: i }), { class: "tutor-start", "aria-label": `Image ${i + 1}` });
  });
  const decoded = picture("Decoded image"), original = picture("Start image");
  const facts = h("figcaption");
  const sliders = dimensions.map((k) => {
    const input = h("input", {
      type: "range", min: -reach, max: reach, step: "any", "aria-label": `z${k + 1}`,
    });
    const value = h("span", { class: "tutor-value" }), hint = h("span", { class: "tutor-hint" });
    const line = h("div", { class: "tutor-slider" }, label(k), input, value, hint);
    for (const event of ["focus", "pointerdown"]) input.addEventListener(event, () => pick(k));
    input.addEventListener("input", () => turn(k, Number(input.value)));
    return { input, value, hint, line };
  });
  const strip = h("canvas", {
    width: TILES * (columns + GAP), height: rows, class: "tutor-pixels tutor-strip", role: "img",
  });
  const needle = h("div", { class: "tutor-needle" });
  const stripText = h("figcaption");
  const measureButtons = Object.entries(MEASURES).map(([key, text]) =>
    button(text, () => choose({ measure: key })));
  const table = makeHeatTable(factors, dimensions.map(label), "std of code");
  const measureText = h("p", { class: "tutor-note" });
  const live = h("p", { class: "tutor-said", "aria-live": "polite" });
  const root = h("div", {
    class: "tutor-figure tutor-board", role: "group", "aria-label": "Traversal board",
    "data-lm-suppress-shortcuts": "true",             // JupyterLab leaves the keys to the figure
  },
    h("div", { class: "tutor-board-top" },
      h("div", { class: "tutor-row", role: "group", "aria-label": "Model" }, ...modelButtons),
      h("div", { class: "tutor-row", role: "group", "aria-label": "Start image" }, ...starts,
        button("Reset", () => choose({})))),
    h("div", { class: "tutor-board-main" },
      h("div", { class: "tutor-board-pictures" },
        h("figure", {}, decoded, h("figcaption", {}, "decoded")),
        h("figure", { class: "tutor-original" }, original, facts)),
      h("div", { class: "tutor-sliders" }, ...sliders.map((s) => s.line))),
    h("figure", { class: "tutor-board-strip" }, h("div", { class: "tutor-strip-box" }, strip, needle), stripText),
    h("div", { class: "tutor-board-table" },
      h("div", { class: "tutor-row", role: "group", "aria-label": "What the table shows" }, ...measureButtons),
      table.node, measureText,
      h("p", { class: "tutor-note" },
        "Arrow keys move a slider, with Shift in larger steps; Escape goes back to the image\u2019s own code.")),
    live);
  el.append(root);

  // ---- state --------------------------------------------------------------------------------------
  const state = {};
  const take = () => {
    for (const key of ["model", "start", "dimension", "measure"]) state[key] = model.get(key);
    state.z = [...model.get("z")];
  };
  take();
  const net = () => nets.find((one) => one.name === state.model);

  const repaint = oncePerFrame(() => {
    const began = performance.now();
    paint(decoded, net().decode(state.z), shape);
    root.__ms = performance.now() - began;             // for the tests
  });

  // The strip: one tile a frame, so that the sliders stay swift.  It does not depend on the slider
  // that it is about.
  let done = 0, asked = 0, key = "";
  const tileValue = (t) => reach * ((2 * t) / (TILES - 1) - 1);
  const small = h("canvas", { width: columns, height: rows });
  function nextTile() {
    asked = 0;
    const z = [...state.z];
    z[state.dimension] = tileValue(done);
    paint(small, net().decode(z), shape);
    strip.getContext("2d").drawImage(small, done * (columns + GAP) + GAP / 2, 0);
    done += 1;
    if (done < TILES) asked = requestAnimationFrame(nextTile);
  }
  function showStrip() {
    const z = state.z.map((v, k) => (k === state.dimension ? 0 : v)), now = [state.model, state.dimension, z].join();
    if (now === key) return;
    key = now;
    done = 0;
    asked ||= requestAnimationFrame(nextTile);
  }

  function showSliders() {
    sliders.forEach(({ input, value, line }, k) => {
      input.value = state.z[k];
      value.textContent = number(state.z[k]);
      input.setAttribute("aria-valuetext", number(state.z[k]));
      line.classList.toggle("tutor-picked", k === state.dimension);
    });
    const share = (state.z[state.dimension] / reach + 1) / 2;      // middles of the outer tiles: the ends
    needle.style.left = `${100 * ((0.5 + share * (TILES - 1)) / TILES)}%`;
    repaint();
    showStrip();
  }
  // Which factor a slider moves, by the table that is shown.
  function showChoice() {
    const { spreads } = net(), shown = net()[state.measure];
    nets.forEach((one, k) => modelButtons[k].setAttribute("aria-pressed", String(one === net())));
    starts.forEach((node, i) => node.setAttribute("aria-pressed", String(i === state.start)));
    Object.keys(MEASURES).forEach((m, k) => measureButtons[k].setAttribute("aria-pressed", String(m === state.measure)));
    original.getContext("2d").drawImage(images, ...tile(state.start), 0, 0, columns, rows);
    facts.textContent = `start image: ${factors.map((f, k) => `${f} ${values[state.start][k]}`).join(", ")}`;
    sliders.forEach(({ hint }, k) => {
      const found = shown[k].map((v, f) => [Math.abs(v ?? 0), f]).sort((a, b) => b[0] - a[0])[0];
      const named = found && found[0] >= NOTABLE ? factors[found[1]] : "\u2013";
      hint.textContent = spreads[k] < IDLE ? "unused" : named;
    });
    table.show(shown, spreads);
    measureText.textContent = SAY[state.measure];
  }
  function showPicked() {
    const k = state.dimension;
    table.pick(k);
    stripText.replaceChildren(label(k), ` from ${number(-reach)} to ${number(reach)}, the others as they are`);
    strip.setAttribute("aria-label", `Traversal of z${k + 1}: ${TILES} images from ${number(-reach)} to ${number(reach)}`);
  }

  // ---- acting ------------------------------------------------------------------------------------
  const tellPython = throttled(() => {
    for (const [name, value] of Object.entries(state)) model.set(name, name === "z" ? [...value] : value);
    model.save_changes();
  }, 100);
  function turn(k, v) {
    state.z[k] = Math.min(reach, Math.max(-reach, v));
    state.dimension = k;
    showPicked();
    showSliders();
    tellPython();
  }
  function pick(k) {
    if (k === state.dimension) return;
    state.dimension = k;
    showPicked();
    showSliders();
    tellPython();
  }
  // Another model or image: from that image's code under that model.
  function choose(changes) {
    Object.assign(state, changes);
    if (!("measure" in changes)) {
      state.z = [...net().codes[state.start]];
      live.textContent = `${state.model}, image ${state.start + 1}.`;
    }
    showChoice();
    showSliders();
    tellPython();
  }
  root.addEventListener("keydown", (event) => {
    const { key: pressed, target } = event, k = sliders.findIndex((s) => s.input === target);
    const step = { ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1 }[pressed];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (pressed === "Escape") choose({});
    else if (k >= 0 && step) turn(k, Number((state.z[k] + step * (event.shiftKey ? 5 : 1)).toFixed(4)));
    else return;
    event.preventDefault();                           // the page does not scroll, and a notebook
    event.stopPropagation();                          // does not leave the cell
  });

  // ---- the page and Python -------------------------------------------------------------------
  const heard = {
    model: () => { if (model.get("model") !== state.model) choose({ model: model.get("model") }); },
    start: () => { if (model.get("start") !== state.start) choose({ start: model.get("start") }); },
    measure: () => { if (model.get("measure") !== state.measure) choose({ measure: model.get("measure") }); },
    dimension: () => pick(model.get("dimension")),
    z: () => {
      if (JSON.stringify(model.get("z")) === JSON.stringify(state.z)) return;
      state.z = [...model.get("z")];
      showSliders();
    },
  };
  for (const [name, f] of Object.entries(heard)) model.on(`change:${name}`, f);
  showChoice();
  showPicked();
  showSliders();
  const blank = h("canvas", { class: "tutor-gauge", "aria-hidden": "true" });   // measures the figure's width
  root.append(blank);
  const stop = followPage(root, blank, () => {
    const style = getComputedStyle(root), get = (name) => style.getPropertyValue(name).trim();
    table.colour({
      paper: get("--tutor-paper"), more: get("--tutor-accent"), less: get("--tutor-class-1"),
      most: root.dataset.theme === "dark" ? 0.45 : 0.6,            // ink stays readable on it
    });
  });

  root.__decode = (z, name = state.model) => [...nets.find((one) => one.name === name).decode(z)];   // for the tests
  root.__state = () => ({ ...state, z: [...state.z], tiles: done });
  return () => {
    stop();
    cancelAnimationFrame(asked);
    for (const [name, f] of Object.entries(heard)) model.off(`change:${name}`, f);
  };
}

export default { render };
