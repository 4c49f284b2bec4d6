// PriorPlayground: codes flow onto a prior, as recorded, or as a small model here learns a drawn one.
import { bytesOf } from "./runtime.js";
import { DIRECTIONS } from "./plane.js";
import { followPage, h, oncePerFrame, paint, throttled } from "./page.js";
import { fromText, unpackComponents, unpackRecordings } from "./unpack.js";
import { makeSketch } from "./sketch.js";
import { makeLearner, ROUNDS } from "./learner.js";
import { makeCurve } from "./curve.js";
import { makeFlow } from "./flow.js";

const DRAW = "Draw your own";
const SECONDS = 6;            // of playing one training from start to end
const SLICE = [8, 40];        // milliseconds of training in one frame, at least and at most
const minus = (text) => text.replace("-", "\u2212");
const fixed = (v) => minus(v.toFixed(2));
const short = (v) => minus(String(Number(v.toPrecision(2))));
const whole = (v) => String(Math.round(v)).replace(/\B(?=(\d{3})+$)/g, "\u202f");

async function render({ model, el }) {
  const labels = new Uint8Array(bytesOf(model.get("labels"))), n = labels.length;
  const names = model.get("classes");
  const shows = await unpackRecordings(
    model.get("recordings"), model.get("points"), model.get("weights"), n);
  const shape = shows[0].spec.shape, components = model.get("components");
  const sketch = makeSketch(model.get("thickness"));
  const learner = components.count
    ? makeLearner(DRAW, await unpackComponents(components, model.get("features"), n), n, sketch)
    : null;
  if (learner) shows.push(learner.show);
  sketch.take(model.get("drawn"));

  // ---- the parts of the figure ------------------------------------------------------------------
  const button = (text, onclick, more = {}) =>
    h("button", { type: "button", onclick, ...more }, text);
  const map = h("canvas", { class: "tutor-map", tabindex: "0", role: "application" });
  const decoded = h("canvas", {
    width: shape[2], height: shape[1], class: "tutor-pixels", role: "img",
    "aria-label": "Decoded image",
  });
  const position = h("span", { class: "tutor-flow-z" });
  const priors = shows.map((s) => button(s.name, () => choose(s.name)));
  const play = button("Play", () => (playing ? pause() : start()), { class: "tutor-flow-play" });
  const slider = h("input", { type: "range", min: "0", step: "any", "aria-label": "Training" });
  const moment = h("span", { class: "tutor-flow-step" });
  const distance = h("dd"), floor = h("dd"), curve = makeCurve();
  const legend = h("div", { class: "tutor-flow-legend", role: "group", "aria-label": "Classes" });
  const live = h("p", { class: "tutor-said", "aria-live": "polite" });
  const train = button("Train", () => (training ? stop() : learn()));
  const redraw = (points, said) => () => {
    sketch.take(points);
    redrawn();
    say(said);
  };
  const watching = h("p", { class: "tutor-flow-help" },
    "Play, or move the slider; between recorded moments codes move in straight lines. The pointer, "
    + "a finger or the arrow keys move the point that is decoded. Keys on the plane: Space plays, "
    + "comma and full stop step back and on.");
  const drawing = h("div", { class: "tutor-flow-draw" },
    h("div", { class: "tutor-flow-pens" }, train,
      button("Clear", redraw([], "The drawing is empty.")),
      button("Ring", redraw(ring(), "A ring is drawn."))),
    h("p", { class: "tutor-flow-help" },
      "Draw a prior on the plane. Keys: arrows move the pen, Space lowers or lifts it, Enter trains. "
      + `A small model then learns here, in the page, from ${components.count ?? 0} principal `
      + "components of each image.",
      ...(model.send ? [" In Python, train_on_drawn(dataset) trains a large one."] : [])));
  const taste = (text, key) => {
    const node = button(text, () => {
      flow.taste[key] = !flow.taste[key];
      showButtons();
      refresh();
    });
    return [node, key];
  };
  const tastes = [taste("Colour by class", "coloured"), taste("Classes as marks", "marks"),
    taste("Samples of the prior", "samples")];
  const root = h("div", {
    class: "tutor-figure tutor-playground", role: "group", "aria-label": "Prior playground",
    "data-lm-suppress-shortcuts": "true",             // JupyterLab leaves the keys to the figure
  },
    h("div", { class: "tutor-flow-layout" },
      h("div", { class: "tutor-flow-priors", role: "group", "aria-label": "Prior" }, ...priors),
      map,
      h("div", { class: "tutor-flow-side" },
        h("figure", { class: "tutor-flow-now" }, decoded,
          h("figcaption", {}, "decoder at ", position)),
        h("div", { class: "tutor-flow-match" },
          h("p", {}, "Squared energy distance"),
          h("dl", {},
            h("div", {}, h("dt", {}, "codes to prior"), distance),
            h("div", {}, h("dt", {}, "noise floor"), floor)),
          curve.node)),
      h("div", { class: "tutor-flow-time" }, play, slider, moment),
      h("div", { class: "tutor-flow-controls" }, legend, ...tastes.map(([node]) => node),
        button("Reset", () => reset()),
        // both in one place, so that nothing moves when one takes the other's turn
        h("div", { class: "tutor-flow-swap" }, watching, drawing))),
    live);
  el.append(root);

  // ---- state --------------------------------------------------------------------------------------
  const flow = makeFlow(map, labels, names), still = matchMedia("(prefers-reduced-motion: reduce)");
  let show = shows[0], t = show.frames.length - 1, z = [...model.get("z")];
  let playing = false, training = false, pen = false, keyPen = false, visible = true;
  const last = () => show.frames.length - 1;
  const inDrawing = () => learner !== null && show === learner.show;
  flow.use(show);

  const repaint = oncePerFrame(() => {
    const began = performance.now();
    const moving = flow.paint(t, z);
    paint(decoded, show.decode(z), shape);
    position.textContent = `z = (${fixed(z[0])}, ${fixed(z[1])})`;
    root.__ms = performance.now() - began;             // for the tests
    if (moving) repaint();
  });
  const refresh = () => {
    flow.paintBackdrop();
    repaint();
  };

  function showMoment() {
    const k = Math.round(t), { steps, energy, floor: floors } = show;
    const from = Math.floor(t), to = Math.min(from + 1, last());
    const step = training ? learner.done : steps[from] + (t - from) * (steps[to] - steps[from]);
    const text = `step ${whole(step)} of ${whole(training ? ROUNDS : steps[last()])}`;
    moment.textContent = text;
    slider.max = Math.max(1, last());
    slider.value = t;
    slider.disabled = play.disabled = training || last() === 0;
    slider.setAttribute("aria-valuetext", text.replaceAll("\u202f", ""));
    distance.textContent = k in energy ? short(energy[k]) : "\u2013";
    floor.textContent = k in floors ? short(floors[k]) : "\u2013";
    curve.mark(k);
  }

  function showButtons() {
    priors.forEach((node, k) => node.setAttribute("aria-pressed", String(shows[k] === show)));
    classButtons.forEach((node, k) =>
      node.setAttribute("aria-pressed", String(!flow.taste.hidden.has(k))));
    for (const [node, key] of tastes) node.setAttribute("aria-pressed", String(flow.taste[key]));
    play.textContent = playing ? "Pause" : "Play";
    train.textContent = training ? "Stop" : "Train";
    root.classList.toggle("tutor-drawing", inDrawing());
    map.setAttribute("aria-label", inDrawing()
      ? "Latent plane. Arrow keys move the pen, with Shift in larger steps. Space lowers or lifts "
        + "it, Enter trains."
      : "Latent plane. Arrow keys move the point, with Shift in larger steps. Space plays the "
        + "training, comma and full stop step back and on.");
  }

  // ---- acting ------------------------------------------------------------------------------------
  const tellPython = throttled(() => {
    model.set("prior", show.name);
    model.set("progress", last() ? t / last() : 1);
    model.set("z", [...z]);
    if (learner) model.set("drawn", sketch.points.map((point) => [...point]));
    model.save_changes();
  }, 100);
  let saying = 0;
  function say(text, delay = 0) {
    clearTimeout(saying);
    saying = setTimeout(() => { live.textContent = text; }, delay);
  }

  function goTo(there) {
    t = Math.min(last(), Math.max(0, there));
    showMoment();
    repaint();
    tellPython();
  }
  function move(a, b) {
    z = flow.within(a, b);
    repaint();
    tellPython();
  }
  function showAll() {
    showButtons();
    curve.draw(show);
    showMoment();
    refresh();
  }

  function choose(name, share = last() ? t / last() : 1) {
    const next = shows.find((s) => s.name === name);
    if (next !== show) {
      stop();
      keyPen = false;
      show = next;
      flow.use(show, !still.matches);
      say(inDrawing() ? "Draw a prior on the plane." : `Prior: ${name}.`);
    }
    t = share * last();
    z = flow.within(...z);
    showAll();
    tellPython();
  }

  function reset() {
    pause();
    Object.assign(flow.taste, { coloured: true, marks: false, samples: false, out: -1 });
    flow.taste.hidden.clear();
    z = [0, 0];
    if (learner) {
      stop();
      sketch.take([]);
      learner.reset();
    }
    choose(shows[0].name, 1);
    say("Started again.");
  }

  // ---- playing --------------------------------------------------------------------------------
  let before = 0;
  function start() {
    if (last() === 0 || training) return;
    if (t >= last()) goTo(0);
    playing = true;
    before = 0;
    showButtons();
    requestAnimationFrame(tick);
  }
  function pause() {
    if (!playing) return;
    playing = false;
    showButtons();
    say(`Paused at ${moment.textContent}.`);
  }
  function tick(now) {
    if (!playing) return;
    // a page that was busy or hidden for long goes on where it was
    if (before && visible) goTo(t + (last() * Math.min(now - before, 100)) / (1000 * SECONDS));
    before = now;
    if (t >= last()) pause();
    else requestAnimationFrame(tick);
  }
  const sight = new IntersectionObserver((seen) => {
    visible = seen[seen.length - 1].isIntersecting;
  });
  sight.observe(root);

  // ---- the drawn prior ----------------------------------------------------------------------------
  function redrawn() {
    if (training && !sketch.points.length) stop();
    learner.changed();
    if (!training && learner.show.steps.length > 1) {  // that training was towards another drawing
      learner.reset();
      flow.use(show, !still.matches);
      t = 0;
    }
    if (sketch.full) say("The plane is full. Clear it to draw on.");
    showAll();
    tellPython();
  }
  function learn() {
    if (!sketch.points.length) return say("Draw a prior first.");
    pause();
    learner.begin();
    flow.use(show, !still.matches);
    training = true;
    t = 0;
    showAll();
    say("Training.");
    before = 0;
    requestAnimationFrame(slice);
  }
  function slice(now) {
    if (!training) return;
    requestAnimationFrame(slice);
    // half of a frame, however long frames are here: the page goes on answering
    const half = Math.min(Math.max((now - before) / 2, SLICE[0]), SLICE[1]);
    before = now;
    if (!visible) return;
    if (learner.learn(half)) curve.draw(show);
    t = last();
    showMoment();
    repaint();
    if (learner.done >= ROUNDS) stop();
  }
  function stop() {
    if (!training) return;
    training = false;
    learner.end();
    t = last();
    showAll();
    tellPython();
    say(`Stopped after ${learner.done} steps; distance ${distance.textContent}.`);
  }

  // ---- pointer and keys -----------------------------------------------------------------------
  const place = (event) => {
    const box = map.getBoundingClientRect();
    return flow.at(event.clientX - box.left, event.clientY - box.top);
  };
  const follow = (event) => {
    const [a, b] = place(event);
    move(a, b);
    if (!pen) return;
    sketch.draw(...z);
    redrawn();
  };
  map.addEventListener("pointerdown", (event) => {
    map.setPointerCapture(event.pointerId);           // a drag may leave the plane and come back
    pen = inDrawing() && event.button === 0;
    follow(event);
  });
  map.addEventListener("pointermove", follow);
  const lift = () => {
    pen = false;
    sketch.lift();
  };
  for (const event of ["pointerup", "pointercancel", "lostpointercapture"])
    map.addEventListener(event, lift);

  function nudge([a, b], far) {
    const step = (far ? 0.1 : 0.01) * flow.span();
    move(z[0] + a * step, z[1] + b * step);
    if (keyPen) {
      sketch.draw(...z);
      redrawn();
    }
    say(`${keyPen ? "Pen" : "Point"} at (${fixed(z[0])}, ${fixed(z[1])}).`, 700);
  }
  function togglePen() {
    keyPen = !keyPen;
    sketch.lift();
    if (keyPen) {
      sketch.draw(...z);
      redrawn();
    }
    say(keyPen ? "The pen is down." : "The pen is up.");
  }
  root.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (key === "Escape") reset();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (target === slider && ["ArrowLeft", "ArrowDown"].includes(key)) goTo(Math.ceil(t) - 1);
    else if (target === slider && ["ArrowRight", "ArrowUp"].includes(key)) goTo(Math.floor(t) + 1);
    else if (target !== map) return;
    else if (DIRECTIONS[key]) nudge(DIRECTIONS[key], event.shiftKey);
    else if (inDrawing() && key === "Enter") (training ? stop : learn)();
    else if (inDrawing() && key === " ") togglePen();
    else if (key === " ") (playing ? pause : start)();
    else if (key === "," && !training) goTo(Math.ceil(t) - 1);
    else if (key === "." && !training) goTo(Math.floor(t) + 1);
    else return;
    event.preventDefault();                           // the page does not scroll, and a notebook
    event.stopPropagation();                          // does not leave the cell
  });
  slider.addEventListener("input", () => {
    pause();
    goTo(Number(slider.value));
  });

  // ---- classes ------------------------------------------------------------------------------------
  const classButtons = names.map((name, k) => {
    const node = h("button", {
      type: "button", class: "tutor-class", title: "Click to hide or show",
      style: `--swatch: var(--tutor-class-${k % 10})`,
    }, name);
    const bringOut = (kind) => () => {
      flow.taste.out = kind;
      repaint();
    };
    for (const event of ["pointerenter", "focus"]) node.addEventListener(event, bringOut(k));
    for (const event of ["pointerleave", "blur"]) node.addEventListener(event, bringOut(-1));
    node.onclick = () => {
      if (!flow.taste.hidden.delete(k)) flow.taste.hidden.add(k);
      showButtons();
      repaint();
    };
    legend.append(node);
    return node;
  });

  // ---- the page and Python -------------------------------------------------------------------
  const listeners = {
    prior: () => { if (model.get("prior") !== show.name) choose(model.get("prior")); },
    progress: () => {
      const share = model.get("progress");
      if (Math.abs(share - (last() ? t / last() : 1)) > 1e-6) goTo(share * last());
    },
    z: () => {
      const there = model.get("z");
      if (there[0] !== z[0] || there[1] !== z[1]) move(...there);
    },
    drawn: () => {
      const there = model.get("drawn");
      if (!learner || JSON.stringify(there) === JSON.stringify(sketch.points)) return;
      sketch.take(there);
      redrawn();
    },
    trained: async () => {
      const { recording, points, weights } = model.get("trained");
      if (!learner || !recording) return;
      stop();
      const [taught] = await unpackRecordings([recording], fromText(points), fromText(weights), n);
      Object.assign(learner.show, taught, { now: null });
      show = learner.show;
      flow.use(show, !still.matches);
      choose(DRAW, 1);
    },
  };
  for (const [name, heard] of Object.entries(listeners)) model.on(`change:${name}`, heard);
  const asked = shows.find((s) => s.name === model.get("prior"));
  if (asked) choose(asked.name, model.get("progress"));
  if (model.get("trained").recording) await listeners.trained();
  const stopFollowing = followPage(root, map, (size, ratio) => {
    const style = getComputedStyle(root), get = (name) => style.getPropertyValue(name).trim();
    flow.look({
      size, ratio,
      ink: {
        line: get("--tutor-line"), muted: get("--tutor-muted"), paper: get("--tutor-paper"),
        strong: get("--tutor-ink"), accent: get("--tutor-accent"),
      },
      colours: Array.from({ length: 10 }, (_, k) => get(`--tutor-class-${k}`)),
    });
    refresh();
  });

  root.__decode = (v) => Float32Array.from(show.decode(v));       // for the tests
  root.__codes = (i, k) => [...show.frames[k].subarray(2 * i, 2 * i + 2)];
  root.__where = (i) => [...flow.placed.subarray(2 * i, 2 * i + 2)];
  root.__z = () => [...z];
  root.__drawn = () => sketch.points;
  root.__state = () => ({ prior: show.name, t, moments: last() + 1, energy: show.energy, training });
  return () => {
    stopFollowing();
    sight.disconnect();
    playing = training = false;
    for (const [name, heard] of Object.entries(listeners)) model.off(`change:${name}`, heard);
  };
}

const ring = () => Array.from({ length: 210 }, (_, k) => {
  const angle = (2 * Math.PI * k) / 210;
  return [2 * Math.cos(angle), 2 * Math.sin(angle)];
});

export default { render };
