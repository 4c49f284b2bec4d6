"""The adversarial autoencoder that trains in the page: its gradients, its distance, what it learns.

Its module runs in a real Chromium, with nothing around it.
"""

from __future__ import annotations

import re

import pytest
import torch

from tutor.data import load
from tutor.metrics import energy_distance
from tutor.priors import DrawnPrior
from tutor.widgets._live import source
from tutor.widgets.prior_playground import principal_components

pytestmark = pytest.mark.browser

NAMES = (
    "randomFrom, makeNetwork, makeAdam, discriminatorLoss, makeTinyAAE, energyDistance, makeSketch"
)
# f's slope along each of `count` coordinates of the arrays in `where`, by central differences.
SLOPES = """
  window.slopes = (f, where, count) => {
    const found = [], h = 1e-5;
    for (const [array, gradient] of where)
      for (let k = 0; k < Math.min(count, array.length); k++) {
        const i = Math.floor((k * array.length) / Math.min(count, array.length));
        const before = array[i];
        array[i] = before + h;
        const up = f();
        array[i] = before - h;
        const down = f();
        array[i] = before;
        found.push([gradient[i], (up - down) / (2 * h)]);
      }
    return found;
  };
"""


@pytest.fixture(scope="module")
def tiny(chromium):
    """A page with the module's functions as globals."""
    page = chromium.new_page()
    text = "\n".join(
        re.sub("^export ", "", source(name), flags=re.MULTILINE)
        for name in ("tiny_aae.js", "sketch.js")
    )
    page.set_content("<title>tiny</title>")
    text += f"\nObject.assign(window, {{{NAMES}}});{SLOPES}"
    page.add_script_tag(type="module", content=text)
    page.wait_for_function("() => window.slopes")
    yield page
    page.close()


def assert_slopes(found: list[list[float]], at_least: int) -> None:
    got, want = torch.tensor(found, dtype=torch.float64).T
    assert len(got) >= at_least
    assert want.abs().max() > 0.1  # otherwise agreement would say little
    # differences of 1e-5 in double precision err by about 1e-10 of the loss over 1e-5, and by the
    # third derivative times 1e-10; a ReLU that switches within 1e-5 would show as a miss
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_random_numbers_are_uniform_and_normal_and_repeat(tiny):
    uniform, normal, again = tiny.evaluate(
        """() => {
          const many = (r, what) => Array.from({ length: 20000 }, () => r[what]());
          const r = randomFrom(3);
          return [many(r, "uniform"), many(r, "normal"), many(randomFrom(3), "uniform")];
        }"""
    )
    assert uniform == again
    u, z = torch.tensor(uniform).sort().values, torch.tensor(normal).sort().values
    steps = (torch.arange(20_000) + 0.5) / 20_000
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by chance once in a thousand
    assert (u - steps).abs().max() < 1.95 / 20_000**0.5
    assert (torch.special.ndtr(z) - steps).abs().max() < 1.95 / 20_000**0.5


def test_gradients_of_a_network(tiny):
    """Of encoder and discriminator as in a round: reconstruction and generator loss together."""
    found = tiny.evaluate(
        """() => {
          const r = randomFrom(5), rows = 7, D = Float64Array;
          const encoder = makeNetwork([5, 9, 6, 2], rows, r, D);
          const decoder = makeNetwork([2, 6, 5], rows, r, D);
          const critic = makeNetwork([2, 8, 7, 1], rows, r, D);
          for (const net of [encoder, decoder, critic])
            for (const p of net.parameters)
              for (let i = 0; i < p.length; i++) p[i] += 0.3 * r.normal();
          const x = D.from({ length: 5 * rows }, r.normal);
          const loss = () => {
            const z = encoder.forward(x, rows), y = decoder.forward(z, rows);
            let sum = 0;
            for (let i = 0; i < 5 * rows; i++) sum += 0.5 * (y[i] - x[i]) ** 2;
            for (const d of critic.forward(z, rows).subarray(0, rows))
              sum += Math.log1p(Math.exp(-d));
            return sum;
          };
          loss();
          const dOut = D.from(x, (v, i) => decoder.forward(encoder.forward(x, rows), rows)[i] - v);
          const dCodes = D.from(decoder.backward(dOut, rows));
          const seen = critic.forward(encoder.forward(x, rows), rows);
          const dSeen = D.from(seen, (d) => -1 / (1 + Math.exp(d)));
          const before = critic.gradients.map((g) => D.from(g));
          critic.backward(dSeen, rows, true).forEach((v, i) => { dCodes[i] += v; });
          const touched = critic.gradients.some((g, j) => g.some((v, i) => v !== before[j][i]));
          const dx = D.from(encoder.backward(dCodes, rows));
          const where = [encoder, decoder].flatMap((net) =>
            net.parameters.map((p, j) => [p, D.from(net.gradients[j])]));
          return { touched, slopes: slopes(loss, where, 12) };
        }"""
    )
    assert not found["touched"]  # nothing leaks into the player that only looks on
    assert_slopes(found["slopes"], 80)


