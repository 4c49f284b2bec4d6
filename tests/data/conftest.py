"""A web server that misbehaves on demand, and a machine without data, cache or network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest


class Request(NamedTuple):
    """What a mirror of the tests may do: look at the path, then answer in its own way."""

    handler: BaseHTTPRequestHandler
    name: str

    def answer(self, body: bytes, *, announce: int | None = None, status: int = 200) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Length", str(len(body) if announce is None else announce))
        self.handler.end_headers()
        self.handler.wfile.write(body)
        self.handler.wfile.flush()


class Mirrors:
    """One server; ``/name/`` is the mirror called ``name``."""

    def __init__(self) -> None:
        self.behaviour: dict[str, Callable[[Request], None]] = {}
        self.asked: list[str] = []
        self.released = threading.Event()  # set at the end, so that no mirror hangs for ever
        mirrors = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                _, mirror, name = self.path.split("/", 2)
                mirrors.asked.append(f"{mirror}/{name}")
                mirrors.behaviour[mirror](Request(self, name))

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # a client that was killed breaks the pipe; that is the test

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self.thread.start()

    def __call__(self, name: str, behaviour: Callable[[Request], None]) -> str:
        self.behaviour[name] = behaviour
        return f"http://127.0.0.1:{self.server.server_port}/{name}/"

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    server = Mirrors()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No data folder, an empty cache, and no proxy between us and the local server."""
    monkeypatch.delenv("TUTOR_DATA", raising=False)
    monkeypatch.setenv("TUTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch):
    """Every host name fails to resolve, at once, as on a machine without network."""

    def getaddrinfo(*_: object, **__: object):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
