"""The classifier of digits: it learns, its head reads its features, bad input is refused."""

from __future__ import annotations

import pytest
import torch

import tutor
from tutor.data import Dataset
from tutor.models import DigitClassifier


def test_logits_are_a_linear_map_of_the_features():
    torch.manual_seed(0)
    model = DigitClassifier(classes=4).eval()
    x = torch.rand(5, 1, 28, 28)
    linear = model.head[1]
    want = model.features(x) @ linear.weight.T + linear.bias
    assert torch.allclose(model(x), want, atol=1e-6)  # float32, 64 terms
    assert (model.features(x) >= 0).all()


def test_the_loss_is_the_cross_entropy_of_the_labels():
    torch.manual_seed(0)
    model = DigitClassifier(dropout=0.0)
    x, labels = torch.rand(6, 1, 28, 28), torch.tensor([0, 1, 2, 3, 4, 9])
    (turn,) = model.step((x, labels))
    logits = model(x)
    want = -(logits.softmax(1).log()[torch.arange(6), labels]).mean()
    assert torch.allclose(turn.loss, want, atol=1e-6)
    assert turn.terms["accuracy"] == (logits.argmax(1) == labels).float().mean()


def test_it_learns_to_tell_left_from_right():
    labels = torch.arange(64) % 2
    images = torch.zeros(64, 1, 28, 28)
    images[labels == 0, :, :, :14] = torch.rand(32, 1, 28, 14)
    images[labels == 1, :, :, 14:] = torch.rand(32, 1, 28, 14)
    torch.manual_seed(0)
    model = DigitClassifier(classes=2)
    source = Dataset(images, labels=labels).labelled()
    tutor.fit(model, source, steps=20, batch_size=32, device="cpu", progress=False)
    model.eval()
    assert torch.equal(model(images).argmax(1), labels)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="classes is 1"):
        DigitClassifier(1)
    with pytest.raises(ValueError, match=r"dropout is 1\.0"):
        DigitClassifier(dropout=1.0)
    model = DigitClassifier(classes=3)
    x = torch.rand(2, 1, 28, 28)
    with pytest.raises(TypeError, match="images alone"):
        next(model.step(x))
    with pytest.raises(ValueError, match="labels hold 3"):
        next(model.step((x, torch.tensor([0, 3]))))
    with pytest.raises(TypeError, match=r"images are torch\.uint8"):
        model(x.byte())
    with pytest.raises(ValueError, match=r"shape \(2, 1, 27, 28\)"):
        model.features(x[:, :, 1:])
