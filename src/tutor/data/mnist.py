"""MNIST and Fashion-MNIST: where their files are, how to know them, how to read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutor.data.dataset import Dataset
from tutor.data.download import RemoteFile, fetch

IMAGES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
LABELS = {"train": "train-labels-idx1-ubyte.gz", "test": "t10k-labels-idx1-ubyte.gz"}


@dataclass(frozen=True)
class IdxSet:
    """One data set in the IDX format of MNIST: four files, and the servers that have them."""

    name: str
    mirrors: tuple[str, ...]
    files: dict[str, RemoteFile]
    classes: tuple[str, ...]


def _files(*files: RemoteFile) -> dict[str, RemoteFile]:
    return {file.name: file for file in files}


# Mirrors compress differently, so these are the SHA-256 of the decompressed bytes. They were
# computed from the files; several public projects that pin those bytes print the same values.
MNIST = IdxSet(
    name="mnist",
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",  # used by torchvision
        "https://storage.googleapis.com/cvdf-datasets/mnist/",  # kept by the CVD Foundation
        "https://raw.githubusercontent.com/fgnt/mnist/master/",
    ),
    files=_files(
        RemoteFile(
            IMAGES["train"], "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        RemoteFile(
            LABELS["train"], "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        RemoteFile(
            IMAGES["test"], "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        RemoteFile(
            LABELS["test"], "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    ),
    classes=tuple(str(digit) for digit in range(10)),
)

# We found no trustworthy source for hashes of the decompressed bytes of Fashion-MNIST. These are
# the SHA-256 of the gzip files, as Keras pins them (keras/src/datasets/fashion_mnist.py). So a copy
# that was compressed anew is refused here, although its images may be right.
FASHION_MNIST = IdxSet(
    name="fashion_mnist",
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",  # used by Keras
    ),
    files=_files(
        RemoteFile(
            IMAGES["train"],
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            hash_of="archive",
        ),
        RemoteFile(
            LABELS["train"],
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            hash_of="archive",
        ),
        RemoteFile(
            IMAGES["test"],
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            hash_of="archive",
        ),
        RemoteFile(
            LABELS["test"],
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            hash_of="archive",
        ),
    ),
    classes=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
)  # fmt: skip


def idx_dataset(source: IdxSet, split: str, *, root: Path | None, download: bool) -> Dataset:
    """Read a split, downloading its two files when they are not on this machine."""
    parts = ("train", "test") if split == "all" else (split,)

    def read(file_name: str) -> Tensor:
        content = fetch(
            source.files[file_name],
            dataset=source.name,
            mirrors=source.mirrors,
            root=root,
            download=download,
        )
        return read_idx(content)

    images = torch.cat([read(IMAGES[part]) for part in parts])
    labels = torch.cat([read(LABELS[part]) for part in parts])
    return Dataset(images, labels, name=source.name, split=split, classes=source.classes)


def read_idx(content: bytes) -> Tensor:
    """Decode an IDX file of bytes: two zeros, the type code 8, the number of dimensions; then the
    size of each dimension as a big-endian 32-bit number; then the values.

    Returns:
        uint8 tensor of the stored shape: ``(N, 28, 28)`` for images, ``(N,)`` for labels.

    Raises:
        ValueError: another format, or a length that does not fit the header.

    Example:
        >>> from tutor.data.mnist import read_idx
        >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
        tensor([7, 2, 1], dtype=torch.uint8)
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"not an IDX file of bytes: it starts with {content[:4].hex(' ')!r}")
    start = 4 + 4 * content[3]
    if content[3] == 0 or len(content) < start:
        raise ValueError(f"an IDX header of {start} bytes was announced, {len(content)} are there")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", content[3], offset=4))
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise ValueError(f"shape {shape} needs {expected} bytes, the file has {len(content)}")
    values = np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    return torch.from_numpy(values.copy())
