"""load(): the embedded sets, MNIST against its known facts, fallbacks and mistakes."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import tutor.data
from tutor.data import Dataset, load, names
from tutor.data.digits import TEST_SIZE, enlarge
from tutor.data.download import RemoteFile
from tutor.data.mnist import FASHION_MNIST, IMAGES, LABELS, MNIST, read_idx

# Read at import: the fixture of this folder hides it from each test.
DATA = os.environ.get("TUTOR_DATA")
DIGITS_SHA256 = "28e94d53a2698536df9e8e4e8d9be89f3fdfc2bcb87ab0ac952a1b34c5fead10"
MNIST_HERE = DATA is not None and (Path(DATA) / "mnist" / IMAGES["train"]).is_file()
needs_mnist = pytest.mark.skipif(
    not MNIST_HERE, reason="MNIST is not here: set TUTOR_DATA to a folder with mnist/*-ubyte.gz"
)


# --- names and splits -------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'fashion_mnist'") as info:
        load("Fashion-MNST")
    for name in names():
        assert name in str(info.value)
    with pytest.raises(ValueError, match="there are digits, mnist") as info:
        load("zzzz")
    assert "Did you mean" not in str(info.value)


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "four_points"])
def test_an_unknown_split(name):
    with pytest.raises(ValueError, match=r"'train', 'test', 'all', not 'valid'"):
        load(name, split="valid")


def test_an_unknown_fallback_is_an_error_even_when_it_is_not_needed():
    with pytest.raises(ValueError, match=r"fallback='digit' .* Did you mean 'digits'"):
        load("four_points", fallback="digit")


def test_a_root_that_is_no_folder(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        load("mnist", root=tmp_path / "nowhere", fallback="digits")


# --- digits -----------------------------------------------------------------------------


def test_digits_are_enlarged_as_torch_does_but_exactly():
    from sklearn.datasets import load_digits

    levels = torch.from_numpy(load_digits().images)
    want = F.interpolate(levels.unsqueeze(1), size=28, mode="bilinear", align_corners=False)
    got = enlarge(levels.long())
    assert got.dtype == torch.uint8
    # The one difference is the rounding to a byte: at most half a grey level (and float noise).
    assert (got - want * 255 / 16).abs().max() <= 0.5 + 1e-9
    flat = torch.full((1, 8, 8), 16)
    assert torch.equal(enlarge(flat).unique(), torch.tensor([255], dtype=torch.uint8))


def test_digits_are_the_same_bytes_everywhere():
    # Whole-number arithmetic only, so a change here means that results in the book change too.
    images = load("digits", split="all").images
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest() == DIGITS_SHA256


def test_the_split_of_digits_is_a_stratified_partition():
    train, test, both = (load("digits", split=split) for split in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (1500, TEST_SIZE, 1797)
    rows = sorted(map(bytes, torch.cat([train.images, test.images]).numpy()))
    assert rows == sorted(map(bytes, both.images.numpy()))
    # Evenly spaced picks within the images ordered by class: each class is off by less than one.
    share = both.labels.bincount() * TEST_SIZE / len(both)
    assert (test.labels.bincount() - share).abs().max() < 1
    assert train.classes == tuple("0123456789")


def test_digits_look_like_their_labels():
    # Nearest class mean: some 90 % right on real digits, 10 % where labels and images are mixed up.
    train, test = load("digits"), load("digits", split="test")
    means = torch.stack([train[train.labels == k].mean(0) for k in range(10)]).flatten(1)
    guess = torch.cdist(test[:].flatten(1), means).argmin(1)
    assert (guess == test.labels).float().mean() > 0.85


# --- four points ------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_the_four_points(split):
    ds = load("four_points", split=split)
    assert torch.equal(ds[:].reshape(4, 4), torch.eye(4))
    assert ds.labels.tolist() == [0, 1, 2, 3]
    assert ds.shape == (1, 2, 2)
    assert ds.split == split
    assert ds.name == ds.requested == "four_points"


# --- the real MNIST ---------------------------------------------------------------------


@needs_mnist
def test_mnist_has_the_known_hashes():
    for name, file in MNIST.files.items():
        raw = (Path(DATA) / "mnist" / name).read_bytes()
        assert hashlib.sha256(gzip.decompress(raw)).hexdigest() == file.sha256


@needs_mnist
def test_mnist_is_mnist(monkeypatch):
    monkeypatch.setenv("TUTOR_DATA", DATA)
    train, test, both = (
        load("mnist", split=split, download=False) for split in ("train", "test", "all")
    )
    assert [len(ds) for ds in (train, test, both)] == [60000, 10000, 70000]
    assert train.shape == (1, 28, 28)
    # Facts about MNIST that everyone knows: the first ten labels, and the mean of its pixels.
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert train.images.double().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert torch.equal(both.images[60000:], test.images)
    assert torch.equal(both.labels[:60000], train.labels)


@needs_mnist
def test_mnist_of_the_readers_folder_is_not_taken_for_fashion_mnist():
    with pytest.raises(ValueError, match="not the file that 'fashion_mnist' needs"):
        load("fashion_mnist", root=Path(DATA) / "mnist")


# --- downloading and falling back -------------------------------------------------------


def idx(array: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.numpy().tobytes()


def test_mnist_is_downloaded_read_and_cached(mirrors, monkeypatch, bare_machine):
    generator = torch.Generator().manual_seed(0)
    content = {
        name: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for name, shape in {
            IMAGES["train"]: (6, 28, 28),
            LABELS["train"]: (6,),
            IMAGES["test"]: (2, 28, 28),
            LABELS["test"]: (2,),
        }.items()
    }
    url = mirrors("a", lambda request: request.answer(gzip.compress(idx(content[request.name]))))
    small = replace(
        MNIST,
        mirrors=("https://gone.invalid/", url),
        files={n: RemoteFile(n, hashlib.sha256(idx(v)).hexdigest()) for n, v in content.items()},
    )
    monkeypatch.setattr(tutor.data, "MNIST", small)
    ds = load("mnist", split="all")
    assert torch.equal(
        ds.images.squeeze(1), torch.cat([content[IMAGES["train"]], content[IMAGES["test"]]])
    )
    assert ds.labels.tolist() == [
        *content[LABELS["train"]].tolist(),
        *content[LABELS["test"]].tolist(),
    ]
    assert len(mirrors.asked) == 4
    assert len(list((bare_machine / "mnist").iterdir())) == 4
    again = load("mnist", split="all", download=False)
    assert again.fingerprint() == ds.fingerprint()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("source", [MNIST, FASHION_MNIST], ids=lambda source: source.name)
def test_without_network_and_cache_the_error_names_every_mirror(source):
    with pytest.raises(FileNotFoundError) as info:
        load(source.name)
    for mirror in source.mirrors:
        assert mirror.startswith("https://")
        assert mirror + IMAGES["train"] in str(info.value)


@pytest.mark.usefixtures("no_network")
def test_the_fallback_says_so_once_and_keeps_what_was_asked_for(capsys, bare_machine):
    ds = load("mnist", split="test", fallback="digits")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "'mnist'" in out
    assert "Using 'digits' instead" in out
    assert str(bare_machine) not in out  # the line is printed in the book: no path of a machine
    assert (ds.name, ds.requested, ds.split, len(ds)) == ("digits", "mnist", "test", TEST_SIZE)
    assert "requested='mnist'" in repr(ds)
    assert ds.binarized().requested == ds.subset([0]).requested == "mnist"


@pytest.mark.usefixtures("no_network")
def test_a_fallback_that_can_not_be_had_either_is_an_error():
    with pytest.raises(FileNotFoundError, match="fashion_mnist"):
        load("mnist", fallback="fashion_mnist")
    with pytest.raises(FileNotFoundError, match="mnist"):
        load("mnist", fallback="mnist")


def test_no_fallback_without_need(capsys):
    assert load("digits", fallback="four_points").name == "digits"
    assert capsys.readouterr().out == ""


def test_no_download_when_forbidden(monkeypatch):
    def refuse(*_: object, **__: object):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(FileNotFoundError, match="download=False"):
        load("mnist", download=False)


def test_a_damaged_file_of_the_readers_is_no_case_for_the_fallback(tmp_path):
    (tmp_path / IMAGES["train"]).write_bytes(b"junk")
    with pytest.raises(ValueError, match="left untouched"):
        load("mnist", root=tmp_path, fallback="digits")


def test_fashion_has_class_names():
    assert len(FASHION_MNIST.classes) == 10
    assert FASHION_MNIST.classes[9] == "Ankle boot"
    assert set(FASHION_MNIST.files) == set(MNIST.files)


# --- the IDX format ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 5)])
def test_idx_round_trip(shape):
    values = torch.arange(torch.tensor(shape).prod()).to(torch.uint8).reshape(shape)
    assert torch.equal(read_idx(idx(values)), values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x00", "not an IDX file of bytes"),  # 0x0d: floats
        (b"\x00\x00\x08\x03\x00\x00", "header of 16 bytes"),
        (b"\x00\x00\x08\x00", "header"),
        (idx(torch.zeros(4, dtype=torch.uint8))[:-1], r"\(4,\) needs 12 bytes, the file has 11"),
        (idx(torch.zeros(4, dtype=torch.uint8)) + b"!", "the file has 13"),
    ],
)
def test_a_bad_idx_file(content, message):
    with pytest.raises(ValueError, match=message):
        read_idx(content)


# --- cost -------------------------------------------------------------------------------


def test_importing_reads_nothing_and_loads_no_heavy_library():
    script = (
        "import sys, tutor.data\n"
        "heavy = {'sklearn', 'pooch', 'requests', 'scipy', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stdout


def test_datasets_are_what_load_returns():
    assert isinstance(load("four_points"), Dataset)
