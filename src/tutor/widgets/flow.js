// Codes on their way to a prior: the plane with the prior behind, and dots between two moments.
//
// A show is { frames, contours, samples, bounds, now, sketch }: codes at each moment, contours and
// samples of the prior, and perhaps codes that belong to no moment yet and a drawing of the prior.
import { makePlane } from "./plane.js";
import { h } from "./page.js";

const MORPH = 450;            // milliseconds from one prior to another
const HALF = 7;               // pixels from a mark's middle to its edge

export function makeFlow(map, labels, names) {
  const n = labels.length, placed = new Float32Array(2 * n);       // dots, in pixels
  const backdrop = document.createElement("canvas");   // axes and prior, painted only on change
  const taste = { coloured: true, marks: false, samples: false, out: -1, hidden: new Set() };
  let look = { size: 1, ratio: 1, ink: {}, colours: [] };
  let show = null, plane = null, tags = [], sprites = new Map(), morph = null;

  function usePlane() {
    plane = makePlane(show.bounds);
    plane.look.size = look.size;
    plane.look.ink = look.ink;
  }

  function paintBackdrop() {
    const { ink, size, ratio } = look;
    sprites.clear();
    backdrop.width = map.width;
    backdrop.height = map.height;
    const g = backdrop.getContext("2d");
    g.scale(ratio, ratio);
    plane.axes(g);
    g.fillStyle = ink.strong;
    g.globalAlpha = 0.06;
    for (const { lines } of show.contours) {           // darker where the prior is denser
      g.beginPath();
      for (const line of lines) {
        g.moveTo(plane.toX(line[0][0]), plane.toY(line[0][1]));
        for (const [a, b] of line) g.lineTo(plane.toX(a), plane.toY(b));
      }
      g.fill("evenodd");
    }
    if (show.sketch) paintSketch(g);
    g.globalAlpha = 1;
    tags = plane.contours(g, show.contours.slice(-1));  // the outermost; on a thin prior all would blur
    if (!taste.samples) return;
    g.strokeStyle = ink.strong;
    g.globalAlpha = 0.6;
    g.lineWidth = 1.25;
    g.beginPath();
    for (let i = 0; i < show.samples.length; i += 2) {
      const x = plane.toX(show.samples[i]), y = plane.toY(show.samples[i + 1]);
      g.moveTo(x - 2.5, y);
      g.lineTo(x + 2.5, y);
      g.moveTo(x, y - 2.5);
      g.lineTo(x, y + 2.5);
    }
    g.stroke();
  }

  // About each point the discs that hold 99, 90 and 50 % of its Gaussian, as one area each.
  function paintSketch(g) {
    const { points, thickness } = show.sketch, { size, ink } = look;
    g.globalAlpha = 0.09;
    for (const mass of [0.99, 0.9, 0.5]) {
      const radius = (thickness * Math.sqrt(-2 * Math.log(1 - mass)) * size) / plane.span;
      g.beginPath();
      for (const [a, b] of points) {
        g.moveTo(plane.toX(a) + radius, plane.toY(b));
        g.arc(plane.toX(a), plane.toY(b), radius, 0, 2 * Math.PI);
      }
      g.fill();
    }
    if (points.length) return;
    g.globalAlpha = 1;
    g.fillStyle = ink.muted;
    g.font = "15px system-ui, sans-serif";
    g.textAlign = "center";
    g.fillText("Draw here", size / 2, size / 4);
  }

  // One small picture of each class's mark: five hundred of them are painted in a millisecond.
  function sprite(kind, within) {
    const key = within ? kind : -1 - kind;
    if (sprites.has(key)) return sprites.get(key);
    const { ratio, ink, colours } = look, side = Math.ceil(2 * HALF * ratio);
    const canvas = h("canvas", { width: side, height: side }), g = canvas.getContext("2d");
    g.scale(side / (2 * HALF), side / (2 * HALF));
    g.translate(HALF, HALF);
    g.fillStyle = g.strokeStyle = taste.coloured ? colours[kind % colours.length] : ink.accent;
    g.lineWidth = 1.5;
    g.beginPath();
    g.arc(0, 0, within ? 3 : 2.5, 0, 2 * Math.PI);
    if (!within) g.stroke();                           // beyond the edge of the plane
    else if (!taste.marks) {
      g.fill();
      g.lineWidth = 0.6;
      g.strokeStyle = ink.paper;
      g.stroke();
    } else {
      g.font = "bold 11px system-ui, sans-serif";
      g.textAlign = "center";
      g.textBaseline = "middle";
      g.lineWidth = 2;
      g.strokeStyle = ink.paper;
      g.strokeText(names[kind], 0, 0.5);
      g.fillText(names[kind], 0, 0.5);
    }
    sprites.set(key, canvas);
    return canvas;
  }

  // Where the dots belong: between two moments, and between two priors just after a change.
  function place(t) {
    const { frames, now } = show, k = Math.floor(t), share = t - k;
    const a = now ?? frames[k], b = now ?? frames[Math.min(k + 1, frames.length - 1)];
    const turn = morph ? Math.min(1, (performance.now() - morph.began) / MORPH) : 1;
    const ease = turn * turn * (3 - 2 * turn);
    for (let i = 0; i < 2 * n; i++) {
      const v = a[i] + share * (b[i] - a[i]), p = i % 2 ? plane.toY(v) : plane.toX(v);
      placed[i] = morph ? morph.from[i] + ease * (p - morph.from[i]) : p;
    }
    if (turn === 1) morph = null;
  }

  // Everything at moment t, a number between the moments' own; true while dots are under way from
  // another prior, when the next frame must be painted as well.
  function paint(t, z) {
    const { size, ratio } = look, { out, hidden } = taste, low = 5, high = size - 5;
    const g = map.getContext("2d"), chosen = hidden.has(out) ? -1 : out;
    place(t);
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.clearRect(0, 0, map.width, map.height);
    g.drawImage(backdrop, 0, 0);
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const front of chosen < 0 ? [true] : [false, true]) {
      g.globalAlpha = chosen < 0 ? 0.9 : front ? 1 : 0.12;
      for (let i = 0; i < n; i++) {
        const kind = labels[i];
        if (hidden.has(kind) || (chosen >= 0 && (kind === chosen) !== front)) continue;
        const x = Math.min(high, Math.max(low, placed[2 * i]));
        const y = Math.min(high, Math.max(low, placed[2 * i + 1]));
        const mark = sprite(kind, x === placed[2 * i] && y === placed[2 * i + 1]);
        g.drawImage(mark, x - HALF, y - HALF, 2 * HALF, 2 * HALF);
      }
    }
    g.globalAlpha = 1;
    for (const tag of tags) plane.tag(g, ...tag);      // readable over the dots
    plane.sight(g, ...z);
    return morph !== null;
  }

  return {
    taste, placed, paintBackdrop, paint,
    look(given) {
      look = given;
      usePlane();
    },
    // Shows another prior; with `smooth` the dots move there.
    use(given, smooth) {
      morph = smooth && show && look.size > 1
        ? { from: placed.slice(), began: performance.now() } : null;
      show = given;
      usePlane();
    },
    at: (x, y) => plane.at(x, y),
    within: (a, b) => plane.within(a, b),
    span: () => plane.span,
    where: (a, b) => [plane.toX(a), plane.toY(b)],
  };
}
