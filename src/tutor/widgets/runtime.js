// A decoder network in the browser: dense and transposed convolutional layers, and activations.
//
// Every layer takes and returns one flat Float32Array in torch's order (channel, row, column), so
// Flatten and Unflatten cost nothing and need no code.  `export.py` writes what is read here.

// Jupyter hands binary data over as a DataView, Colab sometimes as an ArrayBuffer, and the page
// without a kernel as a Uint8Array.  The copy is aligned for any typed array.
export function bytesOf(value) {
  if (value instanceof ArrayBuffer) return value;
  if (!value) return new ArrayBuffer(0);
  return value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength);
}

// A matrix travels as int16 with one float32 scale a row (an output unit or output channel),
// after it the float32 biases.  Returns dequantised float32.
function reader(bytes) {
  const buffer = bytesOf(bytes);
  let at = 0;
  const take = (Type, n) => {
    const end = at + n * Type.BYTES_PER_ELEMENT;
    if (end > buffer.byteLength) throw new Error("the decoder's weights are cut short");
    const array = new Type(buffer.slice(at, end));
    at = end;
    return array;
  };
  return (rows, columns) => {
    const scale = take(Float32Array, rows);
    const bias = take(Float32Array, rows);
    const quantised = take(Int16Array, rows * columns);
    const weight = new Float32Array(rows * columns);
    for (let r = 0, i = 0; r < rows; r++)
      for (let c = 0; c < columns; c++, i++) weight[i] = quantised[i] * scale[r];
    return { weight, bias };
  };
}

function dense({ inputs, outputs }, read) {
  const { weight, bias } = read(outputs, inputs);
  const y = new Float32Array(outputs);
  return (x) => {
    for (let o = 0, w = 0; o < outputs; o++) {
      let a = bias[o], b = 0;                  // two sums, so that additions overlap
      const end = w + inputs - 1;
      for (let i = 0; w < end; i += 2, w += 2) {
        a += weight[w] * x[i];
        b += weight[w + 1] * x[i + 1];
      }
      if (w === end) a += weight[w++] * x[inputs - 1];
      y[o] = a + b;
    }
    return y;
  };
}

// Each input pixel adds its value times the kernel to a patch of the output.  With channels last,
// a kernel row times all output channels is one contiguous run, which keeps the inner loop tight;
// zeros (half of what a ReLU returns) are skipped.  Four input channels are added at once, so that
// the output is read and written a quarter as often.
function convTranspose(layer, read) {
  const { inputs, outputs, kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw] } = layer;
  const { input: [h, w], output: [oh, ow] } = layer;
  const { weight, bias } = read(outputs, inputs * kh * kw);
  const run = kw * outputs;
  const rows = new Float32Array(inputs * kh * run);                  // [input][ky][kx][output]
  for (let o = 0; o < outputs; o++)
    for (let i = 0; i < inputs; i++)
      for (let k = 0; k < kh * kw; k++)
        rows[(i * kh * kw + k) * outputs + o] = weight[(o * inputs + i) * kh * kw + k];

  const fullWidth = Math.max((w - 1) * sw + kw, ow + pw);
  const fullHeight = Math.max((h - 1) * sh + kh, oh + ph);
  const full = new Float32Array(fullHeight * fullWidth * outputs);   // before padding is cut off
  const y = new Float32Array(outputs * oh * ow);
  const lit = new Int32Array(inputs + 3), values = new Float32Array(inputs + 3);
  return (x) => {
    full.fill(0);
    for (let iy = 0; iy < h; iy++)
      for (let ix = 0; ix < w; ix++) {
        let count = 0;
        for (let i = 0; i < inputs; i++) {
          const v = x[(i * h + iy) * w + ix];
          if (v === 0) continue;
          lit[count] = i * kh * run;
          values[count++] = v;
        }
        for (let k = 0; k < 3; k++) values[count + k] = lit[count + k] = 0;   // nothing, to make up fours
        for (let n = 0; n < count; n += 4) {
          const a = values[n], b = values[n + 1], c = values[n + 2], d = values[n + 3];
          for (let ky = 0; ky < kh; ky++) {
            let p = lit[n] + ky * run, q = lit[n + 1] + ky * run;
            let r = lit[n + 2] + ky * run, s = lit[n + 3] + ky * run;
            let to = ((iy * sh + ky) * fullWidth + ix * sw) * outputs;
            for (const end = to + run; to < end; to++, p++, q++, r++, s++)
              full[to] += a * rows[p] + b * rows[q] + c * rows[r] + d * rows[s];
          }
        }
      }
    for (let o = 0, q = 0; o < outputs; o++)
      for (let r = 0; r < oh; r++) {
        let p = ((r + ph) * fullWidth + pw) * outputs + o;
        for (let c = 0; c < ow; c++, p += outputs) y[q++] = full[p] + bias[o];
      }
    return y;
  };
}

const ACTIVATIONS = {
  relu: () => (v) => (v > 0 ? v : 0),
  leaky_relu: ({ slope }) => (v) => (v > 0 ? v : slope * v),
  elu: ({ alpha }) => (v) => (v > 0 ? v : alpha * Math.expm1(v)),
  // log(1 + e^a) written so that neither large nor small a overflows
  softplus: ({ beta }) => (v) =>
    (Math.max(beta * v, 0) + Math.log1p(Math.exp(-Math.abs(beta * v)))) / beta,
  tanh: () => Math.tanh,
  sigmoid: () => (v) => 1 / (1 + Math.exp(-v)),
};

function activation(layer) {
  const f = ACTIVATIONS[layer.type](layer);
  return (x) => {
    for (let i = 0; i < x.length; i++) x[i] = f(x[i]);
    return x;
  };
}

// The network of `spec` with these weights: z (array of spec.inputs numbers) -> Float32Array of
// the image's pixels, channel by channel.  The array is reused by the next call.
export function makeDecoder(spec, weights) {
  const read = reader(weights);
  const layers = spec.layers.map((layer) => {
    if (layer.type === "dense") return dense(layer, read);
    if (layer.type === "conv_transpose") return convTranspose(layer, read);
    if (layer.type in ACTIVATIONS) return activation(layer);
    throw new Error(`the decoder has a layer this page can't run: ${layer.type}`);
  });
  return (z) => layers.reduce((x, layer) => layer(x), Float32Array.from(z));
}
