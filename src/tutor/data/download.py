"""Files from the network: looked for on this machine, fetched once, verified every time.

A file gets its final name only after its bytes have been verified, by an atomic rename within one
folder. So a download that is interrupted or damaged never leaves a file that a later run would
read, and two processes that download at once don't disturb each other.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import socket
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

CONNECT_SECONDS = 5.0  # a server that has not answered by then is taken as out of reach
STALL_SECONDS = 20.0  # longest silence in the middle of a download
STALE_SECONDS = 3600.0  # a partial file this old belongs to a process that was killed


@dataclass(frozen=True)
class RemoteFile:
    """A gzip file, known by a SHA-256: of its decompressed bytes, or of the archive as it is."""

    name: str
    sha256: str
    hash_of: Literal["content", "archive"] = "content"


class DamagedFileError(ValueError):
    """A file is there, but its bytes are not the ones expected."""


def cache_folder() -> Path:
    """Where downloads are kept: ``TUTOR_CACHE``, or the usual place of the operating system."""
    if chosen := os.environ.get("TUTOR_CACHE"):
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("autoencoder-tutor"))


def fetch(
    file: RemoteFile,
    *,
    dataset: str,
    mirrors: Sequence[str],
    root: Path | None = None,
    download: bool = True,
) -> bytes:
    """The decompressed bytes of ``file``, from the first place that has them.

    Looks in ``root``, in ``TUTOR_DATA`` and in the cache, each with and (for ``root``) without the
    subfolder ``dataset``; then downloads into the cache from each mirror in turn.

    Raises:
        FileNotFoundError: found nowhere; the message says where it looked and how to go on.
        DamagedFileError: the file in ``root`` or ``TUTOR_DATA`` is not the one expected. It is left
            as it is, for those folders are not ours. A damaged file in the cache is fetched again.
        OSError: the cache folder can't be written.
    """
    tried: list[str] = []
    own_folders: list[tuple[str, Path]] = []
    if root is not None:
        own_folders += [("root", root / dataset), ("root", root)]
    if data := os.environ.get("TUTOR_DATA"):
        own_folders.append(("TUTOR_DATA", Path(data).expanduser() / dataset))
    else:
        tried.append("TUTOR_DATA: not set")
    for label, folder in own_folders:
        path = folder / file.name
        if path.is_file():
            try:
                return verified(path.read_bytes(), file)
            except DamagedFileError as error:
                raise DamagedFileError(
                    f"{path} (found through {label}) is not the file that {dataset!r} needs: "
                    f"{error}. Replace or remove it; it was left untouched."
                ) from error
        tried.append(f"{label}: {path} does not exist")

    cache = cache_folder() / dataset
    path = cache / file.name
    if path.is_file():
        try:
            return verified(path.read_bytes(), file)
        except DamagedFileError as error:
            tried.append(f"cache: {path} is damaged ({error})")
            if download:
                print(f"tutor.data: {path} is damaged ({error}); fetching it again.")
    else:
        tried.append(f"cache: {path} does not exist")

    if not download:
        tried.append("download: not allowed (download=False)")
    else:
        unreachable = _unreachable(mirrors)
        for mirror in mirrors:
            url = mirror + file.name
            if mirror in unreachable:
                tried.append(f"{url}: {unreachable[mirror]}")
                continue
            try:
                return _download(url, file, path)
            except _MirrorError as error:
                tried.append(f"{url}: {error}")
    raise FileNotFoundError(_how_to_go_on(file, dataset, cache, tried))


def verified(raw: bytes, file: RemoteFile) -> bytes:
    """Decompress ``raw`` and compare its SHA-256 with the known one.

    Raises:
        DamagedFileError: not gzip, cut short, or other bytes than expected.
    """
    if file.hash_of == "archive":
        _compare_hash(raw, file)
    try:
        content = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFileError(
            f"{len(raw)} bytes that are not a whole gzip file: {error}"
        ) from error
    if file.hash_of == "content":
        _compare_hash(content, file)
    return content


def _compare_hash(data: bytes, file: RemoteFile) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        what = "decompressed bytes" if file.hash_of == "content" else "file"
        raise DamagedFileError(
            f"SHA-256 of the {what} is {found[:12]}..., expected {file.sha256[:12]}..."
        )


class _MirrorError(Exception):
    """This mirror did not deliver; the next one may."""


def _download(url: str, file: RemoteFile, path: Path) -> bytes:
    """Download ``url``, verify it, and only then let it appear at ``path``."""
    import pooch
    import requests
    from tqdm.auto import tqdm

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent
        )
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    try:
        with (
            os.fdopen(handle, "w+b") as stream,
            # pooch replaces the total; a bar that has none counts as false and would not be drawn.
            tqdm(desc=file.name, total=1, unit="B", unit_scale=True, leave=False) as bar,
            contextlib.ExitStack() as responses,
        ):

            def close_later(response: requests.Response, **_: object) -> None:
                # pooch leaves the connection open when a download fails half-way.
                responses.callback(response.close)

            downloader = pooch.HTTPDownloader(
                progressbar=bar,
                chunk_size=1 << 16,
                timeout=(CONNECT_SECONDS, STALL_SECONDS),
                # Else a server may compress once more, or a client undo the compression.
                headers={"Accept-Encoding": "identity"},
                hooks={"response": close_later},
            )
            try:
                downloader(url, stream, None)
            except requests.RequestException as error:  # an OSError too, so it goes first
                raise _MirrorError(_short(error)) from error
            stream.flush()
            os.fsync(stream.fileno())
        try:
            content = verified(Path(temporary).read_bytes(), file)
        except DamagedFileError as error:
            raise _MirrorError(str(error)) from error
        os.replace(temporary, path)
        return content
    except OSError as error:
        raise _cannot_write(path.parent, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):  # gone when it was renamed
            os.unlink(temporary)


def _remove_stale(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


def _unreachable(mirrors: Sequence[str]) -> dict[str, str]:
    """Which mirrors can't be reached, and why, in ``CONNECT_SECONDS`` for all of them together.

    Without this a machine behind a silent firewall would wait for each address of each mirror in
    turn, and for name servers without any limit: minutes, where the reader needs an answer now.
    """
    from requests.utils import get_environ_proxies

    found: dict[str, str] = {}

    def probe(mirror: str) -> None:
        address = urlsplit(mirror)
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname, port), timeout=CONNECT_SECONDS).close()
            found[mirror] = ""
        except OSError as error:
            found[mirror] = _short(error)

    # Through a proxy the mirror itself need not be in reach: let requests find out.
    direct = [mirror for mirror in mirrors if not get_environ_proxies(mirror)]
    threads = [threading.Thread(target=probe, args=(mirror,), daemon=True) for mirror in direct]
    deadline = time.monotonic() + CONNECT_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    silent = f"no answer within {CONNECT_SECONDS:g} seconds"
    reasons = {mirror: found.get(mirror, silent) for mirror in direct}
    return {mirror: reason for mirror, reason in reasons.items() if reason}


def _short(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host name could not be resolved ({error.strerror})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 160 else text[:160] + '...'}"


def _cannot_write(folder: Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    mend = "free some space there" if error.errno == errno.ENOSPC else "make it writable"
    # The same class, so that PermissionError and the like can still be told apart.
    return type(error)(
        error.errno,
        f"the cache folder {folder} can't be written: {reason}; {mend}, or set TUTOR_CACHE to "
        "another folder. Nothing was left behind",
    )


def _how_to_go_on(file: RemoteFile, dataset: str, cache: Path, tried: Sequence[str]) -> str:
    steps = [
        "connect to the network and try again: the file is downloaded once and kept in the cache",
        f"put the *-ubyte.gz files into FOLDER/{dataset} and set TUTOR_DATA=FOLDER, or pass "
        "root=FOLDER",
        f"or put them into the cache folder {cache} (another one: set TUTOR_CACHE)",
        f"load('digits') needs no file; load({dataset!r}, fallback='digits') takes it when "
        f"{dataset!r} can't be had",
    ]
    return "\n".join(
        [
            f"{dataset!r} is neither on this machine nor could it be downloaded.",
            f"Looked for {file.name}:",
            *(f"  - {place}" for place in tried),
            "How to go on:",
            *(f"  - {step}" for step in steps),
        ]
    )
