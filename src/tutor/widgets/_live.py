"""The ground of every live figure: one module for notebooks and pages, and a still picture."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets

from tutor.palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VIEW = "application/vnd.jupyter.widget-view+json"

PALETTE_ON_DARK: tuple[str, ...] = (
    "#646f9b",
    "#e94e00",
    "#169b85",
    "#fff4e9",
    "#ffc800",
    "#900bff",
    "#6fdeff",
    "#b14e37",
    "#9bc885",
    "#c859e9",
)
"""The class colours of `tutor.palette` for the dark page, where half of those would drown.

Near their hues, with a contrast of at least 2.9:1 on the dark ground, and any two at least 24 apart
in CIELAB in the same four views (a test checks both)."""


def source(name: str) -> str:
    """The text of a file that lies beside this one."""
    return files("tutor.widgets").joinpath(name).read_text(encoding="utf-8")


def bundle(*names: str) -> str:
    """Several ES modules as one, in order; only the last one keeps its export.

    Each file stays a module of its own, with imports from its neighbours.  Joined they need
    neither, and a notebook or page has one file to carry.

    Example:
        >>> "import" in bundle("page.js", "runtime.js", "plane.js", "latent_explorer.js")
        False
    """
    texts = [re.sub(r'^import [^;]*? from "\./[^"]*";\n', "", source(n), flags=re.M) for n in names]
    texts[:-1] = [re.sub(r"^export ", "", text, flags=re.M) for text in texts[:-1]]
    return "\n".join(texts)


def stylesheet(*names: str) -> str:
    """Several style sheets as one, with the class colours of both themes."""
    shades = [
        f"{selector} {{ "
        + " ".join(f"--tutor-class-{i}: {c};" for i, c in enumerate(colours))
        + " }"
        for selector, colours in (
            (".tutor-figure", PALETTE),
            ('.tutor-figure[data-theme="dark"]', PALETTE_ON_DARK),
        )
    ]
    return "\n".join([*map(source, names), *shades])


class LiveFigure(anywidget.AnyWidget):
    """A widget that shows itself three ways: live in a notebook, live in a page, as a picture.

    A display carries the picture (PNG) always, and the widget's view for a running kernel.  When
    the environment has ``TUTOR_STATIC_WIDGETS=1``, as it has while the book's notebooks are
    executed, it carries instead of the view one piece of HTML that holds the module, the data and
    the picture, and needs neither kernel nor network.  Everything follows from the figure's state,
    so displaying it again gives the same bytes.

    Subclasses set ``_esm`` and ``_css`` (see `bundle`), declare their state as synced traits, and
    define `picture`.

    Args:
        alt: what the picture shows, for readers who don't see it.

    Raises:
        ValueError: if ``alt`` is blank.
    """

    alt = traitlets.Unicode().tag(sync=True)

    # ipywidgets 7 displays through this method, which knows nothing of pictures.  Without it
    # IPython asks for the MIME bundle below, as it does under ipywidgets 8.
    _ipython_display_ = None

    def __init__(self, *, alt: str, **state: Any) -> None:
        if not alt.strip():
            raise ValueError("alt is empty; say in a sentence what the figure shows")
        super().__init__(alt=alt, **state)

    def picture(self) -> Figure:
        """The static picture, a matplotlib figure made without pyplot."""
        raise NotImplementedError(f"{type(self).__name__} must define picture()")

    def to_png(self) -> bytes:
        """The static picture as a PNG of few colours, small enough to travel in a notebook.

        The notebook's style (dashes, grid lines) does not reach it.
        """
        import matplotlib.style
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        with matplotlib.style.context(["default", {"image.interpolation": "nearest"}]):
            canvas = FigureCanvasAgg(self.picture())
            canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        out = io.BytesIO()
        image.quantize(128, dither=Image.Dither.NONE).save(out, format="png", optimize=True)
        return out.getvalue()

    def to_html(self) -> str:
        """The figure as HTML that runs by itself: no kernel, no other file, no network."""
        return self._html_around(self.to_png())

    def _html_around(self, png: bytes) -> str:
        state: dict[str, Any] = {}
        binary: dict[str, str] = {}
        inherited = anywidget.AnyWidget.class_traits()
        for name in sorted(self.trait_names(sync=True)):
            if name in inherited or name.startswith("_"):
                continue
            value = getattr(self, name)
            if isinstance(value, bytes):
                binary[name] = base64.b64encode(value).decode()
            else:
                state[name] = value
        payload = json.dumps({"state": state, "bytes": binary}, sort_keys=True)
        module, mount = str(self._esm), source("mount.js")
        key = hashlib.sha256((payload + module + mount).encode()).hexdigest()[:12]
        script = module.replace("export default ", "const figure = ") + mount.replace("KEY", key)
        picture = base64.b64encode(png).decode()
        # "</script" or "<!--" within a script would end or swallow it; in JSON, "<\/" is "</".
        payload = payload.replace("</", "<\\/").replace("<!--", "<\\u0021--")
        return (
            f'<div class="tutor-live" data-tutor-live="{key}">'
            f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{picture}"></div>\n'
            f"<style>\n{self._css}\n</style>\n"
            f'<script type="application/json" data-tutor-state="{key}">{payload}</script>\n'
            f'<script type="module">\n{script}</script>'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        if hasattr(super(), "_repr_mimebundle_"):
            data, metadata = super()._repr_mimebundle_(**kwargs)
        else:  # the first releases of anywidget 0.9, under ipywidgets 7
            view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
            data, metadata = {"text/plain": repr(self), VIEW: view}, {}
        png = self.to_png()
        data = {**data, "image/png": base64.b64encode(png).decode()}
        metadata = {**metadata, "image/png": {"alt": self.alt}}
        if os.environ.get("TUTOR_STATIC_WIDGETS") == "1":
            # A stored view would only say that its kernel is gone, in front of what works.
            data.pop(VIEW, None)
            metadata.pop(VIEW, None)
            data["text/html"] = self._html_around(png)
        return data, metadata