def test_gradients_of_the_discriminators_loss(tiny):
    """With the penalty, through logits of three kinds of rows, to the weights and the places."""
    found = tiny.evaluate(
        """() => {
          const r = randomFrom(8), batch = 6, D = Float64Array, rows = 3 * batch;
          const net = makeNetwork([2, 9, 7, 1], rows, r, D);
          const places = D.from({ length: 2 * rows }, r.normal);
          const from = Int32Array.from({ length: batch }, (_, i) => 2 * i + (i % 2));
          const dLogits = new D(rows);
          const loss = () =>
            discriminatorLoss(net.forward(places, rows), batch, from, 0.7, 0.2, dLogits);
          loss();
          const dPlaces = D.from(net.backward(dLogits, rows));
          const where = net.parameters.map((p, j) => [p, D.from(net.gradients[j])]);
          return slopes(loss, [...where, [places, dPlaces]], 20);
        }"""
    )
    assert_slopes(found, 80)


def test_the_penalty_is_the_squared_slope(tiny):
    """On a linear discriminator in the plane the mean over directions is exact."""
    penalty = tiny.evaluate(
        """() => {
          const r = randomFrom(2), batch = 20000, reach = 0.05;
          const D = (a, b) => 0.6 * a - 0.8 * b;
          const logits = new Float64Array(3 * batch), from = new Int32Array(batch);
          for (let i = 0; i < batch; i++) {
            const a = r.normal(), b = r.normal(), angle = 2 * Math.PI * r.uniform();
            logits[i] = D(a, b);
            from[i] = i;
            logits[2 * batch + i] = D(a + reach * Math.cos(angle), b + reach * Math.sin(angle));
          }
          const out = new Float64Array(3 * batch);
          return discriminatorLoss(logits, batch, from, 1, reach, out)
            - discriminatorLoss(logits, batch, from, 0, reach, out);
        }"""
    )
    # slope 1; 2 cos^2 has variance 1/2: standard error 0.005
    assert penalty == pytest.approx(1, abs=0.02)


def test_adam_is_torchs(tiny):
    start, target = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).tolist()
    moved = tiny.evaluate(
        """([start, target]) => {
          const p = Float32Array.from(start), g = new Float32Array(6);
          const move = makeAdam({ parameters: [p], gradients: [g] });
          for (let k = 0; k < 50; k++) {
            for (let i = 0; i < 6; i++) g[i] = p[i] - target[i];
            move(0.05);
          }
          return [...p];
        }""",
        [start, target],
    )
    p = torch.tensor(start, requires_grad=True)
    adam = torch.optim.Adam([p], lr=0.05, betas=(0.5, 0.99))
    for _ in range(50):
        adam.zero_grad()
        (0.5 * (p - torch.tensor(target)).square().sum()).backward()
        adam.step()
    # fifty roundings to float32
    torch.testing.assert_close(torch.tensor(moved), p.detach(), atol=1e-5, rtol=0)


