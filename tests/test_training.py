"""`fit`: gradients reach exactly the player whose turn it is, and bad input is answered clearly."""

from __future__ import annotations

import inspect
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import tutor
from tutor.batches import BatchOrder
from tutor.checkpoints import CheckpointError
from tutor.devices import resolve_device
from tutor.game import Model, Turn
from tutor.likelihoods import BernoulliLikelihood
from tutor.training import TrainingDiverged, decay_after, playing

fit = partial(tutor.fit, device="cpu", progress=False)


class Line(Model):
    """The smallest game: one player learns the mean of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    @property
    def players(self):
        return {"line": [self.net]}

    def step(self, x):
        yield Turn("line", (self.net(torch.zeros_like(x)) - x).square().sum(1).mean())


class Duel(Model):
    """Two players pull one number each way through one shared expression."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.seen: list[tuple[float, float]] = []

    @property
    def players(self):
        return {"left": [self.left], "right": [self.right]}

    def step(self, x):
        self.seen.append((self.left.weight.item(), self.right.weight.item()))
        yield Turn("left", (self.left(x) * self.right(x)).sum(1).mean())
        self.seen.append((self.left.weight.item(), self.right.weight.item()))
        yield Turn("right", (self.left(x) * self.right(x)).sum(1).mean())
        self.seen.append((self.left.weight.item(), self.right.weight.item()))


def test_a_readers_model_needs_only_players_and_step():
    model = Line()
    history = fit(model, torch.full((64, 1), 3.0), steps=500, batch_size=8,
                  optimizer=partial(torch.optim.SGD, lr=0.1))  # fmt: skip
    # SGD on a quadratic contracts the error by 1 - 2 lr = 0.8 a step: 0.8^500 is below float32.
    assert model.net.bias.item() == pytest.approx(3.0, abs=1e-5)
    assert list(history.columns) == ["line/loss"]
    assert history.index.tolist() == list(range(50, 501, 50))
    assert isinstance(history, tutor.History)


def test_a_plain_module_with_players_and_step_is_enough():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(1, 1)
            self.players = {"p": [self.net]}

        def step(self, x):
            yield Turn("p", self.net(x).square().sum(1).mean())

    assert len(fit(Plain(), torch.ones(4, 1), steps=50, batch_size=4)) == 1


def test_each_turn_moves_its_own_player_only_and_the_next_turn_sees_it():
    model = Duel()
    fit(model, torch.ones(4, 1), steps=1, batch_size=4, optimizer=partial(torch.optim.SGD, lr=0.5))
    before, between, after = model.seen
    # left: d/dl (l r) = r, so l' = l - r/2; then right sees l': r' = r - l'/2.
    assert between[1] == before[1]
    assert between[0] == pytest.approx(before[0] - 0.5 * before[1], abs=1e-6)
    assert after[0] == between[0]
    assert after[1] == pytest.approx(before[1] - 0.5 * between[0], abs=1e-6)


def test_a_shared_module_moves_in_both_turns_and_nothing_else_does():
    class Shared(Duel):
        """Like an adversarial autoencoder: ``left`` plays twice, against itself and for itself."""

        @property
        def players(self):
            return {"pair": [self.left, self.right], "alone": [self.left]}

        def step(self, x):
            self.seen.append((self.left.weight.item(), self.right.weight.item()))
            yield Turn("pair", (self.left(x) + self.right(x)).sum(1).mean())
            self.seen.append((self.left.weight.item(), self.right.weight.item()))
            yield Turn("alone", (self.left(x) * 2 + self.right(x)).sum(1).mean())
            self.seen.append((self.left.weight.item(), self.right.weight.item()))

    model = Shared()
    fit(model, torch.ones(4, 1), steps=1, batch_size=4, optimizer=partial(torch.optim.SGD, lr=0.5))
    before, between, after = model.seen
    # slopes 1 and 1 in the first turn, 2 for left alone in the second; right rests then
    assert between == pytest.approx((before[0] - 0.5, before[1] - 0.5), abs=1e-6)
    assert after == pytest.approx((between[0] - 1.0, between[1]), abs=1e-6)


def test_no_gradient_is_left_behind():
    model = Duel()
    fit(model, torch.ones(4, 1), steps=3, batch_size=4)
    assert all(p.grad is None for p in model.parameters())


def test_optimisers_can_differ_by_player():
    model = Duel()
    frozen = model.right.weight.item()
    rates = {"left": 0.1, "right": 0.0}
    by_player = {name: partial(torch.optim.SGD, lr=rate) for name, rate in rates.items()}
    fit(model, torch.ones(4, 1), steps=2, batch_size=4, optimizer=by_player)
    assert model.right.weight.item() == frozen
    with pytest.raises(ValueError, match=r"names \['left'\], the players are \['left', 'right'\]"):
        fit(model, torch.ones(4, 1), steps=1, batch_size=4, optimizer={"left": torch.optim.Adam})


