// A prior drawn by hand: points set evenly along the strokes, and round Gaussians about them.
const MOST = 3000;            // points; a drawing that long fills the plane
const round = (v) => Math.round(1e4 * v) / 1e4;

export function makeSketch(thickness) {
  const spacing = 0.5 * thickness;
  let points = [], last = null;
  const add = (a, b) => {
    if (points.length < MOST) points.push([round(a), round(b)]);
    last = [a, b];
  };
  return {
    thickness,
    get points() { return points; },
    get full() { return points.length >= MOST; },
    // The pen has come to (a, b): points along the way, however far it jumped.
    draw(a, b) {
      if (!last) return add(a, b);
      const [x, y] = last, way = Math.hypot(a - x, b - y), steps = Math.floor(way / spacing);
      for (let k = 1; k <= steps; k++)
        add(x + ((a - x) * k * spacing) / way, y + ((b - y) * k * spacing) / way);
    },
    lift() { last = null; },
    take(given) { points = given.map(([a, b]) => [a, b]).slice(0, MOST); last = null; },
    // Samples of the mixture: a point each, then its noise.
    sample(out, random) {
      for (let i = 0; i < out.length; i += 2) {
        const [a, b] = points[Math.floor(random.uniform() * points.length)];
        out[i] = a + thickness * random.normal();
        out[i + 1] = b + thickness * random.normal();
      }
      return out;
    },
  };
}
