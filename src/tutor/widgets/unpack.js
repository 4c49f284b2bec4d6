// Recordings as `recordings.py` packs them, back to numbers.
import { bytesOf, makeDecoder } from "./runtime.js";

// zlib's bytes, decompressed by the browser itself.
export async function inflate(bytes) {
  const packed = new Blob([bytesOf(bytes)]).stream();
  return new Response(packed.pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

export const fromText = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Pairs of bytes, after inflating all that stand first and all that stand second.
async function paired(bytes) {
  const apart = new Uint8Array(await inflate(bytes)), half = apart.length / 2;
  const together = new Uint8Array(2 * half);
  for (let i = 0; i < half; i++) {
    together[2 * i] = apart[i];
    together[2 * i + 1] = apart[half + i];
  }
  return together.buffer;
}

// Signed numbers of 16 bits that travelled folded: 0, -1, 1, -2, 2 as 0, 1, 2, 3, 4.
export async function unfolded(bytes) {
  return Int16Array.from(new Uint16Array(await paired(bytes)), (v) => (v & 1 ? -(v + 1) / 2 : v / 2)).buffer;
}

// All recordings, with frames[t] = Float32Array of the n codes at moment t, x and y in turn, and
// samples of the prior in the same form.
export async function unpackRecordings(described, points, weights, n) {
  const folded = new Uint16Array(await paired(points)), buffer = await paired(weights);
  let at = 0;
  const next = () => {                                 // odd numbers are negative
    const v = folded[at++];
    return v & 1 ? -(v + 1) / 2 : v / 2;
  };
  return described.map((about) => {
    const { origin, step } = about, counts = new Uint16Array(2 * n);   // sums wrap round by themselves
    const place = (v, i) => origin[i % 2] + step * v;
    const frames = about.steps.map(() => {
      for (let i = 0; i < 2 * n; i++) counts[i] += next();
      return Float32Array.from(counts, place);
    });
    for (let i = 0; i < 2 * n; i++) counts[i] = next();
    const decode = makeDecoder(about.spec, new Uint8Array(buffer.slice(...about.weights)));
    return { ...about, frames, samples: Float32Array.from(counts, place), decode };
  });
}

// The images' principal components: features (n, count) as the data of a small network, and the
// way back from features to pixels.
export async function unpackComponents(about, packed, n) {
  const { count, shape, unit, component_scale, feature_scale } = about;
  const pixels = shape[0] * shape[1] * shape[2], buffer = await inflate(packed);
  const mean = new Uint8Array(buffer, 0, pixels);
  const components = new Int8Array(buffer, pixels, count * pixels);
  const stored = new Int8Array(buffer, pixels + count * pixels, n * count);
  const features = Float32Array.from(stored, (v, i) => v * feature_scale[i % count]);
  const image = new Float32Array(pixels);
  return {
    count, shape, features,
    draw(feature) {
      for (let p = 0; p < pixels; p++) image[p] = mean[p] / 255;
      for (let k = 0, i = 0; k < count; k++) {
        const weight = unit * component_scale[k] * feature[k];
        for (let p = 0; p < pixels; p++, i++) image[p] += weight * components[i];
      }
      return image;
    },
  };
}
