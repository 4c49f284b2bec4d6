// The cheapest way to carry masses a (n) onto masses b (m), exactly: successive shortest paths.
//
// cost is a Float64Array of n rows and m columns; a and b are positive and have the same sum.
// Returns { plan, u, v }: plan (n, m) has row sums a and column sums b; u and v are the dual
// prices, with u_i + v_j <= cost_ij everywhere and equality where the plan carries mass.  So
// sum a u + sum b v is the cost of the plan, and the proof that none is cheaper.
export function exactPlan(cost, a, b) {
  const n = a.length, m = b.length, plan = new Float64Array(n * m);
  const u = new Float64Array(n), v = new Float64Array(m);
  for (let j = 0; j < m; j++) {
    v[j] = Infinity;
    for (let i = 0; i < n; i++) v[j] = Math.min(v[j], cost[i * m + j]);
  }
  const left = Float64Array.from(a), wanted = Float64Array.from(b);
  const dust = 1e-14 * left.reduce((s, w) => s + w, 0);          // what rounding leaves behind
  for (;;) {
    const path = shortestPath(cost, plan, u, v, left, wanted, dust);
    if (!path) return { plan, u, v };
    carry(path, plan, m, left, wanted, dust);
  }
}

// Dijkstra from the rows with mass left to the nearest column that wants some; arcs lead from
// rows to columns, and back where the plan carries mass.  Lengths are cost - u - v, never negative;
// the prices move so that this stays so and the path found has length 0.
function shortestPath(cost, plan, u, v, left, wanted, dust) {
  const n = u.length, m = v.length;
  const far = new Float64Array(n + m).fill(Infinity), from = new Int32Array(n + m).fill(-1);
  const done = new Uint8Array(n + m);
  for (let i = 0; i < n; i++) if (left[i] > dust) far[i] = 0;
  let end = -1;
  while (end < 0) {
    let next = -1;
    for (let k = 0; k < n + m; k++)
      if (!done[k] && far[k] < Infinity && (next < 0 || far[k] < far[next])) next = k;
    if (next < 0) return null;                                   // nothing left to carry
    done[next] = 1;
    if (next < n)
      for (let j = 0; j < m; j++) {
        const way = far[next] + Math.max(0, cost[next * m + j] - u[next] - v[j]);
        if (way < far[n + j]) [far[n + j], from[n + j]] = [way, next];
      }
    else if (wanted[next - n] > dust) end = next;
    else
      for (let i = 0; i < n; i++)
        if (plan[i * m + next - n] > 0 && far[next] < far[i]) [far[i], from[i]] = [far[next], next];
  }
  const length = far[end];
  for (let i = 0; i < n; i++) u[i] += Math.max(0, length - far[i]);
  for (let j = 0; j < m; j++) v[j] -= Math.max(0, length - far[n + j]);
  const path = [end];
  while (from[path[0]] >= 0) path.unshift(from[path[0]]);
  return path;
}

// As much as the path can take: forward it adds to the plan, backward it takes away.
function carry(path, plan, m, left, wanted, dust) {
  const n = left.length, start = path[0], end = path[path.length - 1] - n;
  const steps = path.slice(1).map((to, k) => {
    const forward = to >= n, row = forward ? path[k] : to, column = (forward ? to : path[k]) - n;
    return { forward, at: row * m + column };
  });
  let amount = Math.min(left[start], wanted[end]);
  for (const { forward, at } of steps) if (!forward) amount = Math.min(amount, plan[at]);
  for (const { forward, at } of steps) {
    plan[at] += forward ? amount : -amount;
    if (plan[at] < dust) plan[at] = 0;
  }
  left[start] -= amount;
  wanted[end] -= amount;
}
