"""Dataset: a tensor that refuses what it can't understand, indexed as a tensor is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tutor.data import Dataset, load


def grey(n: int = 10, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, 4, 3), dtype=torch.uint8, generator=generator)


# --- what comes in ----------------------------------------------------------------------


def test_bytes_stay_bytes_until_asked():
    images = grey()
    ds = Dataset(images, torch.arange(10))
    assert ds.images.data_ptr() == images.data_ptr()  # no copy
    assert ds.shape == (1, 4, 3)
    assert len(ds) == 10
    batch = ds[:]
    assert batch.dtype == torch.float32
    # Division by 255 is one correctly rounded operation in both places: exact equality.
    assert torch.equal(batch, torch.from_numpy(images.numpy().astype(np.float32) / 255))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floating_point_images_are_kept_as_float32(dtype):
    images = (grey() / 255).to(dtype)
    ds = Dataset(images)
    assert ds.images.dtype == torch.float32
    assert torch.equal(ds[:], images.to(torch.float32))


@pytest.mark.parametrize("kind", ["tensor", "numpy", "read-only", "reversed"])
def test_images_without_a_channel_get_one_whatever_array_they_are(kind):
    images = grey().squeeze(1)
    array = images.numpy().copy()
    array.flags.writeable = kind != "read-only"
    given = {"tensor": images, "reversed": array[::-1]}.get(kind, array)
    want = images.flip(0) if kind == "reversed" else images
    assert torch.equal(Dataset(given).images, want.unsqueeze(1))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(5, 8, 8) * 255, ValueError, "divide by 255"),
        (torch.rand(5, 8, 8) * 2 - 1, ValueError, r"\(x \+ 1\) / 2"),
        (torch.full((5, 8, 8), float("nan")), ValueError, "nan"),
        (torch.full((5, 8, 8), 1.0000001), ValueError, r"1\.0000001"),
        (torch.randint(0, 256, (5, 8, 8)), TypeError, r"torch\.int64.*uint8 in 0\.\.255"),
        (torch.randint(0, 100, (5, 8, 8)).to(torch.int8), TypeError, r"torch\.int8"),
        (torch.rand(5, 8, 8) > 0.5, TypeError, r"torch\.bool"),
        (torch.randint(0, 2, (5, 8, 8), dtype=torch.uint8), ValueError, "almost black"),
        (torch.rand(8, 8), ValueError, r"\(N, C, H, W\) or \(N, H, W\), not \(8, 8\)"),
        (torch.rand(5, 784), ValueError, "reshape flat pixels"),
        (torch.rand(1, 5, 1, 8, 8), ValueError, r"not \(1, 5, 1, 8, 8\)"),
        (torch.rand(0, 1, 8, 8), ValueError, "no pixel"),
        (torch.rand(5, 8, 8, 3), ValueError, r"permute\(0, 3, 1, 2\)"),
        ([torch.rand(8, 8)], TypeError, r"torch\.stack"),
        ("mnist", TypeError, "not str"),
    ],
)  # fmt: skip
def test_bad_images_are_refused_and_the_message_says_how_to_mend_them(images, error, message):
    with pytest.raises(error, match=message):
        Dataset(images)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.arange(9), ValueError, r"\(10,\), one per image, not \(9,\)"),
        (torch.eye(10).long(), ValueError, r"argmax\(1\)"),
        (torch.arange(10.0), TypeError, r"labels\.long\(\)"),
        (torch.ones(10, dtype=torch.bool), TypeError, "whole numbers"),
    ],
)
def test_bad_labels_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        Dataset(grey(), labels)


@pytest.mark.parametrize(
    "labels", [list(range(10)), np.arange(10, dtype=np.uint8), torch.arange(10).int()]
)
def test_labels_of_any_integer_type_become_long(labels):
    ds = Dataset(grey(), labels)
    assert ds.labels.dtype == torch.int64
    assert ds.labels.tolist() == list(range(10))


# --- indexing ---------------------------------------------------------------------------

N = 10
DS = Dataset(grey(N), torch.arange(N))
WANT = DS.images.to(torch.float32) / 255

# A machine that is busy with other things makes one example slow now and then; no reason to fail.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
positions = st.integers(-N, N - 1)
bounds = st.none() | st.integers(-2 * N, 2 * N)


@unhurried
@given(positions)
def test_an_integer_gives_one_image(i):
    assert torch.equal(DS[i], WANT[i])
    assert torch.equal(DS[np.int32(i)], WANT[i])
    assert torch.equal(DS[torch.tensor(i)], WANT[i])


@unhurried
@given(bounds, bounds, st.none() | st.integers(-3, 3).filter(bool))
def test_a_slice_of_any_step_is_that_of_a_list(start, stop, step):
    index = slice(start, stop, step)
    want = WANT[list(range(N))[index]]  # torch has no negative steps, lists do
    assert torch.equal(DS[index], want)


@unhurried
@given(st.lists(positions, max_size=20))
def test_whole_numbers_in_list_array_or_tensor(index):
    want = WANT[torch.tensor(index, dtype=torch.int64)]
    assert torch.equal(DS[index], want)
    assert torch.equal(DS[np.array(index, dtype=np.int64)], want)
    assert torch.equal(DS[torch.tensor(index, dtype=torch.int32)], want)
    assert torch.equal(DS.take(torch.tensor(index, dtype=torch.int64)), want)


@unhurried
@given(st.lists(st.booleans(), min_size=N, max_size=N))
def test_a_mask(mask):
    want = WANT[torch.tensor(mask)]
    assert torch.equal(DS[torch.tensor(mask)], want)
    assert torch.equal(DS[mask], want)
    assert torch.equal(DS[np.array(mask)], want)


@unhurried
@given(st.integers(N, 10**6) | st.integers(-(10**6), -N - 1))
def test_out_of_range_names_the_index_and_the_length(i):
    for index in (i, [0, i], torch.tensor([i])):
        with pytest.raises(IndexError, match=rf"index {i} is out of range .* {N} images"):
            DS[index]
    with pytest.raises(IndexError, match=f"index {i} "):
        DS.take(torch.tensor([i]))


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (torch.ones(N - 1, dtype=torch.bool), IndexError, "one truth value per image"),
        (torch.zeros(2, 2, dtype=torch.int64), IndexError, r"not \(2, 2\)"),
        (torch.tensor([0.0]), TypeError, r"float32 is not a position"),
        (torch.tensor([1, 0], dtype=torch.uint8), TypeError, r"\.long\(\).*\.bool\(\)"),
        ((0, 1), TypeError, "tuple"),
        ("a", TypeError, "str"),
        (None, TypeError, "NoneType"),
        (1.0, TypeError, "float"),
        (True, TypeError, "bool"),
    ],
)
def test_bad_indices(index, error, message):
    with pytest.raises(error, match=message):
        DS[index]


@pytest.mark.parametrize("index", [3, [0, 1], torch.tensor([0], dtype=torch.int32)])
def test_take_wants_a_long_tensor(index):
    with pytest.raises(TypeError, match="LongTensor"):
        DS.take(index)


def test_take_wants_one_dimension():
    with pytest.raises(ValueError, match=r"not \(1, 2\)"):
        DS.take(torch.tensor([[0, 1]]))


def test_iteration_ends():
    assert torch.equal(torch.stack(list(DS)), WANT)


def test_a_subset_keeps_images_with_their_labels():
    part = DS.subset([7, -1, 2])
    assert part.labels.tolist() == [7, 9, 2]
    assert torch.equal(part[:], WANT[[7, 9, 2]])
    assert len(DS.subset(3)) == 1
    assert DS.subset(DS.labels > 6).labels.tolist() == [7, 8, 9]
    with pytest.raises(ValueError, match="no image"):
        DS.subset([])


def test_a_subset_of_dark_images_is_not_mistaken_for_zeros_and_ones():
    images = grey()
    images[0] = 1
    assert Dataset(images).subset(0)[:].max() == pytest.approx(1 / 255)


# --- binarisation -----------------------------------------------------------------------


def digits_as(kind: str) -> Dataset:
    ds = load("digits", split="all")
    return ds if kind == "uint8" else Dataset(ds[:])


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@pytest.mark.parametrize("how", ["once", "each time"])
def test_binarised_pixels_are_bernoulli_of_the_grey_value(kind, how):
    ds = digits_as(kind)
    p = ds[:].double()
    torch.manual_seed(0)  # "each time" draws from the default generator
    x = (ds.binarized(seed=0) if how == "once" else ds.binarized_each_time())[:]
    assert x.dtype == torch.float32
    assert x.unique().tolist() == [0.0, 1.0]
    # The mean over all n pixels has variance sum p (1 - p) / n^2. Four standard errors: a correct
    # sampler fails once in 16 000 seeds, and the seed is fixed.
    error = (p * (1 - p)).sum().sqrt() / p.numel()
    assert abs(x.double().mean() - p.mean()) <= 4 * error
    # The same for the pixels of each of the grey levels alone, so that errors can't cancel. Of
    # some 250 levels the largest |z| is about 2.9; above 4.5 once in 600 seeds.
    levels = (p * 255).round().long().flatten()
    n = levels.bincount(minlength=256)
    white = levels.bincount(weights=x.flatten().double(), minlength=256)
    q = torch.arange(256) / 255
    inside = (n > 100) & (q > 0) & (q < 1)
    assert inside.sum() > 100
    z = (white - n * q)[inside] / (n * q * (1 - q))[inside].sqrt()
    assert z.abs().max() < 4.5
    assert torch.equal(white[[0, 255]], n[[0, 255]] * q[[0, 255]].double())  # never, always


def test_the_same_seed_gives_the_same_images_and_another_does_not():
    ds = load("digits")
    a, b, c = ds.binarized(seed=1), ds.binarized(seed=1), ds.binarized(seed=2)
    assert torch.equal(a.images, b.images)
    assert not torch.equal(a.images, c.images)
    assert torch.equal(a[5], a[5])
    assert a.fingerprint() == b.fingerprint() != c.fingerprint()
    assert a.images.dtype == torch.uint8
    assert torch.equal(a.labels, ds.labels)


def test_binarized_leaves_the_default_generator_alone():
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    load("four_points").binarized(seed=5)
    assert torch.equal(torch.rand(3), want)


def test_binarized_each_time_draws_anew_from_the_default_generator():
    ds = load("digits").binarized_each_time()
    index = torch.arange(20)
    torch.manual_seed(3)
    first, second = ds.take(index), ds.take(index)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(ds.take(index), first)
    assert torch.equal(ds.labels, load("digits").labels)


def test_a_fixed_draw_of_a_set_that_is_drawn_each_time_stays_fixed():
    ds = load("digits").binarized_each_time().binarized(seed=1)
    assert torch.equal(ds[:20], ds[:20])
    assert torch.equal(ds.images, load("digits").binarized(seed=1).images)


def test_binarising_black_and_white_images_changes_nothing():
    ds = load("digits").binarized(seed=0)
    assert torch.equal(ds.binarized(seed=9).images, ds.images)
    assert torch.equal(ds.binarized_each_time()[:], ds[:])


# --- identity ---------------------------------------------------------------------------


def test_fingerprints_tell_data_apart_and_ignore_names():
    images = grey()
    base = Dataset(images, torch.arange(10))
    assert len(base.fingerprint()) == 16
    assert Dataset(images.clone(), torch.arange(10), name="x").fingerprint() == base.fingerprint()
    one_pixel = images.clone()
    one_pixel[9, 0, 3, 2] ^= 1
    others = [
        Dataset(one_pixel, torch.arange(10)),
        Dataset(images),
        Dataset(images, torch.arange(10).flip(0)),
        Dataset(images.transpose(2, 3), torch.arange(10)),
        Dataset(images.float() / 255, torch.arange(10)),
        base.subset(range(9)),
        base.binarized_each_time(),
    ]
    prints = {ds.fingerprint() for ds in others}
    assert len(prints) == len(others)
    assert base.fingerprint() not in prints


def test_repr_says_what_the_data_are():
    ds = Dataset(grey(1), [4], name="mine", split="test")
    assert repr(ds) == "Dataset('mine', split='test', 1 image of shape (1, 4, 3), labels 4..4)"
    ds.requested = "theirs"
    assert repr(ds.binarized_each_time()) == (
        "Dataset('mine', requested='theirs', split='test', 1 image of shape (1, 4, 3), "
        "labels 4..4, binarized each time)"
    )


def test_to_moves_images_and_labels():
    moved = DS.to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert DS.images.device.type == "cpu"
    assert DS.to("cpu").images is DS.images


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_batches_stay_there_and_agree_with_the_cpu():
    ds = DS.to("cuda")
    index = torch.tensor([3, -1, 0])
    assert ds.take(index).device.type == "cuda"
    assert torch.equal(ds.take(index).cpu(), DS.take(index))
    assert torch.equal(ds.take(index.cuda()).cpu(), DS.take(index))
    assert torch.equal(ds.binarized(1).images.cpu(), DS.binarized(1).images)
    assert ds.binarized_each_time()[:].device.type == "cuda"
    assert ds.fingerprint() == DS.fingerprint()
    assert ds.subset(ds.labels > 6).labels.tolist() == [7, 8, 9]
