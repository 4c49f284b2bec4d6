"""Readers of the original files, on small files of the same layout."""

from __future__ import annotations

import builtins
import io
import math
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from tutor.data import DamagedFileError, PackedDataset, load, names, render_dsprites
from tutor.data import official as module
from tutor.data.official import DSPRITES_FILE, SHAPES3D_FILE, read_dsprites, read_shapes3d

SPRITES = (3, 2, 4, 3, 3)  # numbers of values of a small grid
ROOMS = (2, 2, 3, 2, 4, 3)


def grid(sizes) -> np.ndarray:
    return torch.cartesian_prod(*map(torch.arange, sizes)).numpy()


def sprite_file(path, sizes=SPRITES, **changes):
    """An npz file as the original: images, classes, and a pickled entry that must not be read."""
    factors = grid(sizes)
    images = render_dsprites(torch.from_numpy(factors)).squeeze(1).numpy().astype(np.uint8)
    parts = {
        "metadata": np.array({"never": "unpickled"}, dtype=object),
        "imgs": images,
        "latents_classes": np.concatenate([np.zeros((len(factors), 1), np.int64), factors], 1),
    }
    parts |= changes
    np.savez_compressed(path, **{key: part for key, part in parts.items() if part is not None})
    return path, images


def room_file(path, sizes=ROOMS, **changes):
    """An HDF5 file as the original: labels are the factors' values, not their numbers."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    factors = grid(sizes)
    spread = [np.linspace(*ends, size) for ends, size in zip(
        ((0, 0.9), (0, 0.9), (0, 0.9), (0.75, 1.25), (0, 3), (-30, 30)), sizes, strict=True
    )]  # fmt: skip
    labels = np.stack([values[column] for values, column in zip(spread, factors.T, strict=True)], 1)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (len(factors), 64, 64, 3), np.uint8)
    parts = {"images": images, "labels": labels} | changes
    with h5py.File(path, "w") as file:
        for key, part in parts.items():
            if part is not None:
                file.create_dataset(key, data=part, compression="gzip", compression_opts=1)
    return path, images


def test_official_sprites_are_read_as_bits(tmp_path):
    path, images = sprite_file(tmp_path / "own.npz")
    data = read_dsprites(path, SPRITES)
    assert isinstance(data, PackedDataset)
    assert len(data) == math.prod(SPRITES)
    assert torch.equal(data[:].squeeze(1), torch.from_numpy(images).float())
    assert np.array_equal(data.factors.numpy(), grid(SPRITES))
    assert data.factor_sizes == SPRITES
    assert data.factor_names == ("shape", "scale", "orientation", "x", "y")


def test_official_sprites_are_read_once(tmp_path, capsys, bare_machine):
    path, _ = sprite_file(tmp_path / "own.npz")
    first = read_dsprites(path, SPRITES).images.clone()  # the file is written over below
    assert "once" in capsys.readouterr().out
    again = read_dsprites(path, SPRITES)
    assert capsys.readouterr().out == ""
    assert torch.equal(again.images, first)
    # A byte that changes in the cache is found; the pixels are those of the original again.
    (file,) = (bare_machine / "dsprites").iterdir()
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    assert torch.equal(read_dsprites(path, SPRITES).images, first)
    assert "damaged" in capsys.readouterr().out
    file.write_bytes(content[:100])
    assert torch.equal(read_dsprites(path, SPRITES).images, first)
    # Another file at the same place is not mistaken for the first.
    sprite_file(path, imgs=np.zeros((math.prod(SPRITES), 64, 64), np.uint8))
    assert read_dsprites(path, SPRITES)[:].sum() == 0


def test_official_sprites_are_never_whole_in_memory(tmp_path):
    """Bytes that Python and NumPy hold at most, beside the 31 MB of the images."""
    sizes = (3, 5, 8, 8, 8)
    count = math.prod(sizes)
    path, _ = sprite_file(tmp_path / "own.npz", sizes, imgs=np.ones((count, 64, 64), np.uint8))
    tracemalloc.start()
    data = read_dsprites(path, sizes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count * 4096 > 31e6
    # 512 images of 4096 bytes, twice while the stream puts its pieces together, and the factors
    assert peak < 3 * 512 * 4096 + count * 6 * 8 * 3
    assert data[:100].mean() == 1


def wrong_order() -> np.ndarray:
    factors = grid(SPRITES)[::-1]
    return np.concatenate([np.zeros((len(factors), 1), np.int64), factors], 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgs": np.zeros((5, 64, 64), np.uint8)}, r"imgs of shape \(5, 64, 64\); expected"),
        ({"imgs": np.zeros((216, 32, 32), np.uint8)}, r"imgs of shape \(216, 32, 32\)"),
        ({"imgs": np.full((216, 64, 64), 2, np.uint8)}, "a pixel of 2"),
        ({"imgs": np.zeros((216, 64, 64))}, "imgs of type float64"),
        ({"imgs": np.asfortranarray(np.zeros((216, 64, 64), np.uint8))}, "by columns"),
        ({"imgs": None}, "imgs"),
        ({"latents_classes": np.zeros((216, 5), np.int64)}, r"latents_classes of shape \(216, 5\)"),
        ({"latents_classes": wrong_order()}, r"factors \[0, 2, 1, 3, 2, 2\] in row 0"),
        ({"latents_classes": None}, "latents_classes"),
    ],
)
def test_other_npz_files_are_refused(tmp_path, bare_machine, changes, message):
    path, _ = sprite_file(tmp_path / "own.npz", **changes)
    with pytest.raises(DamagedFileError, match=message) as caught:
        read_dsprites(path, SPRITES)
    assert str(path) in str(caught.value)
    assert not [file for file in bare_machine.rglob("*") if file.is_file()]  # nothing stays behind


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_truncated_npz_file_is_refused(tmp_path, part):
    path, _ = sprite_file(tmp_path / "own.npz")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DamagedFileError, match="not a zip file"):
        read_dsprites(path, SPRITES)


def test_an_npz_file_with_one_wrong_bit_is_refused(tmp_path):
    path, _ = sprite_file(tmp_path / "own.npz")
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("imgs.npy").header_offset
    content = bytearray(path.read_bytes())
    content[start + 400] ^= 4
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"own\.npz"):
        read_dsprites(path, SPRITES)


@pytest.mark.parametrize("rows", [215, 217])
def test_an_array_that_is_not_as_long_as_it_says_is_refused(tmp_path, rows):
    path, images = sprite_file(tmp_path / "own.npz", imgs=None)
    stream = io.BytesIO()
    np.save(stream, images)
    whole = stream.getvalue()
    body = whole[:-4096] if rows == 215 else whole + bytes(4096)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("imgs.npy", body)
    with pytest.raises(DamagedFileError, match=r"image 215 of 216|more than the 216"):
        read_dsprites(path, SPRITES)


def test_official_rooms_are_read_with_their_factors(tmp_path):
    path, images = room_file(tmp_path / "own.h5")
    data = read_shapes3d(path, ROOMS)
    wanted = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(data.images, wanted)
    assert torch.equal(data[[7, 0]], wanted[[7, 0]].float() / 255)
    assert np.array_equal(data.factors.numpy(), grid(ROOMS))
    assert data.factor_sizes == ROOMS
    assert data.factor_names[-1] == "orientation"
    part = data.subset([3])
    assert torch.equal(part.factors, data.factors[3:4])
    assert data.fingerprint() != part.fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 64, 64, 3), np.uint8)}, r"images of shape \(5, 64, 64, 3\)"),
        ({"images": np.zeros((288, 3, 64, 64), np.uint8)}, r"images of shape \(288, 3, 64, 64\)"),
        ({"images": np.zeros((288, 64, 64, 3), np.float32)}, "images of float32"),
        ({"images": None}, "images"),
        ({"labels": np.zeros((288, 6))}, "1 values of floor_hue; expected 2"),
        ({"labels": grid(ROOMS)[::-1].astype(float)}, r"\[1, 1, 2, 1, 3, 2\] in row 0"),
        ({"labels": np.zeros((288, 5))}, r"labels of shape \(288, 5\)"),
    ],
)
def test_other_hdf5_files_are_refused(tmp_path, changes, message):
    path, _ = room_file(tmp_path / "own.h5", **changes)
    with pytest.raises(DamagedFileError, match=message) as caught:
        read_shapes3d(path, ROOMS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_truncated_hdf5_file_is_refused(tmp_path, part):
    path, _ = room_file(tmp_path / "own.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DamagedFileError, match=r"own\.h5 can't be read"):
        read_shapes3d(path, ROOMS)


def test_without_h5py_the_reader_says_how_to_get_it(tmp_path, monkeypatch):
    path = tmp_path / "own.h5"
    path.write_bytes(b"")
    plain = builtins.__import__

    def without(name, *arguments, **others):
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        return plain(name, *arguments, **others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'autoencoder-tutor\[data\]'"):
        read_shapes3d(path, ROOMS)


def test_load_finds_the_official_files(tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "read_dsprites", lambda path, split: read_dsprites(path, SPRITES, split)
    )
    (tmp_path / "own" / "dsprites").mkdir(parents=True)
    sprite_file(tmp_path / "own" / "dsprites" / DSPRITES_FILE)
    data = load("dsprites", source="official", root=tmp_path / "own", split="test")
    assert (len(data), data.name, data.split) == (216, "dsprites", "test")
    monkeypatch.setenv("TUTOR_DATA", str(tmp_path / "own"))
    assert load("dsprites", source="official").fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("name", "file"), [("dsprites", DSPRITES_FILE), ("shapes3d", SHAPES3D_FILE)]
)
def test_load_says_where_to_get_the_official_files(tmp_path, name, file, capsys):
    with pytest.raises(FileNotFoundError) as caught:
        load(name, source="official", root=tmp_path)
    for wanted in (f"Looked for {file}", str(tmp_path), "TUTOR_DATA", "https://github.com/google"):
        assert wanted in str(caught.value)
    data = load(name, source="official", fallback="digits")
    assert (data.name, data.requested) == ("digits", name)
    assert "Using 'digits' instead" in capsys.readouterr().out


def test_a_source_has_meaning_for_two_data_sets_only():
    with pytest.raises(ValueError, match="'drawn' or 'official', not 'mine'"):
        load("dsprites", source="mine")
    for name in set(names()) - {"dsprites", "shapes3d"}:
        with pytest.raises(ValueError, match="one source only; leave it out"):
            load(name, source="official")
    assert load("shapes3d", source="drawn").fingerprint() == load("shapes3d").fingerprint()
