"""Files that a reader has: finding them, and keeping their images as plain bytes in the cache.

Pictures and archives are read once, image by image; what is kept is mapped into memory, so that
only the parts that are looked at are there.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutor.data.download import DamagedFileError, _cannot_write, _remove_stale, cache_folder

_DIGEST = 32  # bytes of the SHA-256 that ends a kept file
_BLOCK = 1 << 24


def find_own(places: Sequence[str], *, dataset: str, how: str, root: Path | None) -> Path:
    """The first of the named files or folders that is in ``root``, ``TUTOR_DATA`` or the cache.

    Args:
        places: names of files or folders, any of which will do.
        dataset: name of the data set, and of the subfolder that may hold the files.
        how: one sentence that says where the files come from.
        root: a folder that is looked at first, with and without the subfolder.

    Raises:
        FileNotFoundError: found nowhere; the message says where it looked and how to go on.
    """
    folders = [] if root is None else [root / dataset, root]
    if data := os.environ.get("TUTOR_DATA"):
        folders.append(Path(data).expanduser() / dataset)
    folders.append(cache_folder() / dataset)
    for folder in folders:
        for place in places:
            if (folder / place).exists():
                return folder / place
    raise FileNotFoundError(
        "\n".join(
            [
                f"the files of {dataset!r} are not on this machine, and can't be downloaded by us.",
                f"Looked for {' or '.join(places)} in:",
                *(f"  - {folder}" for folder in folders),
                *([] if data else ["  - TUTOR_DATA, which is not set"]),
                "How to go on:",
                f"  - {how}",
                f"  - put the file into FOLDER/{dataset} and set TUTOR_DATA=FOLDER, or pass "
                f"root=FOLDER, or put it into {folders[-1]}",
            ]
        )
    )


def stamp(path: Path) -> str:
    """What tells a file or folder from its later versions: where it is, sizes, times of change."""
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256(str(path.resolve()).encode())
    for file in files:
        status = file.stat()
        entry = f"|{file.relative_to(path).as_posix()} {status.st_size} {status.st_mtime_ns}"
        digest.update(entry.encode())
    return digest.hexdigest()


def kept(source: Path, recipe: str, shape: Sequence[int], pieces: Iterable[np.ndarray]) -> Tensor:
    """Images as uint8 ``(N, *shape)``, mapped from a file of the cache.

    Where there is no such file for this source and recipe, or a damaged one, it is made from the
    pieces.  It gets its name when it is whole, and ends in a SHA-256 that is checked at each call.

    Args:
        source: the file or folder that the pieces are read from.
        recipe: what is made of it, starting with the data set's name.
        shape: of one image.
        pieces: arrays ``(n, *shape)``, uint8; taken only when the file must be made.

    Raises:
        OSError: the cache can't be written.  Whatever the pieces raise is passed on, and nothing
            stays behind.

    Example:
        >>> import os, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     os.environ["TUTOR_CACHE"] = folder
        ...     source = pathlib.Path(folder, "own")
        ...     _ = source.write_bytes(b"")
        ...     print(kept(source, "dots 2", (2,), iter([np.array([[1, 2], [3, 4]], np.uint8)])))
        tutor.data: reading ...own, once; its images are kept in ...dots.
        tensor([[1, 2],
                [3, 4]], dtype=torch.uint8)
        >>> del os.environ["TUTOR_CACHE"]
    """
    name = hashlib.sha256(f"{recipe}|{tuple(shape)}|{stamp(source)}".encode()).hexdigest()[:12]
    path = cache_folder() / recipe.split()[0] / f"pixels-{name}.bin"
    news = f"reading {source}, once; its images are kept in {path.parent}"
    return mapped(path, shape, pieces, news=news)


def mapped(path: Path, shape: Sequence[int], pieces: Iterable[np.ndarray], *, news: str) -> Tensor:
    """As :func:`kept`, with the file of the cache named, and what to print when it must be made."""
    if path.exists() and not _whole(path):
        print(f"tutor.data: {path} is damaged; it is made again.")
        path.unlink()
    if not path.exists():
        print(f"tutor.data: {news}.")
        _write(path, shape, pieces)
    length = path.stat().st_size - _DIGEST
    images = torch.from_file(str(path), shared=False, size=length, dtype=torch.uint8)
    return images.view(-1, *shape)


def _whole(path: Path) -> bool:
    """Whether the file ends in the SHA-256 of what comes before."""
    left = path.stat().st_size - _DIGEST
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while left > 0:
            block = file.read(min(left, _BLOCK))
            digest.update(block)
            left -= len(block)
        return left == 0 and file.read() == digest.digest()


def _write(path: Path, shape: Sequence[int], pieces: Iterable[np.ndarray]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part",
                                             dir=path.parent)  # fmt: skip
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            digest = hashlib.sha256()
            for piece in pieces:
                if piece.dtype != np.uint8 or piece.shape[1:] != tuple(shape):
                    raise ValueError(f"a piece is {piece.dtype} {piece.shape}; expected (n, "
                                     f"{', '.join(map(str, shape))}) of uint8")  # fmt: skip
                piece = np.ascontiguousarray(piece)
                digest.update(piece)
                _put(file, piece.data, path.parent)
            _put(file, digest.digest(), path.parent)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _put(file, content: memoryview | bytes, folder: Path) -> None:
    try:
        file.write(content)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def room_for(count: int, shape: Sequence[int]) -> None:
    """Refuse to begin where the cache has no room for so many images.

    Raises:
        OSError: too little space is free.
    """
    folder = cache_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    need, free = count * math.prod(shape), shutil.disk_usage(there).free
    if need > free:
        reason = f"{need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        raise _cannot_write(folder, OSError(errno.ENOSPC, reason))


def blocks(stream, count: int, size: int, together: int, path: Path) -> Iterator[np.ndarray]:
    """``count`` rows of ``size`` bytes from a stream, ``together`` at a time: uint8 ``(n, size)``.

    Raises:
        DamagedFileError: the stream ends early, or goes on.
    """
    for first in range(0, count, together):
        n = min(together, count - first)
        content = stream.read(n * size)
        if len(content) != n * size:
            raise DamagedFileError(
                f"{path} is cut short: it ends in image {first + len(content) // size} of {count}"
            )
        yield np.frombuffer(content, np.uint8).reshape(n, size)
    if stream.read(1):  # a zip file compares its check sum when the end is reached
        raise DamagedFileError(f"{path} holds more than the {count} images that it announces")