def test_the_energy_distance_is_the_packages(tiny):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 2, generator=generator), torch.rand(45, 2, generator=generator)
    found = tiny.evaluate(
        "([x, y]) => energyDistance(Float32Array.from(x), Float32Array.from(y))",
        [x.flatten().tolist(), y.flatten().tolist()],
    )
    assert found == pytest.approx(energy_distance(x, y).item(), abs=1e-9)


def test_a_stroke_is_even_and_its_samples_are_the_drawn_priors(tiny):
    points, samples = tiny.evaluate(
        """() => {
          const sketch = makeSketch(0.12);
          sketch.draw(-2, -1);
          sketch.draw(-1.99, -1);                      // a slow pen, then a fast one
          sketch.draw(1, 1);
          sketch.draw(1, 1.5);
          sketch.lift();
          sketch.draw(2, -2);                          // a new stroke: no line leads to it
          return [sketch.points, [...sketch.sample(new Float32Array(8000), randomFrom(4))]];
        }"""
    )
    steps = torch.tensor(points).diff(dim=0).norm(dim=1)
    assert steps[:-1].max() < 0.0602  # half the thickness, and rounding to 1e-4
    assert steps[:-1].median() == pytest.approx(0.06, abs=1e-3)
    assert steps[-1] > 3
    prior = DrawnPrior(points, thickness=0.12)
    draws = torch.tensor(samples).view(-1, 2)
    wanted = prior.sample((4000,), generator=torch.Generator().manual_seed(1))
    # between equal samples of 4000 the distance spreads by about 4e-4
    assert energy_distance(draws, wanted) < 1.5e-3


SHAPES = {
    "ring": "(u) => [2 * Math.cos(2 * Math.PI * u), 2 * Math.sin(2 * Math.PI * u)]",
    "two blobs": "(u) => (u < 0.5 ? [-1.5, -0.5] : [1.5, 0.5])",
}


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "factor"), [("ring", 40), ("two blobs", 6)])
def test_codes_come_to_match_a_drawn_prior(tiny, capsys, shape, factor):
    """The energy distance falls, the images are told apart better, and no code is lost.

    A continuous encoder cannot leave the gap between two blobs empty, so that match stays rougher
    than the ring's.
    """
    about, packed = principal_components(load("digits")[:400])
    features = unpack(about, packed, 400)
    result = tiny.evaluate(
        """([features, count, shape]) => {
          const n = 400, sketch = makeSketch(0.15), at = eval(shape);
          sketch.take(Array.from({ length: 200 }, (_, k) => at(k / 200)));
          const model = makeTinyAAE({
            data: Float32Array.from(features), n, count, prior: sketch.sample,
          });
          const samples = sketch.sample(new Float32Array(2 * n), randomFrom(9));
          const far = () => energyDistance(model.codes(), samples);
          const first = far(), rounds = 400, losses = [];
          const began = performance.now();
          for (let k = 0; k < rounds; k++)
            losses.push(model.step(Math.min(1, 2 - (2 * k) / rounds)));
          const took = (performance.now() - began) / rounds;
          return { first, last: far(), losses, took, codes: [...model.codes()] };
        }""",
        [features.flatten().tolist(), about["count"], SHAPES[shape]],
    )
    losses = [loss["reconstruction"] for loss in result["losses"]]
    with capsys.disabled():
        print(
            f"\n{shape}: energy distance {result['first']:.3f} to {result['last']:.4f} "
            f"in 400 rounds of {result['took']:.1f} ms"
        )
    assert result["last"] < result["first"] / factor
    assert sum(losses[-50:]) < 0.85 * sum(losses[:50])
    assert torch.tensor(result["codes"]).isfinite().all()


def unpack(about, packed, n) -> torch.Tensor:
    """Features (n, count) as the page reads them."""
    import math
    import zlib

    raw = torch.frombuffer(bytearray(zlib.decompress(packed)), dtype=torch.int8)
    whole = raw[-n * about["count"] :].view(n, about["count"]).float()
    assert len(raw) == math.prod(about["shape"]) * (1 + about["count"]) + whole.numel()
    return whole * torch.tensor(about["feature_scale"])
