// The entropic plan: among plans with row sums a and column sums b the one with the least
// sum P cost - epsilon H(P), where H(P) = -sum P log P.
//
// P_ij = exp((f_i + g_j - cost_ij) / epsilon).  Everything is done with logarithms, for P
// underflows long before f and g do.  Sinkhorn's iteration sets f so that the rows are right, then
// g so that the columns are, and so on.  It slows down like 1 / (mass that crosses between nearly
// separate groups), so Newton's method on the same dual problem takes over: with f given by the
// rows, F(g) = sum a f(g) + sum b g is concave, its gradient is b minus the column sums c, and its
// second derivative is -(diag(c) - P' diag(1/a) P) / epsilon.  epsilon falls by halves from the
// largest cost, and each answer starts the next.
const CLOSE = 1e-13;              // of a column's mass, relative to all
const ROUNDS = 100;               // at one epsilon; a dozen are usual

export function entropicPlan(cost, a, b, epsilon) {
  const n = a.length, m = b.length, logA = a.map(Math.log), logB = b.map(Math.log);
  const f = new Float64Array(n), plan = new Float64Array(n * m), sums = new Float64Array(m);
  let g = new Float64Array(m), off = Infinity, caution = 0.1;

  // Rows right: f, the plan and its column sums for prices h; returns F(h).
  function rows(h, e) {
    let value = 0;
    sums.fill(0);
    for (let i = 0; i < n; i++) {
      let top = -Infinity, total = 0;
      for (let j = 0; j < m; j++) top = Math.max(top, h[j] - cost[i * m + j]);
      for (let j = 0; j < m; j++) total += Math.exp((h[j] - cost[i * m + j] - top) / e);
      f[i] = e * (logA[i] - Math.log(total)) - top;
      for (let j = 0; j < m; j++) sums[j] += plan[i * m + j] = Math.exp((f[i] + h[j] - cost[i * m + j]) / e);
      value += a[i] * f[i];
    }
    off = 0;
    for (let j = 0; j < m; j++) {
      value += b[j] * h[j];
      off = Math.max(off, Math.abs(sums[j] - b[j]));
    }
    return value;
  }

  // Columns right: Sinkhorn's half step.
  function columns(e) {
    return Float64Array.from(g, (_, j) => {
      let top = -Infinity, total = 0;
      for (let i = 0; i < n; i++) top = Math.max(top, f[i] - cost[i * m + j]);
      for (let i = 0; i < n; i++) total += Math.exp((f[i] - cost[i * m + j] - top) / e);
      return e * (logB[j] - Math.log(total)) - top;
    });
  }

  // Newton's direction.  diag(c) - P' diag(1/a) P is a network: columns p and q are joined by
  // sum_i P_ip P_iq / a_i, and each diagonal is the sum of its row's links.  A further link to the
  // column whose price is held, a share of the present error, keeps a step within reach where groups
  // are hardly joined; it fades as the error does, and as steps of full length succeed.
  function newton(e) {
    const links = new Float64Array(m * m), right = Float64Array.from(sums, (c, j) => e * (b[j] - c));
    for (let p = 0; p < m; p++)
      for (let q = 0; q < p; q++) {
        for (let i = 0; i < n; i++) links[p * m + q] += (plan[i * m + p] * plan[i * m + q]) / a[i];
        links[q * m + p] = links[p * m + q];
      }
    for (let p = 0; p < m - 1; p++) links[p * m + m - 1] += caution * off;
    return solveNetwork(links, right, m);
  }

  function improve(e) {
    const value = rows(g, e), direction = newton(e);
    if (direction) {
      let slope = 0;
      direction.forEach((d, j) => { slope += d * (b[j] - sums[j]); });
      for (let t = 1; t > 1e-3; t /= 2) {
        const there = Float64Array.from(g, (v, j) => v + t * direction[j]);
        if (rows(there, e) >= value + 1e-4 * t * slope - 1e-15 * Math.abs(value)) {
          g = there;
          caution = t === 1 ? Math.max(1e-6, caution / 8) : Math.min(1, 8 * caution);
          return;
        }
      }
      caution = Math.min(1, 8 * caution);
      rows(g, e);
    }
    g = columns(e);
    rows(g, e);
  }

  let e = Math.max(epsilon, ...cost);
  for (;;) {
    rows(g, e);
    for (let k = 0; k < 3; k++) {
      g = columns(e);
      rows(g, e);
    }
    const last = e <= epsilon, close = last ? CLOSE : 1e-4;
    let best = Infinity;
    for (let k = 0; k < ROUNDS && off > close; k++) {
      if (last && off < 1e-11 && off >= best / 2) break;         // as right as rounding lets it be
      best = Math.min(best, off);
      improve(e);
    }
    if (last) return { plan, f, g, off };
    e = Math.max(epsilon, e / 2);
  }
}

// Solves sum_q links_pq (x_p - x_q) = right_p, with the last x held at 0 (only sums f + g matter).
// Node after node leaves the network and joins its neighbours instead.  Nothing is ever subtracted,
// so that a link of 1e-30 counts as it should.  Null if a node is not linked at all.
function solveNetwork(links, right, m) {
  const degree = new Float64Array(m), x = new Float64Array(m);
  for (let p = 0; p < m - 1; p++) {
    for (let q = p + 1; q < m; q++) degree[p] += links[p * m + q];
    if (!(degree[p] > 1e-290)) return null;
    for (let q = p + 1; q < m; q++) {
      const share = links[p * m + q] / degree[p];
      right[q] += share * right[p];
      for (let r = p + 1; r < m; r++) if (r !== q) links[q * m + r] += share * links[p * m + r];
    }
  }
  for (let p = m - 2; p >= 0; p--) {
    let sum = right[p];
    for (let q = p + 1; q < m; q++) sum += links[p * m + q] * x[q];
    x[p] = sum / degree[p];
  }
  return x;
}

// The plan's entropy in nats, and how many partners a point of x has: exp(H(P) - H(a)), between
// 1 (all mass of a point goes to one place) and m (to all places alike).
export function blur(plan, a) {
  const h = (values) => values.reduce((s, p) => (p > 0 ? s - p * Math.log(p) : s), 0);
  const entropy = h(plan);
  return { entropy, partners: Math.exp(Math.max(0, entropy - h(a))) };
}
