"""Pictures in a folder, a zip file or a tar file, read one by one: nothing is unpacked."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tutor.data.download import DamagedFileError

LARGEST = 1 << 24  # bytes of a picture's file; no data set here comes near

Read = Callable[[str], bytes]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[list[str], Read]]:
    """The names of the files in a folder, zip or tar, and a function that gives a file's bytes.

    Raises:
        DamagedFileError: not such a file or cut short; a name that is absolute or climbs out with
            ``..``; a link; the same name twice; a file too large for a picture.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.png").write_bytes(b"bytes")
        ...     with opened(Path(folder)) as (names, read):
        ...         print(names, read("a.png"))
        ['a.png'] b'bytes'
    """
    errors = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)
    try:
        with contextlib.ExitStack() as stack:
            if path.is_dir():
                members, read = _folder(path)
            elif zipfile.is_zipfile(path):
                members, read = _zip(stack.enter_context(zipfile.ZipFile(path)), path)
            elif tarfile.is_tarfile(path):
                members, read = _tar(stack.enter_context(tarfile.open(path)), path)
            else:
                raise DamagedFileError(
                    f"{path} is neither a folder nor a whole zip or tar file; get it again"
                )
            for name, size in members:
                _check_member(name, size, path)
            names = sorted(name for name, _ in members)
            for one, other in itertools.pairwise(names):
                if one == other:
                    raise DamagedFileError(f"{path} holds {one} twice")
            yield names, read
    except errors as error:
        raise DamagedFileError(
            f"{path} can't be read: {error}. Get it again; it was left untouched"
        ) from error


def _folder(path: Path) -> tuple[list[tuple[str, int]], Read]:
    files = [file for file in path.rglob("*") if file.is_file()]
    members = [(file.relative_to(path).as_posix(), file.stat().st_size) for file in files]
    return members, lambda name: (path / name).read_bytes()


def _zip(archive: zipfile.ZipFile, path: Path) -> tuple[list[tuple[str, int]], Read]:
    members = []
    for member in archive.infolist():
        if stat.S_ISLNK(member.external_attr >> 16):
            raise DamagedFileError(f"{path} holds a link, {member.filename}; expected pictures")
        if not member.is_dir():
            members.append((member.filename, member.file_size))
    return members, archive.read


def _tar(archive: tarfile.TarFile, path: Path) -> tuple[list[tuple[str, int]], Read]:
    files = {}
    members = []
    for member in archive:  # one pass: a tar file has no directory
        if not (member.isfile() or member.isdir()):
            kind = "a link" if member.issym() or member.islnk() else "a device"
            raise DamagedFileError(f"{path} holds {kind}, {member.name}; expected pictures")
        if member.isfile():
            files[member.name] = member
            members.append((member.name, member.size))

    def read(name: str) -> bytes:
        with archive.extractfile(files[name]) as stream:
            content = stream.read()
        if len(content) != files[name].size:
            raise DamagedFileError(f"{path} is cut short: it ends in {name}")
        return content

    return members, read


def _check_member(name: str, size: int, path: Path) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match(r"[A-Za-z]:", name):
        raise DamagedFileError(
            f"{path} holds a file {name!r}, which lies outside of it; such an archive is not the "
            "one it should be"
        )
    if size > LARGEST:
        raise DamagedFileError(f"{path} holds {name} of {size} bytes, too large for a picture")


def picture_size(content: bytes, name: str) -> tuple[int, int]:
    """Width and height of a JPEG or PNG file.

    Raises:
        DamagedFileError: no picture.
    """
    with _picture(content, name) as image:
        return image.size


def picture(
    content: bytes,
    name: str,
    *,
    channels: int,
    side: int,
    size: tuple[int, int],
    crop: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """A JPEG or PNG file as uint8 ``(channels, side, side)``: cropped, then scaled (Lanczos).

    Where it is transparent, white shows.

    Args:
        content, name: bytes of the file, and what to call it in an error.
        channels: 1 for grey, 3 for colours.
        side: of the result.
        size: the width and height that the picture must have.
        crop: left, upper, right and lower edge of the part to keep.

    Raises:
        DamagedFileError: no picture, cut short, or of another size.
    """
    from PIL import Image

    with _picture(content, name) as image:
        if image.size != size:
            raise DamagedFileError(
                f"{name} has {image.width}x{image.height} pixels; expected {size[0]}x{size[1]}"
            )
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        image = image.convert({1: "L", 3: "RGB"}[channels]).crop(crop)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.LANCZOS)
        return np.asarray(image).reshape(side, side, channels).transpose(2, 0, 1)


@contextlib.contextmanager
def _picture(content: bytes, name: str) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
            yield image
    except DamagedFileError:
        raise
    # What PIL raises on bad bytes: no picture, cut short, a broken chunk, absurdly large.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).partition(" <")[0]  # PIL prints the address of an object
        raise DamagedFileError(f"{name} is no whole JPEG or PNG picture: {reason}") from error