def test_history_holds_the_means_of_windows():
    class Count(Line):
        ticks = 0

        def step(self, x):
            self.ticks += 1
            yield Turn("line", self.net(x).sum() * 0 + self.ticks, tick=torch.tensor(self.ticks))

    history = fit(Count(), torch.ones(2, 1), steps=120, batch_size=2)
    assert history.index.tolist() == [50, 100, 120]
    # means of 1..50, 51..100 and the short last window 101..120; whole numbers, so exact
    assert history["line/tick"].tolist() == [25.5, 75.5, 110.5]
    assert history["line/loss"].tolist() == [25.5, 75.5, 110.5]
    assert history.attrs["steps"] == 120
    assert history.attrs["device"] == "cpu"


def test_every_example_is_seen_equally_often():
    order = BatchOrder(examples=10, batch_size=4, seed=3)
    seen = torch.cat([order(t) for t in range(25)])  # 100 places: ten whole copies
    assert torch.equal(torch.bincount(seen), torch.full((10,), 10))
    assert not torch.equal(seen[:10], seen[10:20]), "each copy is shuffled anew"
    assert not torch.equal(seen, torch.cat([BatchOrder(10, 4, 4)(t) for t in range(25)]))


def test_batches_of_many_steps_are_those_of_each():
    order = BatchOrder(examples=10, batch_size=4, seed=3)
    assert torch.equal(order.rows(2, 9), torch.stack([order(t) for t in range(2, 9)]))


