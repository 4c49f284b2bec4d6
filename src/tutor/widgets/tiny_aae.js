// A small adversarial autoencoder that trains in the page: three networks, their gradients, Adam.
//
// Everything is written out, on Float32Arrays of one row an example.  Losses are in nats, summed
// over dimensions, and averaged over the batch last.

// Random numbers that a seed repeats (mulberry32), uniform in [0, 1) and standard normal.
export function randomFrom(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

// y = W x + b for each row.  Four outputs at a time, so that each input is read once for four.
function affine(y, x, weight, bias, rows, inputs, outputs) {
  for (let r = 0; r < rows; r++) {
    const from = r * inputs, to = r * outputs;
    let o = 0;
    for (; o + 3 < outputs; o += 4) {
      let a = bias[o], b = bias[o + 1], c = bias[o + 2], d = bias[o + 3];
      let p = o * inputs, q = p + inputs, s = q + inputs, t = s + inputs;
      for (let i = from; i < from + inputs; i++) {
        const v = x[i];
        a += weight[p++] * v;
        b += weight[q++] * v;
        c += weight[s++] * v;
        d += weight[t++] * v;
      }
      y[to + o] = a;
      y[to + o + 1] = b;
      y[to + o + 2] = c;
      y[to + o + 3] = d;
    }
    for (; o < outputs; o++) {
      let a = bias[o], p = o * inputs;
      for (let i = from; i < from + inputs; i++) a += weight[p++] * x[i];
      y[to + o] = a;
    }
  }
}

// A fully connected network of these sizes with ReLUs between its layers, for up to `most` rows.
//
// backward(dy, rows) takes the gradient of a loss with respect to the last forward's output,
// leaves that with respect to weights and biases in `gradients` and returns that with respect to
// the input; with `through` it only does the latter.
export function makeNetwork(sizes, most, random, Real = Float32Array) {
  const layers = sizes.slice(1).map((outputs, l) => {
    const inputs = sizes[l], spread = Math.sqrt(2 / inputs);
    return {
      inputs, outputs,
      weight: Real.from({ length: inputs * outputs }, () => spread * random.normal()),
      bias: new Real(outputs),
      y: new Real(most * outputs),
      dx: new Real(most * inputs),
      dWeight: new Real(inputs * outputs),
      dBias: new Real(outputs),
    };
  });
  let input;
  function forward(x, rows) {
    input = x;
    layers.forEach(({ y, weight, bias, inputs, outputs }, l) => {
      affine(y, l ? layers[l - 1].y : x, weight, bias, rows, inputs, outputs);
      if (l < layers.length - 1)
        for (let i = 0; i < rows * outputs; i++) if (y[i] < 0) y[i] = 0;
    });
    return layers[layers.length - 1].y;
  }
  function backward(dy, rows, through = false) {
    for (let l = layers.length - 1; l >= 0; l--) {
      const { weight, dWeight, dBias, dx, inputs, outputs } = layers[l];
      const x = l ? layers[l - 1].y : input;
      if (!through) {
        dWeight.fill(0);
        dBias.fill(0);
      }
      dx.fill(0, 0, rows * inputs);
      for (let r = 0, k = 0; r < rows; r++)
        for (let o = 0, w = 0; o < outputs; o++, k++, w += inputs) {
          const d = dy[k];
          if (d === 0) continue;                       // half of what comes back through a ReLU
          const at = r * inputs;
          for (let i = 0; i < inputs; i++) dx[at + i] += d * weight[w + i];
          if (through) continue;
          for (let i = 0; i < inputs; i++) dWeight[w + i] += d * x[at + i];
          dBias[o] += d;
        }
      if (l) for (let i = 0; i < rows * inputs; i++) if (x[i] === 0) dx[i] = 0;
      dy = dx;
    }
    return dy;
  }
  return {
    forward, backward,
    parameters: layers.flatMap(({ weight, bias }) => [weight, bias]),
    gradients: layers.flatMap(({ dWeight, dBias }) => [dWeight, dBias]),
  };
}

// Adam (Kingma & Ba 2015): moves a network's parameters against their gradients.
export function makeAdam({ parameters, gradients }, beta1 = 0.5, beta2 = 0.99) {
  const first = parameters.map((p) => new Float32Array(p.length));
  const second = parameters.map((p) => new Float32Array(p.length));
  let taken = 0;
  return (rate) => {
    taken++;
    const one = 1 - beta1 ** taken, two = 1 - beta2 ** taken;
    parameters.forEach((p, j) => {
      const g = gradients[j], m = first[j], v = second[j];
      for (let i = 0; i < p.length; i++) {
        m[i] += (1 - beta1) * (g[i] - m[i]);
        v[i] += (1 - beta2) * (g[i] * g[i] - v[i]);
        p[i] -= (rate * m[i]) / one / (Math.sqrt(v[i] / two) + 1e-8);
      }
    });
  };
}

const softplus = (a) => Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a)));
const sigmoid = (a) => 1 / (1 + Math.exp(-a));

