"""Faces and chairs from archives that the tests make, of the original's layout."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import tutor.data
from tutor.data import DamagedFileError, load
from tutor.data.local import room_for
from tutor.data.pictures import CELEBA, CHAIRS3D, FACES3D, picture_dataset

FEW = dataclasses.replace(CELEBA, count=5, splits={"train": (0, 3), "test": (4, 5)})
CHAIRS = dataclasses.replace(CHAIRS3D, count=3 * 62)


def encoded(pixels: np.ndarray, form: str = "PNG", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if mode is not None:
        image = image.convert(mode)
    image.save(stream, form, **({"quality": 95} if form == "JPEG" else {}))
    return stream.getvalue()


def smooth(width: int, height: int, seed: int) -> np.ndarray:
    """A smooth picture in colours, which JPEG hardly changes."""
    a, b, c = np.random.default_rng(seed).uniform(60, 190, 3)
    down, across = np.mgrid[:height, :width]
    waves = np.stack([a + 60 * np.sin(across / 40), b + 60 * np.cos(down / 50), c + 0 * down], 2)
    return waves.round().astype(np.uint8)


def faces(count: int = 5) -> dict[str, bytes]:
    return {f"img_align_celeba/{i:06}.jpg": encoded(smooth(178, 218, i), "JPEG")
            for i in range(1, count + 1)}  # fmt: skip


def chairs(models: int = 3, views: int = 62) -> dict[str, bytes]:
    files = {"rendered_chairs/all_chair_names.mat": b"not a picture"}
    for model in range(models):
        for view in range(views):
            pixels = np.full((80, 80, 3), 10 + 62 * model + view, np.uint8)
            folder = f"rendered_chairs/{'abc'[model]}-{model}/renders"
            files[f"{folder}/image_{view:03}_p020_t{view:03}_r096.png"] = encoded(pixels)
    return files


def as_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def as_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def as_folder(path, files):
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


# --- CelebA ---------------------------------------------------------------------------------------


def lanczos(values: np.ndarray, size: int) -> np.ndarray:
    """The first axis resampled to ``size``, by the formula: a wide sinc times a wider one."""
    scale = len(values) / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    t = (np.arange(len(values)) + 0.5 - centres) / scale
    weights = np.where(abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0)
    weights /= weights.sum(1, keepdims=True)
    return np.tensordot(weights, values, 1)


def test_a_face_is_cropped_and_scaled_as_in_the_paper(tmp_path):
    """The middle 140x140 pixels of 178x218, to 64x64; rounding twice and JPEG move a grey by 4."""
    pixels = {i: smooth(178, 218, i).astype(float) for i in range(1, 6)}
    as_zip(tmp_path / "img_align_celeba.zip", faces())
    data = picture_dataset(FEW, "all", tmp_path)
    assert data.shape == (3, 64, 64)
    for i, image in enumerate(data.images.numpy(), start=1):
        middle = pixels[i][39:179, 19:159]
        small = lanczos(lanczos(middle, 64).swapaxes(0, 1), 64).swapaxes(0, 1)
        assert abs(image.transpose(1, 2, 0) - small).max() <= 4


def test_zip_and_folder_give_the_same_faces_and_splits(tmp_path):
    as_zip(tmp_path / "img_align_celeba.zip", faces() | {"__MACOSX/x/._000001.jpg": b"x"})
    whole = picture_dataset(FEW, "all", tmp_path)
    (tmp_path / "own" / "celeba").mkdir(parents=True)
    as_folder(tmp_path / "own" / "celeba", faces())
    folder = picture_dataset(FEW, "all", tmp_path / "own")
    assert folder.fingerprint() == whole.fingerprint()
    train, test = (picture_dataset(FEW, split, tmp_path) for split in ("train", "test"))
    assert torch.equal(train[:], whole[:3])
    assert torch.equal(test[:], whole[4:])
    assert test.labels is None
    assert test.split == "test"


def test_celebas_partition_is_of_its_own_sizes():
    """162 770 for training, 19 867 for validation, 19 962 for tests."""
    train, test = CELEBA.splits["train"], CELEBA.splits["test"]
    assert (train[1] - train[0], test[0] - train[1], test[1] - test[0]) == (162770, 19867, 19962)
    assert test[1] == CELEBA.count


# --- chairs and 3D faces --------------------------------------------------------------------------


def test_chairs_are_read_from_a_tar_file_with_their_models(tmp_path):
    as_tar(tmp_path / "rendered_chairs.tar", chairs())
    data = picture_dataset(CHAIRS, "train", tmp_path)
    assert data.shape == (3, 64, 64)
    assert torch.equal(data.labels, torch.arange(3).repeat_interleave(62))
    # the picture of model m and view v is grey, 10 + 62 m + v
    assert torch.equal(data.images[:, 0, 32, 32], torch.arange(10, 196).to(torch.uint8))
    assert len(CHAIRS3D.splits) == 0
    assert CHAIRS3D.count == 86_366


def test_faces_are_grey_squares_of_any_number(tmp_path):
    files = {f"b/{i}.png": encoded(np.full((50, 50, 3), 40 * i, np.uint8)) for i in range(4)}
    as_zip(tmp_path / "faces3d.zip", files | {"notes.txt": b"", "b/.hidden.png": b""})
    data = picture_dataset(FACES3D, "all", tmp_path)
    assert data.shape == (1, 64, 64)
    assert torch.equal(data.images[:, 0, 5, 5], torch.arange(0, 160, 40).to(torch.uint8))


def test_pictures_of_their_final_size_are_not_touched(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    as_zip(tmp_path / "faces3d.zip", {"a.png": encoded(noise)})
    assert np.array_equal(picture_dataset(FACES3D, "all", tmp_path).images[0, 0].numpy(), noise)


def test_white_shows_through_a_transparent_picture(tmp_path):
    clear = np.zeros((64, 64, 4), np.uint8)
    clear[:32, :, 3] = 255  # black above, nothing below
    as_zip(tmp_path / "faces3d.zip", {"a.png": encoded(clear)})
    image = picture_dataset(FACES3D, "all", tmp_path).images[0, 0]
    assert (image[:32] == 0).all()
    assert (image[32:] == 255).all()


def test_batches_are_mapped_from_the_cache(tmp_path, bare_machine):
    """The pixels are in one file of the cache, and the data set is a tensor like others."""
    as_tar(tmp_path / "rendered_chairs.tar", chairs())
    data = picture_dataset(CHAIRS, "all", tmp_path)
    (file,) = (bare_machine / "chairs3d").iterdir()
    assert file.stat().st_size == 186 * 3 * 64 * 64 + 32
    assert np.array_equal(np.fromfile(file, np.uint8)[:-32], data.images.flatten().numpy())
    order = torch.tensor([100, 0, 185])
    assert torch.equal(data.take(order), data.images[order].float() / 255)
    images, labels = data.labelled().take(order)
    assert torch.equal(images, data.take(order))
    assert labels.tolist() == [1, 0, 2]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/abs/a.png", "..\\a.png", "C:\\a"])
@pytest.mark.parametrize("pack", [as_zip, as_tar])
def test_an_archive_that_climbs_out_of_itself_is_refused(tmp_path, bare_machine, name, pack):
    path = tmp_path / ("faces3d.zip" if pack is as_zip else "faces3d.tar")
    pack(path, {"ok.png": encoded(np.zeros((64, 64), np.uint8)), name: b"x"})
    with pytest.raises(DamagedFileError, match="lies outside of it"):
        picture_dataset(FACES3D, "all", tmp_path)
    assert not [file for file in bare_machine.rglob("*") if file.is_file()]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_tar_file_with_links_or_devices_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "faces3d.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = kind, "/etc/hostname"
        archive.addfile(member)
    with pytest.raises(DamagedFileError, match=r"holds a (link|device), a\.png"):
        picture_dataset(FACES3D, "all", tmp_path)


def test_a_zip_file_with_links_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "faces3d.zip", "w") as archive:
        member = zipfile.ZipInfo("a.png")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/hostname")
    with pytest.raises(DamagedFileError, match=r"holds a link, a\.png"):
        picture_dataset(FACES3D, "all", tmp_path)


def test_a_file_too_large_for_a_picture_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "faces3d.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes((1 << 24) + 1))
    with pytest.raises(DamagedFileError, match="too large for a picture"):
        picture_dataset(FACES3D, "all", tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice_is_refused(tmp_path):
    picture = encoded(np.zeros((64, 64), np.uint8))
    with zipfile.ZipFile(tmp_path / "faces3d.zip", "w") as archive:
        archive.writestr("a.png", picture)
        archive.writestr("a.png", picture)
    with pytest.raises(DamagedFileError, match=r"a\.png twice"):
        picture_dataset(FACES3D, "all", tmp_path)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
@pytest.mark.parametrize(("source", "pack", "files"), [(FEW, as_zip, faces()),
                                                       (CHAIRS, as_tar, chairs())])  # fmt: skip
def test_a_truncated_archive_is_refused(tmp_path, bare_machine, part, source, pack, files):
    path = tmp_path / source.places[0]
    pack(path, files)
    content = path.read_bytes().rstrip(b"\0")  # a tar file ends in zeros that mean nothing
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(DamagedFileError, match=path.name):
        picture_dataset(source, "all", tmp_path)
    assert not [file for file in bare_machine.rglob("*") if file.is_file()]


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    (tmp_path / "img_align_celeba.zip").write_bytes(b"<html>Quota exceeded</html>")
    with pytest.raises(DamagedFileError, match="neither a folder nor a whole zip or tar file"):
        picture_dataset(FEW, "all", tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", faces(1)["img_align_celeba/000001.jpg"][:900]]
)
def test_a_file_that_is_no_whole_picture_is_named(tmp_path, content):
    as_zip(tmp_path / "img_align_celeba.zip", faces() | {"img_align_celeba/000003.jpg": content})
    with pytest.raises(DamagedFileError, match=r"000003\.jpg in .* is no whole JPEG or PNG"):
        picture_dataset(FEW, "all", tmp_path)


def test_images_of_unequal_size_are_refused(tmp_path):
    wrong = encoded(smooth(178, 217, 0), "JPEG")
    as_zip(tmp_path / "img_align_celeba.zip", faces() | {"img_align_celeba/000002.jpg": wrong})
    with pytest.raises(DamagedFileError, match=r"000002\.jpg in .* 178x217 pixels; expected 178x2"):
        picture_dataset(FEW, "all", tmp_path)
    squares = {f"{i}.png": encoded(np.zeros((30 + i, 30 + i), np.uint8)) for i in range(2)}
    as_zip(tmp_path / "faces3d.zip", squares)
    with pytest.raises(DamagedFileError, match=r"1\.png in .* has 31x31 pixels; expected 30x30"):
        picture_dataset(FACES3D, "all", tmp_path)
    as_zip(tmp_path / "faces3d.zip", {"0.png": encoded(np.zeros((30, 31), np.uint8))})
    with pytest.raises(DamagedFileError, match="31x30 pixels; expected a square"):
        picture_dataset(FACES3D, "all", tmp_path)


@pytest.mark.parametrize("count", [0, 4, 6])
def test_another_number_of_pictures_is_refused(tmp_path, count):
    as_zip(tmp_path / "img_align_celeba.zip", faces(count) | {"readme": b""})
    with pytest.raises(DamagedFileError, match=rf"holds {count} pictures of 'celeba'; expected 5"):
        picture_dataset(FEW, "all", tmp_path)


def test_a_chair_without_all_its_views_is_refused(tmp_path):
    files = chairs()
    moved = "rendered_chairs/b-1/renders/image_007_p020_t007_r096.png"
    files[moved.replace("b-1", "c-2").replace("image_007", "image_099")] = files.pop(moved)
    as_tar(tmp_path / "rendered_chairs.tar", files)
    with pytest.raises(DamagedFileError, match=r"holds 61 pictures in .*b-1/renders; expected 62"):
        picture_dataset(CHAIRS, "all", tmp_path)


@pytest.mark.parametrize(
    ("name", "place", "where"),
    [
        ("celeba", r"img_align_celeba\.zip or img_align_celeba", "mmlab.ie.cuhk.edu.hk"),
        ("chairs3d", r"rendered_chairs\.tar", "seeing3Dchairs"),
        ("faces3d", r"faces3d\.zip", "Basel Face Model"),
    ],
)
def test_without_the_files_load_says_where_to_get_them(tmp_path, monkeypatch, name, place, where):
    with pytest.raises(FileNotFoundError, match=f"Looked for {place}") as caught:
        load(name)
    assert where in str(caught.value)
    assert "TUTOR_DATA, which is not set" in str(caught.value)
    monkeypatch.setenv("TUTOR_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "data" / name)):
        load(name, root=tmp_path)
    assert load(name, fallback="four_points").requested == name


def test_load_reads_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tutor.data, "CELEBA", FEW)
    as_zip(tmp_path / "img_align_celeba.zip", faces())
    data = load("celeba", split="test", root=tmp_path)
    assert (len(data), data.name, data.split) == (1, "celeba", "test")


def test_too_small_a_disk_is_found_before_the_work_begins(bare_machine):
    with pytest.raises(OSError, match=r"are needed, .* are free; free some space"):
        room_for(10**12, (3, 64, 64))
