"""Turns and players: what a model may be, and the messages when it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutor.game import Model, Turn, player_parameters


class Two(Model):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    @property
    def players(self):
        return {"a": [self.a], "b": [self.b]}


def test_parameters_are_listed_once_and_by_owner():
    model = Two()
    owned = player_parameters(model)
    assert {id(p) for p in owned["a"]} == {id(p) for p in model.a.parameters()}
    assert {id(p) for p in owned["b"]} == {id(p) for p in model.b.parameters()}


def test_two_players_may_share_a_module():
    class Shared(Two):
        @property
        def players(self):
            return {"both": [self.a, self.b], "second": [self.b]}

    owned = player_parameters(Shared())
    assert len(owned["both"]) == 4
    assert {id(p) for p in owned["second"]} < {id(p) for p in owned["both"]}


def test_an_orphan_is_named_and_frozen_ones_are_fine():
    class Orphan(Two):
        @property
        def players(self):
            return {"a": [self.a]}

    model = Orphan()
    with pytest.raises(ValueError, match=r"no player owns b\.weight, b\.bias"):
        player_parameters(model)
    model.b.requires_grad_(False)
    assert list(player_parameters(model)) == ["a"]


def test_a_model_without_players_is_refused():
    with pytest.raises(TypeError, match="has no players"):
        player_parameters(nn.Linear(1, 1))
    with pytest.raises(NotImplementedError, match="names no players"):
        _ = Model().players
    with pytest.raises(NotImplementedError, match="has no `step`"):
        Model().step(torch.zeros(1))


def test_a_player_without_parameters_is_refused():
    class Empty(Two):
        @property
        def players(self):
            return {"a": [self.a, self.b], "idle": [nn.ReLU()]}

    with pytest.raises(ValueError, match="'idle' owns no trainable parameter"):
        player_parameters(Empty())


@pytest.mark.parametrize("loss", [torch.zeros(3), 1.0])
def test_a_loss_must_be_a_scalar_tensor(loss):
    with pytest.raises(ValueError, match="expected a scalar tensor"):
        Turn("a", loss)


def test_terms_carry_no_gradient():
    x = torch.ones((), requires_grad=True)
    turn = Turn("a", x * 2, term=x * 3)
    assert turn.loss.requires_grad
    assert not turn.terms["term"].requires_grad


def test_a_mistake_inside_players_is_not_hidden():
    class Typo(Two):
        @property
        def players(self):
            return {"a": [self.aa], "b": [self.b]}

    with pytest.raises(AttributeError, match="'aa'"):
        player_parameters(Typo())


def test_a_bare_module_or_a_single_parameter_may_be_owned():
    class Bare(Two):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        @property
        def players(self):
            return {"a": self.a, "b": [self.b, self.scale]}

    owned = player_parameters(Bare())
    assert len(owned["a"]) == 2
    assert len(owned["b"]) == 3

    class Name(Two):
        @property
        def players(self):
            return {"a": ["a"], "b": [self.b]}

    with pytest.raises(TypeError, match="player 'a' lists 'a'; expected modules"):
        player_parameters(Name())
