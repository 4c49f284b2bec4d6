"""Downloads: whatever goes wrong, no bad file is left and the reader is told what to do."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tutor.data import DamagedFileError, cache_folder
from tutor.data.download import STALE_SECONDS, RemoteFile, fetch, verified

CONTENT = bytes(range(256)) * 800  # 200 kB: several chunks of a download
ARCHIVE = gzip.compress(CONTENT, mtime=0)
FILE = RemoteFile("small-ubyte.gz", hashlib.sha256(CONTENT).hexdigest())


def whole(request):
    request.answer(ARCHIVE)


def missing(request):
    request.answer(b"not here", status=404)


def truncated(request):
    request.answer(ARCHIVE[: len(ARCHIVE) // 2])


def closes_midway(request):
    request.answer(ARCHIVE[: len(ARCHIVE) // 2], announce=len(ARCHIVE))


def another_file(request):
    request.answer(gzip.compress(b"a page that says: sign in to this network"))


def get(*mirrors, download=True, root=None, file=FILE):
    return fetch(file, dataset="small", mirrors=mirrors, root=root, download=download)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_mirrors_are_tried_in_turn_until_one_has_the_right_bytes(mirrors, bare_machine):
    urls = [mirrors("a", missing), mirrors("b", truncated), mirrors("c", whole)]
    assert get(*urls) == CONTENT
    assert mirrors.asked == ["a/small-ubyte.gz", "b/small-ubyte.gz", "c/small-ubyte.gz"]
    assert files_in(bare_machine) == ["small-ubyte.gz"]
    assert (bare_machine / "small" / "small-ubyte.gz").read_bytes() == ARCHIVE


def test_a_second_call_reads_the_cache(mirrors):
    url = mirrors("a", whole)
    assert get(url) == get(url) == get(url, download=False) == CONTENT
    assert mirrors.asked == ["a/small-ubyte.gz"]


def test_a_mirror_that_compresses_otherwise_is_as_good(mirrors):
    stored = gzip.compress(CONTENT, compresslevel=1, mtime=12345)
    assert stored != ARCHIVE
    assert get(mirrors("a", lambda request: request.answer(stored))) == CONTENT


@pytest.mark.parametrize("bad", [truncated, closes_midway, another_file, missing])
def test_a_bad_download_leaves_nothing_and_says_which_mirror_failed(bad, mirrors, bare_machine):
    url = mirrors("only", bad)
    with pytest.raises(FileNotFoundError) as info:
        get(url)
    assert files_in(bare_machine) == []
    assert url + "small-ubyte.gz" in str(info.value)


def test_each_mirror_is_listed_with_its_own_error(mirrors):
    urls = [mirrors("a", missing), mirrors("b", truncated), mirrors("c", another_file)]
    with pytest.raises(FileNotFoundError) as info:
        get(*urls)
    a, b, c = (next(line for line in str(info.value).splitlines() if url in line) for url in urls)
    assert "404" in a
    assert "not a whole gzip file" in b
    assert "SHA-256 of the decompressed bytes" in c
    assert FILE.sha256[:12] in c


def test_a_hash_of_the_archive_refuses_the_same_content_compressed_anew(mirrors):
    file = RemoteFile("small-ubyte.gz", hashlib.sha256(ARCHIVE).hexdigest(), hash_of="archive")
    assert verified(ARCHIVE, file) == CONTENT
    with pytest.raises(DamagedFileError, match="SHA-256 of the file"):
        verified(gzip.compress(CONTENT, compresslevel=1, mtime=1), file)


@pytest.mark.parametrize("position", [0, 3, 12, 400, -1])
def test_one_wrong_byte_anywhere_in_the_archive_is_seen(position):
    # 0: magic number; 3: flags; 12: compressed data; 400: later data; -1: stored length.
    spoilt = bytearray(ARCHIVE)
    spoilt[position] ^= 0xFF
    with pytest.raises(DamagedFileError):
        verified(bytes(spoilt), FILE)


@pytest.mark.parametrize(
    "spoilt", [b"", ARCHIVE[:-9], b"<html>", gzip.compress(CONTENT + b"!"), ARCHIVE + b"junk"]
)
def test_a_damaged_file_in_the_cache_is_named_and_fetched_again(
    spoilt, mirrors, bare_machine, capsys
):
    path = bare_machine / "small" / "small-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(spoilt)
    assert get(mirrors("a", whole)) == CONTENT
    out = capsys.readouterr().out
    assert str(path) in out
    assert "damaged" in out
    assert "fetching it again" in out
    assert path.read_bytes() == ARCHIVE


def test_a_damaged_cache_without_download_is_reported(bare_machine):
    path = bare_machine / "small" / "small-ubyte.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"junk")
    with pytest.raises(FileNotFoundError, match=r"is damaged") as info:
        get("http://127.0.0.1:1/", download=False)
    assert "download=False" in str(info.value)
    assert path.read_bytes() == b"junk"


@pytest.mark.parametrize("place", ["root", "root/small", "TUTOR_DATA"])
def test_the_readers_own_folders_are_looked_at_first_and_never_changed(
    place, tmp_path, mirrors, monkeypatch
):
    root = tmp_path / "mine"
    folder = root if place == "root" else root / "small"
    folder.mkdir(parents=True)
    path = folder / "small-ubyte.gz"
    if place == "TUTOR_DATA":
        monkeypatch.setenv("TUTOR_DATA", str(root))
        root = None
    url = mirrors("a", whole)

    path.write_bytes(ARCHIVE)
    assert get(url, root=root) == CONTENT
    assert mirrors.asked == []

    path.write_bytes(b"junk")
    with pytest.raises(DamagedFileError, match="left untouched") as info:
        get(url, root=root)
    assert str(path) in str(info.value)
    assert path.read_bytes() == b"junk"
    assert mirrors.asked == []


def test_no_network_no_cache_says_what_was_tried_and_how_to_go_on(no_network, bare_machine):
    urls = ["https://one.example/", "https://two.example/"]
    with pytest.raises(FileNotFoundError) as info:
        get(*urls)
    text = str(info.value)
    for url in urls:
        assert f"{url}small-ubyte.gz: the host name could not be resolved" in text
    for part in (str(bare_machine), "TUTOR_DATA", "TUTOR_CACHE", "digits", "fallback="):
        assert part in text
    assert not bare_machine.exists()  # nothing was even created


def test_silent_mirrors_cost_one_time_limit_together(monkeypatch):
    monkeypatch.setattr("tutor.data.download.CONNECT_SECONDS", 0.5)
    hang = threading.Event()

    def never(*_: object, **__: object):
        hang.wait(20)
        raise TimeoutError("too late")

    monkeypatch.setattr(socket, "create_connection", never)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"no answer within 0\.5 seconds"):
        get(*(f"https://{n}.example/" for n in range(10)))
    # Half a second for all ten; one after the other they would take five seconds at least.
    assert time.monotonic() - start < 4
    hang.set()


def test_a_file_where_the_cache_folder_should_be(mirrors, tmp_path, monkeypatch):
    # Permissions don't bind root, so this is how a folder that can't be written is made here.
    blocker = tmp_path / "blocker"
    blocker.write_text("I am a file")
    monkeypatch.setenv("TUTOR_CACHE", str(blocker))
    with pytest.raises(OSError, match="can't be written") as info:
        get(mirrors("a", whole))
    assert str(blocker) in str(info.value)
    assert "TUTOR_CACHE" in str(info.value)
    assert blocker.read_text() == "I am a file"


def test_a_full_disk(mirrors, bare_machine, monkeypatch):
    real_fdopen = os.fdopen

    def fdopen(*args: object):
        stream = real_fdopen(*args)

        class Full:
            """The first chunk fits, the second does not."""

            written = 0

            def __enter__(self):
                return self

            def __exit__(self, *_: object) -> None:
                stream.close()

            def write(self, data: bytes) -> int:
                if self.written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.written += len(data)
                return stream.write(data)

            def flush(self) -> None:
                stream.flush()

        return Full()

    monkeypatch.setattr(os, "fdopen", fdopen)
    noise = os.urandom(300_000)  # incompressible, so that it takes several chunks
    file = RemoteFile("small-ubyte.gz", hashlib.sha256(noise).hexdigest())
    url = mirrors("a", lambda request: request.answer(gzip.compress(noise)))
    with pytest.raises(OSError, match="No space left on device") as info:
        get(url, file=file)
    assert info.value.errno == errno.ENOSPC
    assert str(bare_machine) in str(info.value)
    assert "free some space" in str(info.value)
    assert files_in(bare_machine) == []


def test_partial_files_of_killed_processes_are_swept_but_young_ones_kept(mirrors, bare_machine):
    folder = bare_machine / "small"
    folder.mkdir(parents=True)
    old, young = folder / ".a.gz.1.part", folder / ".b.gz.2.part"
    for path in (old, young):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * STALE_SECONDS
    os.utime(old, (long_ago, long_ago))
    get(mirrors("a", whole))
    assert files_in(folder) == [young.name, "small-ubyte.gz"]


def test_the_cache_is_a_folder_of_the_user_unless_told_otherwise(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TUTOR_CACHE")
    assert cache_folder().name == "autoencoder-tutor"


CHILD = f"""
import sys
from tutor.data.download import RemoteFile, fetch
file = RemoteFile("small-ubyte.gz", {FILE.sha256!r})
print("ready", flush=True)
sys.stdin.readline()
content = fetch(file, dataset="small", mirrors=[sys.argv[1]])
assert len(content) == {len(CONTENT)}
print("done")
"""


def start_child(url: str) -> subprocess.Popen[str]:
    """A process that has its imports behind it and waits for a line before it downloads."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_download_killed_midway_leaves_no_file_that_would_be_read(mirrors, bare_machine):
    half = ARCHIVE[: len(ARCHIVE) // 2]

    def hangs_midway(request):
        request.answer(half, announce=len(ARCHIVE))
        mirrors.released.wait(120)

    child = start_child(mirrors("slow", hangs_midway))
    try:
        assert child.stdout.readline() == "ready\n", child.communicate()
        child.stdin.write("go\n")
        child.stdin.flush()
        deadline = time.monotonic() + 60
        while not (bare_machine / "small").exists() or not files_in(bare_machine):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline, "the child has not begun to download"
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert "small-ubyte.gz" not in files_in(bare_machine)
    with pytest.raises(FileNotFoundError):
        get(download=False)
    assert get(mirrors("good", whole)) == CONTENT


def test_two_processes_that_download_at_once_both_get_the_file(mirrors, bare_machine):
    both_are_in = threading.Barrier(2, timeout=60)

    def together(request):
        both_are_in.wait()  # neither is answered before the other has asked
        request.answer(ARCHIVE)

    url = mirrors("a", together)
    children = [start_child(url) for _ in range(2)]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 2
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    ends = [child.communicate(timeout=120) for child in children]
    for child, (out, err) in zip(children, ends, strict=True):
        assert child.returncode == 0, err
        assert out == "done\n"
    assert len(mirrors.asked) == 2
    assert files_in(bare_machine) == ["small-ubyte.gz"]
    assert (bare_machine / "small" / "small-ubyte.gz").read_bytes() == ARCHIVE
