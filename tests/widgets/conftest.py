"""Pages with live figures, on disk and on a server."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator

import pytest

from tests.widgets.figures import Shown, blobs, colourful, convolutional, shown, vae


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    folder = tmp_path_factory.mktemp("pages")
    colour = vae(colourful, image_shape=(3, 12, 20), likelihood="gaussian", decoder_std=0.1, seed=2)
    return {
        "mlp": shown(folder, "mlp", vae(), blobs(), 250),
        "convolutional": shown(folder, "convolutional", vae(convolutional), blobs(), 60),
        "colour": shown(folder, "colour", colour, blobs(40, (3, 12, 20), labelled=False), 40),
    }


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def origins(pages: dict[str, Shown]) -> Iterator[dict[str, str]]:
    """Where the pages lie: on disk, and on a server of this machine."""
    folder = pages["mlp"].page.parent
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"file": folder.as_uri(), "http": f"http://127.0.0.1:{server.server_port}"}
        server.shutdown()
