// Drawing on a square of the plane: axes, contours, dots, ellipses and the moving point.
//
// bounds = [left, right, bottom, top] in latent units; both axes have the same scale.  `look` is
// set by whoever follows the page: { size, ink: { line, muted, paper, strong } }, in CSS pixels.
// `names` stand at the ends of the axes.
export const DIRECTIONS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
};
const SMALL = "11px system-ui, sans-serif";
const ROUND = 2 * Math.PI;
const STEPS = [0.001, 0.01, 0.1, 1, 10].flatMap((s) => [s, 2 * s, 5 * s]);

export function makePlane(bounds, names = ["z\u2081", "z\u2082"]) {
  const look = { size: 1, ink: {} };
  const [left, right, bottom, top] = bounds;
  const span = right - left;
  const toX = (v) => ((v - left) / span) * look.size;
  const toY = (v) => ((top - v) / span) * look.size;

  function axes(g) {
    const { size, ink } = look;
    const most = Math.min(9, size / 34);               // numbers need room
    const step = STEPS.find((s) => span / s <= most) ?? span / 5;
    g.font = SMALL;
    g.fillStyle = ink.muted;
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
        if (p < 30 || p > size - 30) continue;        // the corners belong to the axes' names
        g.textAlign = axis ? "left" : "center";
        g.textBaseline = axis ? "middle" : "bottom";
        g.fillText(String(Number((k * step).toPrecision(6))).replace("-", "\u2212"), axis ? 5 : p, axis ? p : size - 4);
      }
    }
    g.font = "italic 13px Georgia, serif";
    g.textBaseline = "bottom";
    g.textAlign = "right";
    g.fillText(names[0], size - 6, size - 4);
    g.textBaseline = "top";
    g.textAlign = "left";
    g.fillText(names[1], 6, 5);
  }

  // Dashed lines for [{ mass, lines }]; returns where each one's name belongs: at its top.
  function contours(g, levels) {
    g.strokeStyle = look.ink.muted;
    g.lineWidth = 1;
    g.setLineDash([5, 4]);
    const tags = levels.map(({ mass, lines }) => {
      let highest = [0, -Infinity];
      for (const line of lines) {
        g.beginPath();
        for (const [a, b] of line) {
          g.lineTo(toX(a), toY(b));
          if (b > highest[1]) highest = [a, b];
        }
        g.stroke();
      }
      return [`${Math.round(100 * mass)} %`, ...highest];
    });
    g.setLineDash([]);
    return tags;
  }

  function tag(g, text, a, b) {
    const x = toX(a), y = toY(b);
    g.font = SMALL;
    g.textAlign = "center";
    g.textBaseline = "middle";
    const half = g.measureText(text).width / 2 + 4;
    g.fillStyle = look.ink.paper;
    g.globalAlpha = 0.75;
    g.beginPath();
    g.roundRect(x - half, y - 8, 2 * half, 16, 4);
    g.fill();
    g.globalAlpha = 1;
    g.fillStyle = look.ink.muted;
    g.fillText(text, x, y);
  }

  function dot(g, a, b, colour) {
    g.beginPath();
    g.arc(toX(a), toY(b), 3, 0, ROUND);
    g.fillStyle = colour;
    g.fill();
    g.lineWidth = 0.6;
    g.strokeStyle = look.ink.paper;                   // keeps overlapping dots apart
    g.stroke();
  }

  function ring(g, a, b) {
    g.beginPath();
    g.arc(toX(a), toY(b), 4.5, 0, ROUND);
    g.strokeStyle = look.ink.strong;
    g.lineWidth = 1.5;
    g.stroke();
  }

  // One and two standard deviations of a Gaussian with this mean, axes along the plane's.
  function ellipses(g, a, b, spreadA, spreadB, colour) {
    for (const sigmas of [1, 2]) {
      const [rx, ry] = [spreadA, spreadB].map((spread) => (sigmas * spread * look.size) / span);
      g.beginPath();
      g.ellipse(toX(a), toY(b), rx, ry, 0, 0, ROUND);
      g.fillStyle = colour;
      g.globalAlpha = 0.14;
      g.fill();
      g.globalAlpha = 1;
      g.lineWidth = sigmas === 1 ? 1.75 : 1;
      g.strokeStyle = look.ink.strong;
      g.stroke();
    }
  }

  function sight(g, a, b) {
    const x = toX(a), y = toY(b);
    for (const [colour, width] of [[look.ink.paper, 4.5], [look.ink.strong, 1.75]]) {
      g.strokeStyle = colour;
      g.lineWidth = width;
      g.beginPath();
      g.arc(x, y, 7, 0, ROUND);
      for (const [dx, dy] of Object.values(DIRECTIONS)) {
        g.moveTo(x + 7 * dx, y + 7 * dy);
        g.lineTo(x + 12 * dx, y + 12 * dy);
      }
      g.stroke();
    }
  }

  return {
    look, span, toX, toY, axes, contours, tag, dot, ring, ellipses, sight,
    // the code under a pixel; the nearest code within the plane
    at: (x, y) => [left + (x / look.size) * span, top - (y / look.size) * span],
    within: (a, b) => [Math.min(right, Math.max(left, a)), Math.min(top, Math.max(bottom, b))],
  };
}
