"""Batches with labels: all, a few, or none."""

from __future__ import annotations

import pytest
import torch

import tutor
from tutor.data import Dataset, Labelled, SemiSupervised, few_labels, four_points
from tutor.game import Model, Turn


def numbered(n: int = 60, classes: int = 3) -> Dataset:
    """Image i is filled with i / 255 and has the label i mod 3."""
    images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 2, 2)
    return Dataset(images.contiguous(), labels=torch.arange(n) % classes)


def test_images_keep_their_own_labels():
    images, labels = numbered().labelled().take(torch.tensor([7, 0, 59]))
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [7, 0, 59]
    assert labels.tolist() == [1, 0, 2]


def test_labels_not_known_are_minus_one_and_nothing_else_changes():
    source = numbered().labelled(torch.tensor([4, 5]))
    _, labels = source.take(torch.arange(60))
    assert labels[4] == 1
    assert labels[5] == 2
    assert (labels == -1).sum() == 58


def test_the_data_set_itself_is_not_changed():
    data = numbered()
    data.labelled(torch.tensor([0]))
    assert (data.labels >= 0).all()


def test_labelled_batches_come_from_the_known_rows_only():
    source = SemiSupervised(numbered(), known=torch.tensor([3, 4, 5]), batch_size=200)
    images, labelled, labels = source.take(torch.arange(10))
    value = (labelled[:, 0, 0, 0] * 255).round().long()
    assert len(images) == 10
    assert len(labelled) == 200
    assert set(value.tolist()) == {3, 4, 5}
    assert torch.equal(labels, value % 3)


def test_fit_hands_the_tuple_to_the_model_and_repeats_it_by_seed():
    class Average(Model):
        def __init__(self):
            super().__init__()
            self.value = torch.nn.Linear(1, 1)
            self.seen = []

        @property
        def players(self):
            return {"one": [self.value]}

        def step(self, batch):
            x, labelled, labels = batch
            self.seen.append((x.clone(), labels.clone()))
            yield Turn("one", self.value(labelled.flatten(1)[:, :1]).square().mean())

    def run():
        model = Average()
        source = SemiSupervised(numbered(), known=torch.tensor([0, 1, 2]), batch_size=5)
        tutor.fit(model, source, steps=3, batch_size=4, seed=1, device="cpu", progress=False)
        return model.seen

    for (x, y), (x2, y2) in zip(run(), run(), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


def test_few_labels_are_balanced_and_follow_the_generator():
    data = numbered()
    rows = few_labels(data, 12, generator=torch.Generator().manual_seed(0))
    again = few_labels(data, 12, generator=torch.Generator().manual_seed(0))
    other = few_labels(data, 12, generator=torch.Generator().manual_seed(1))
    assert data.labels[rows].bincount().tolist() == [4, 4, 4]
    assert torch.equal(rows, again)
    assert not torch.equal(rows, other)
    assert len(rows.unique()) == 12


def test_fingerprints_tell_which_labels_are_known():
    data = numbered()
    prints = {
        data.labelled().fingerprint(),
        data.labelled(torch.tensor([0])).fingerprint(),
        data.labelled(torch.tensor([1])).fingerprint(),
        SemiSupervised(data, torch.arange(3)).fingerprint(),
        SemiSupervised(data, torch.arange(6)).fingerprint(),
        SemiSupervised(data, torch.arange(6), batch_size=7).fingerprint(),
    }
    assert len(prints) == 6


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Labelled(Dataset(torch.rand(3, 2, 2))), ValueError, "no labels"),
        (lambda: Labelled(four_points(), torch.tensor([4])), ValueError, "row 4"),
        (lambda: Labelled(four_points(), torch.tensor([-1])), ValueError, "row -1"),
        (lambda: Labelled(four_points(), torch.tensor([1.0])), TypeError, "LongTensor"),
        (lambda: Labelled(four_points(), [1]), TypeError, "list"),
        (lambda: SemiSupervised(four_points(), torch.empty(0).long()), ValueError, "empty"),
        (lambda: SemiSupervised(four_points(), torch.arange(3)), ValueError, "class 3"),
        (lambda: SemiSupervised(four_points(), torch.arange(4), 0), ValueError, "batch_size"),
        (lambda: few_labels(numbered(), 2), ValueError, "multiple of the 3 classes"),
        (lambda: few_labels(numbered(), 10), ValueError, "multiple of the 3 classes"),
        (lambda: few_labels(numbered(), 300), ValueError, "fewer than the 100"),
    ],
)
def test_bad_input_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()
