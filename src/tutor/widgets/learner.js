// The drawn prior as one more recording: it is made in the page, while a small model trains.
import { energyDistance, makeTinyAAE, randomFrom } from "./tiny_aae.js";

export const ROUNDS = 2000;   // of one training
const EVERY = 50;             // rounds between two moments that are kept
const PAIRS = 8;              // of samples, for the noise floor

export function makeLearner(name, { features, count, draw }, n, sketch) {
  const random = randomFrom(1), show = { name, bounds: [-3, 3, -3, 3], sketch };
  let tiny, done, level, stale;

  function reset() {
    const settings = { data: features, n, count, prior: sketch.sample };
    tiny = makeTinyAAE(settings);
    done = 0;
    Object.assign(show, {
      bounds: [-3, 3, -3, 3], contours: [], samples: new Float32Array(0), now: null,
      steps: [0], frames: [tiny.codes()], energy: [], floor: [],
      decode: (z) => draw(tiny.decode(z)),
    });
  }

  const draws = () => sketch.sample(new Float32Array(2 * n), random);
  function take() {                                    // what the drawing is now
    show.samples = draws();
    // how far from zero the distance is between samples of one distribution, as many as codes
    let squares = 0;
    for (let k = 0; k < PAIRS; k++) squares += energyDistance(draws(), draws()) ** 2;
    level = Math.sqrt(squares / PAIRS);
    stale = false;
  }
  function begin() {
    reset();
    take();
    show.energy = [energyDistance(show.frames[0], show.samples)];
    show.floor = [level];
  }

  function keep() {
    if (stale) take();
    const codes = tiny.codes();
    show.frames.push(codes);
    show.steps.push(done);
    show.energy.push(energyDistance(codes, show.samples));
    show.floor.push(level);
  }

  // Trains for about so many milliseconds; returns whether a moment was kept.
  function learn(milliseconds) {
    const began = performance.now(), kept = show.frames.length;
    do {
      // the rate is constant over the first half and falls to zero over the second
      tiny.step(Math.min(1, 2 - (2 * done) / ROUNDS));
      if (++done % EVERY === 0) keep();
    } while (done < ROUNDS && performance.now() - began < milliseconds);
    show.now = tiny.codes();
    return show.frames.length > kept;
  }

  function end() {
    if (show.steps[show.steps.length - 1] !== done) keep();
    show.now = null;
  }

  reset();
  return {
    show, reset, begin, learn, end,
    changed() { stale = sketch.points.length > 0; },   // the drawing, while it is learned
    get done() { return done; },
  };
}