// The discriminator's loss on rows [prior | codes | moved], `batch` of each, and its gradient with
// respect to the logits.  Row i of `moved` is row from[i] at a distance `reach` in a random
// direction: the squared difference quotient, times 2 in the plane, is on average the squared
// length of the discriminator's gradient there.  It needs no second derivative, and a
// discriminator without steep slopes does not overpower the encoder.
export function discriminatorLoss(logits, batch, from, penalty, reach, dLogits) {
  let loss = 0;
  for (let i = 0; i < batch; i++) {
    loss += softplus(-logits[i]) + softplus(logits[batch + i]);
    dLogits[i] = -sigmoid(-logits[i]) / batch;
    dLogits[batch + i] = sigmoid(logits[batch + i]) / batch;
  }
  for (let i = 0; i < batch; i++) {
    const slope = (logits[2 * batch + i] - logits[from[i]]) / reach;
    loss += penalty * 2 * slope * slope;
    const d = (4 * penalty * slope) / reach / batch;
    dLogits[2 * batch + i] = d;
    dLogits[from[i]] -= d;
  }
  return loss / batch;
}

const REACH_OF_SLOPE = 0.05;

// data (n, count): the examples.  prior(out, random) fills out with samples of the prior.
// One call of step is one round of the paper: reconstruction, discriminator, generator; encoder
// and decoder move once a round, along the sum of their losses.
export function makeTinyAAE({
  data, n, count, prior, seed = 0, batch = 64, hidden = 32, penalty = 0.01, weight = 0.1, rate = 3e-3,
}) {
  const random = randomFrom(seed), most = Math.max(n, 3 * batch);
  const encoder = makeNetwork([count, hidden, hidden, 2], most, random);
  const decoder = makeNetwork([2, hidden, hidden, count], batch, random);
  const discriminator = makeNetwork([2, hidden, hidden, 1], 3 * batch, random);
  const last = encoder.parameters[encoder.parameters.length - 2];
  for (let i = 0; i < last.length; i++) last[i] *= 0.3;  // codes begin near the origin
  const moveEncoder = makeAdam(encoder), moveDecoder = makeAdam(decoder);
  const moveDiscriminator = makeAdam(discriminator);
  const x = new Float32Array(batch * count), dOut = new Float32Array(batch * count);
  const places = new Float32Array(3 * batch * 2), dLogits = new Float32Array(3 * batch);
  const dCodes = new Float32Array(batch * 2), from = new Int32Array(batch);
  const order = Int32Array.from({ length: n }, (_, i) => i);
  let at = n;

  function next() {                                    // walks through shuffled copies of the data
    if (at === n) {
      for (let i = n - 1; i > 0; i--) {
        const j = Math.floor(random.uniform() * (i + 1));
        [order[i], order[j]] = [order[j], order[i]];
      }
      at = 0;
    }
    return order[at++];
  }

  function step(share = 1) {                           // of the learning rate
    for (let r = 0; r < batch; r++) {
      const row = next() * count;
      x.set(data.subarray(row, row + count), r * count);
    }
    const codes = encoder.forward(x, batch), out = decoder.forward(codes, batch);
    let reconstruction = 0;
    for (let i = 0; i < batch * count; i++) {
      const error = out[i] - x[i];
      reconstruction += (weight * error * error) / 2;
      dOut[i] = (weight * error) / batch;
    }
    dCodes.set(decoder.backward(dOut, batch).subarray(0, 2 * batch));
    moveDecoder(rate * share);

    prior(places.subarray(0, 2 * batch), random);
    places.set(codes.subarray(0, 2 * batch), 2 * batch);
    for (let i = 0; i < batch; i++) {
      const angle = 2 * Math.PI * random.uniform(), row = 2 * i + (i % 2);  // every other a code
      from[i] = row;
      places[4 * batch + 2 * i] = places[2 * row] + REACH_OF_SLOPE * Math.cos(angle);
      places[4 * batch + 2 * i + 1] = places[2 * row + 1] + REACH_OF_SLOPE * Math.sin(angle);
    }
    const logits = discriminator.forward(places, 3 * batch);
    const told = discriminatorLoss(logits, batch, from, penalty, REACH_OF_SLOPE, dLogits);
    discriminator.backward(dLogits, 3 * batch);
    moveDiscriminator(rate * share);

    const seen = discriminator.forward(codes, batch);  // codes should look like prior samples
    let fooled = 0;
    for (let i = 0; i < batch; i++) {
      fooled += softplus(-seen[i]) / batch;
      dLogits[i] = -sigmoid(-seen[i]) / batch;
    }
    const pull = discriminator.backward(dLogits, batch, true);
    for (let i = 0; i < 2 * batch; i++) dCodes[i] += pull[i];
    encoder.backward(dCodes, batch);
    moveEncoder(rate * share);
    return { reconstruction: reconstruction / batch, discriminator: told, generator: fooled };
  }

  return {
    step,
    codes: () => encoder.forward(data, n).slice(0, 2 * n),
    decode: (z) => decoder.forward(Float32Array.from(z), 1),
  };
}

// The squared energy distance of points (n, 2) and (m, 2): 2 E|X-Y| - E|X-X'| - E|Y-Y'|, a point
// never paired with itself.  The same estimate as tutor.metrics.energy_distance.
export function energyDistance(x, y) {
  const n = x.length / 2, m = y.length / 2;
  const distance = (a, i, b, j) => {
    const u = a[2 * i] - b[2 * j], v = a[2 * i + 1] - b[2 * j + 1];
    return Math.sqrt(u * u + v * v);
  };
  const within = (a, k) => {
    let sum = 0;
    for (let i = 1; i < k; i++) for (let j = 0; j < i; j++) sum += distance(a, i, a, j);
    return (2 * sum) / (k * (k - 1));
  };
  let between = 0;
  for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) between += distance(x, i, y, j);
  return (2 * between) / (n * m) - within(x, n) - within(y, m);
}