def test_the_seed_decides_the_weights():
    data = torch.rand(16, 1, 2, 2, generator=torch.Generator().manual_seed(7))

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = tutor.models.VAE(image_shape=(1, 2, 2))
        fit(model, data, steps=5, batch_size=8, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_the_callers_random_stream_is_untouched():
    model = tutor.models.VAE(image_shape=(1, 2, 2))
    data = torch.rand(16, 1, 2, 2)
    state = torch.get_rng_state()
    fit(model, data, steps=3, batch_size=8)
    assert torch.equal(torch.get_rng_state(), state)


def test_training_mode_is_put_back():
    model = Line().eval()
    fit(model, torch.ones(4, 1), steps=1, batch_size=4)
    assert not model.training


def test_a_nan_stops_before_it_reaches_the_weights():
    class Breaks(Line):
        ticks = 0

        def step(self, x):
            self.ticks += 1
            factor = float("nan") if self.ticks == 7 else 1.0
            loss = (self.net(x) - x).square().sum(1).mean()
            yield Turn("line", loss * factor, good=loss)

    model = Breaks()
    with pytest.raises(TrainingDiverged, match=r"step 6, player 'line': loss not finite.*good ="):
        fit(model, torch.ones(4, 1), steps=20, batch_size=4)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_nan_names_the_last_good_checkpoint(tmp_path):
    class Breaks(Line):
        ticks = 0

        def step(self, x):
            self.ticks += 1
            bad = torch.tensor(float("inf") if self.ticks == 25 else 0.0)
            yield Turn("line", self.net(x).square().sum(1).mean(), penalty=bad)

    with pytest.raises(
        TrainingDiverged, match=r"penalty not finite.*last good checkpoint is step 20"
    ):
        fit(Breaks(), torch.ones(4, 1), steps=50, batch_size=4,
            checkpoint=tmp_path, checkpoint_every=10)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps is 0; expected at least 1"),
        ({"steps": -5}, ValueError, "steps is -5"),
        ({"steps": 2.5}, TypeError, "steps is 2.5; expected a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"batch_size": 9}, ValueError, "batch_size is 9, the data set has 8 examples"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every is 0"),
        ({"dataset": torch.zeros(0, 1)}, ValueError, "at least one"),
        ({"dataset": torch.zeros(8, 1, dtype=torch.uint8)}, TypeError, "expected floats"),
        ({"dataset": [1, 2, 3]}, TypeError, "dataset is a list"),
        ({"model": nn.Linear(1, 1)}, TypeError, "model is Linear; expected an nn.Module with"),
        ({"model": Line}, TypeError, "model is the class Line"),
        ({"dataset": np.zeros((8, 1))}, TypeError, r"is a ndarray.*torch\.from_numpy"),
        ({"seed": None}, TypeError, "seed is None; expected a whole number"),
        ({"seed": 1.5}, TypeError, r"seed is 1\.5"),
        ({"device": "gpu"}, ValueError, 'device is .gpu.; expected "auto"'),
        ({"device": "meta"}, ValueError, "fit knows"),
        ({"optimizer": "adam"}, TypeError, "gives 'line' a str; expected a function"),
        ({"optimizer": lambda parameters: parameters}, TypeError, "made a list for 'line'"),
        ({"optimizer": torch.optim.LBFGS}, TypeError, "takes no closure"),
    ],
)
def test_bad_input(change, error, message):
    arguments = {"model": Line(), "dataset": torch.ones(8, 1), "steps": 1, "batch_size": 4}
    arguments |= change
    with pytest.raises(error, match=message):
        fit(arguments.pop("model"), arguments.pop("dataset"), **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none():
    with pytest.raises(RuntimeError, match="'cuda' was asked for, but this machine"):
        fit(Line(), torch.ones(8, 1), steps=1, batch_size=4, device="cuda")


def test_auto_is_the_cpu_where_there_is_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    assert tutor.budget(cpu=3, gpu=5) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_trains_the_same_game():
    model = Line()
    tutor.fit(model, torch.full((64, 1), 3.0), steps=500, batch_size=8, device="cuda",
              optimizer=partial(torch.optim.SGD, lr=0.1), progress=False)  # fmt: skip
    assert model.net.bias.device.type == "cuda"
    assert model.net.bias.item() == pytest.approx(3.0, abs=1e-5)


def _yields(turn_or_not):
    class Odd(Line):
        def step(self, x):
            yield turn_or_not(self, x)

    return Odd()


@pytest.mark.parametrize(
    ("turn", "error", "message"),
    [
        (lambda m, x: 3.0, TypeError, "yielded a float"),
        (lambda m, x: Turn("nobody", m.net(x).sum()), ValueError, "a turn of 'nobody'"),
        (lambda m, x: Turn("line", m.net(x).sum().detach()), RuntimeError, "has no gradient"),
        (
            lambda m, x: Turn("line", x.clone().requires_grad_().sum()),
            RuntimeError,
            "depends on none of its parameters",
        ),
    ],
)
def test_odd_turns_are_explained(turn, error, message):
    with pytest.raises(error, match=message):
        fit(_yields(turn), torch.ones(4, 1), steps=1, batch_size=4)


def test_a_short_training_improves_the_bound_and_warns_of_nothing():
    digits = tutor.data.load("digits")
    torch.manual_seed(0)
    model = tutor.models.VAE(latent_dim=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(model, digits, steps=300, batch_size=128)
    # The best decoder that ignores its code draws the mean image.  A model that uses its code must
    # beat it, KL term included; after 300 steps it does so by about 30 nats.
    images = digits[:]
    mean = images.mean(0).clamp(1e-6, 1 - 1e-6)
    baseline = -BernoulliLikelihood(mean.logit()[None]).log_prob(images).mean()
    assert history["autoencoder/loss"].iloc[-1] < baseline - 10


class Frozen(Line):
    """A frozen part stays in the mode its reader chose."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Dropout().eval()


def test_every_module_gets_its_own_mode_back():
    model = Frozen()
    fit(model, torch.ones(4, 1), steps=1, batch_size=4)
    assert model.training
    assert not model.frozen.training


def test_numpy_counts_are_whole_numbers(tmp_path):
    one = np.int64(1)
    history = fit(Line(), torch.ones(4, 1), steps=one, batch_size=one, seed=one,
                  checkpoint=tmp_path, checkpoint_every=one)  # fmt: skip
    assert history.attrs["steps"] == 1


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (lambda m, x: iter(()), ValueError, "yielded no Turn, so nobody learns"),
        (lambda m, x: Turn("line", m.net(x).sum()), TypeError, "returned a Turn.*yield Turn"),
        (lambda m, x: m.net(x).sum(), TypeError, "returned a Tensor"),
        (lambda m, x: None, TypeError, "returned a NoneType"),
    ],
)
def test_a_step_that_is_no_generator_of_turns(step, error, message):
    class Odd(Line):
        pass

    Odd.step = step
    with pytest.raises(error, match=message):
        fit(Odd(), torch.ones(4, 1), steps=1, batch_size=4)


def test_a_graph_used_by_two_turns_is_explained():
    class Stale(Duel):
        def step(self, x):
            shared = (self.left(x) * self.right(x)).sum(1).mean()
            yield Turn("left", shared)
            yield Turn("right", shared)

    with pytest.raises(RuntimeError) as caught:
        fit(Stale(), torch.ones(4, 1), steps=1, batch_size=4)
    assert any("must be detached" in note for note in caught.value.__notes__)


def test_an_interrupt_leaves_no_gradient_and_the_stream_as_it_was():
    class Interrupted(torch.optim.SGD):
        def step(self, closure=None):
            raise KeyboardInterrupt

    model = Line()
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        fit(model, torch.ones(4, 1), steps=1, batch_size=4, optimizer=partial(Interrupted, lr=0.1))
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_cpu_run_does_not_reseed_the_gpus(monkeypatch):
    def refuse(_seed):
        raise AssertionError("a run on the CPU seeded the GPUs of its caller")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    fit(Line(), torch.ones(4, 1), steps=1, batch_size=4)


def test_terms_of_any_type_are_recorded_without_float64_on_the_device(monkeypatch):
    class Mixed(Line):
        def step(self, x):
            loss = self.net(x).square().sum(1).mean()
            yield Turn("line", loss, whole=torch.tensor(2**40 + 1), yes=torch.tensor(True),
                       double=torch.tensor(0.1, dtype=torch.float64))  # fmt: skip

    def refuse(self):
        raise TypeError("Cannot convert a MPS Tensor to float64")

    monkeypatch.setattr(torch.Tensor, "double", refuse)
    row = fit(Mixed(), torch.ones(4, 1), steps=1, batch_size=4).iloc[0]
    assert row["line/whole"] == 2**40 + 1
    assert row["line/yes"] == 1
    assert row["line/double"] == 0.1


@pytest.mark.parametrize("change", [lambda x: 255 * x, lambda x: x - 1])
def test_images_outside_the_unit_interval_stop_a_bernoulli_model(change):
    images = change(torch.rand(8, 1, 4, 4))
    with pytest.raises(ValueError, match=r"a Bernoulli likelihood needs \[0, 1\]"):
        fit(tutor.models.VAE(image_shape=(1, 4, 4)), images, steps=1, batch_size=4)


# -- schedules ------------------------------------------------------------------------------------


class Slope(Model):
    """One weight with a gradient of one: under SGD it falls by the learning rate each step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    @property
    def players(self):
        return {"one": [self.weight]}

    def step(self, x):
        yield Turn("one", self.weight + 0 * x.sum())


def test_a_schedule_multiplies_every_rate():
    model = Slope()
    tutor.fit(
        model, torch.zeros(4, 1), steps=8, batch_size=2, device="cpu", progress=False,
        optimizer=partial(torch.optim.SGD, lr=1.0), schedule=decay_after(0.5),
    )  # fmt: skip
    # four full steps, then 1, 3/4, 1/2, 1/4
    assert model.weight.item() == pytest.approx(-(4 + 2.5), rel=1e-6)


def test_a_run_with_a_schedule_resumes_bit_for_bit(tmp_path):
    def run(folder, stop=None):
        model = Slope()
        calls = 0

        def schedule(t):
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            return decay_after(0.25)(t)

        tutor.fit(
            model, torch.zeros(4, 1), steps=12, batch_size=2, device="cpu", progress=False,
            optimizer=partial(torch.optim.Adam, lr=0.1), schedule=schedule,
            checkpoint=folder, checkpoint_every=5,
        )  # fmt: skip
        return model.weight.item()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop=8)  # after the checkpoint at step 5, with rates already lower
    assert run(tmp_path / "cut") == whole


def test_a_scheduled_run_can_t_be_stretched(tmp_path):
    def run(steps):
        tutor.fit(
            Slope(), torch.zeros(4, 1), steps=steps, batch_size=2, device="cpu", progress=False,
            schedule=decay_after(0.5), checkpoint=tmp_path,
        )  # fmt: skip

    run(4)
    with pytest.raises(CheckpointError, match="scheduled_steps"):
        run(8)


@pytest.mark.parametrize("start", [-0.1, 1.0, float("nan")])
def test_a_schedule_that_never_decays_is_refused(start):
    with pytest.raises(ValueError, match="share of the steps"):
        decay_after(start)


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf"), "half"])
def test_a_schedule_gives_numbers(factor):
    with pytest.raises(ValueError, match="multiplied"):
        tutor.fit(
            Slope(), torch.zeros(4, 1), steps=2, batch_size=2, device="cpu", progress=False,
            schedule=lambda t: factor,
        )  # fmt: skip


def test_both_entrances_to_the_loop_have_the_same_defaults():
    """`fit_many` hands its arguments to `playing`; what it leaves out must be what `fit` takes."""
    outer, inner = (inspect.signature(f).parameters for f in (tutor.fit, playing))
    shared = outer.keys() & inner.keys()
    assert outer.keys() - shared == {"device"}
    assert inner.keys() - shared == {"where"}
    assert {n: outer[n].default for n in shared} == {n: inner[n].default for n in shared}
