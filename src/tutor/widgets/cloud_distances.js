// How far apart two clouds of equally heavy points are by measures that are no transport.
//
// A cloud is an array of [a, b]; x has n points of mass 1/n, y has m of mass 1/m.

// Points on the same spot: for each spot its mass in x and in y.
function spots(x, y, near) {
  const found = [];
  for (const [cloud, side] of [[x, 0], [y, 1]])
    for (const [a, b] of cloud) {
      let spot = found.find((s) => Math.abs(s.a - a) <= near && Math.abs(s.b - b) <= near);
      if (!spot) found.push(spot = { a, b, mass: [0, 0] });
      spot.mass[side] += 1 / cloud.length;
    }
  return found.map((s) => s.mass);
}

// KL(x || y), JS and TV of the points themselves: infinite, log 2 and 1 unless points of x and y lie
// on the same spot.
export function pointDivergences(x, y, near) {
  const out = { kl: 0, js: 0, tv: 0 };
  const term = (p, q) => (p === 0 ? 0 : q === 0 ? Infinity : p * Math.log(p / q));
  for (const [p, q] of spots(x, y, near)) {
    out.kl += term(p, q);
    out.js += (term(p, (p + q) / 2) + term(q, (p + q) / 2)) / 2;
    out.tv += Math.abs(p - q) / 2;
  }
  return out;
}

// The same of both clouds after each point has become a round Gaussian of standard deviation
// `width`.  All three are means of functions of r = log p - log q over draws from p and q; a mean over
// one Gaussian is a sum over a square of NODES x NODES places around its middle.
const NODES = 17, STEP = 0.5;     // places lie half a deviation apart, out to four
const NODE = Float64Array.from({ length: NODES }, (_, k) => STEP * (k - (NODES - 1) / 2));
const WEIGHT = NODE.map((t) => Math.exp(-t * t / 2));
const ALL = WEIGHT.reduce((s, w) => s + w, 0);

// Clouds are turned first, which changes none of the three: edges along which p = q, where |p - q| has
// a kink, would else lie along the rows of places for many clouds that people draw.
const TURN = [Math.cos(0.5536), Math.sin(0.5536)];   // the slope is the golden section

export function smoothedDivergences(x, y, width) {
  [x, y] = [x, y].map((cloud) => cloud.map(([a, b]) => [TURN[0] * a - TURN[1] * b, TURN[1] * a + TURN[0] * b]));
  const one = overGaussians(x, x, y, width), two = overGaussians(y, x, y, width);
  return { kl: one.ratio, js: (one.js + two.js) / 2, tv: (one.tv + two.tv) / 2 };
}

// Means over the Gaussians around `centres` of r, and of what JS and TV ask for.
function overGaussians(centres, x, y, width) {
  const own = centres === y ? -1 : 1, out = { ratio: 0, js: 0, tv: 0 };
  const places = x.length + y.length, all = [...x, ...y];
  const across = new Float64Array(places * NODES), up = new Float64Array(places * NODES);
  for (const [a, b] of centres) {
    for (let j = 0; j < places; j++)
      for (let k = 0; k < NODES; k++) {
        across[j * NODES + k] = ((a - all[j][0]) / width + NODE[k]) ** 2 / 2;
        up[j * NODES + k] = ((b - all[j][1]) / width + NODE[k]) ** 2 / 2;
      }
    // log of the mean of exp(-distance) over places `from` to `to`
    const logDensity = (k, l, from, to) => {
      let least = Infinity, sum = 0;
      for (let j = from; j < to; j++) least = Math.min(least, across[j * NODES + k] + up[j * NODES + l]);
      for (let j = from; j < to; j++) {
        const d = across[j * NODES + k] + up[j * NODES + l] - least;
        if (d < 40) sum += Math.exp(-d);                         // the rest is below rounding
      }
      return Math.log(sum / (to - from)) - least;
    };
    for (let k = 0; k < NODES; k++)
      for (let l = 0; l < NODES; l++) {
        const w = (WEIGHT[k] * WEIGHT[l]) / (ALL * ALL * centres.length);
        const r = logDensity(k, l, 0, x.length) - logDensity(k, l, x.length, places);
        const other = Math.exp(-own * r);                        // density of the other over this
        out.ratio += w * r;
        out.js += w * (Math.LN2 - Math.log1p(other));
        out.tv += w * Math.max(0, 1 - other);
      }
  }
  return out;
}

// The maximum mean discrepancy of the points as distributions (so pairs of a point with itself
// count): the root of E k(X, X') + E k(Y, Y') - 2 E k(X, Y), with k a function of d = |x - y|^2.
export const KERNELS = {
  imq: (width) => (d) => 1 / (1 + d / (4 * width * width)),      // C / (C + d), C = 2 dim width^2
  rbf: (width) => (d) => Math.exp(-d / (2 * width * width)),
};
export function discrepancy(x, y, kernel) {
  const mean = (p, q) => {
    let sum = 0;
    for (const [a, b] of p) for (const [c, d] of q) sum += kernel((a - c) ** 2 + (b - d) ** 2);
    return sum / (p.length * q.length);
  };
  return Math.sqrt(Math.max(0, mean(x, x) + mean(y, y) - 2 * mean(x, y)));
}
