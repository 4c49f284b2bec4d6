"""Make the built book self-contained: no page asks another host for anything.

MathJax comes from the package sphinx-mathjax-offline; only one bundle and its fonts are
copied (1.7 MB of 24 MB). Live figures bring their own ``text/html``, so the ipywidgets
scripts and the saved widget state, which would be fetched from a CDN, are dropped.

The search index of the theme is fetched as a script tag and therefore also works from a
folder on disk.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

MATHJAX = "mathjax/tex-mml-chtml.js"  # relative to _static


def configure(app, config) -> None:
    config.mathjax_path = MATHJAX
    # "defer" instead of "async": formulas are set in one go, before the page is measured.
    config.mathjax_options = {"defer": "defer"}
    # The context menu would offer to load further parts from a CDN.
    config.mathjax3_config = {
        "options": {"enableMenu": False},
        "chtml": {"displayAlign": "center"},
    }
    # sphinx-book-theme shows a second search box otherwise.
    config.html_theme_options["navbar_persistent"] = []
    # Without a default the theme logs "invalid theme mode" on the first visit.
    config.html_context.setdefault("default_mode", "auto")


def drop_widget_state(app, env) -> None:
    for metadata in getattr(env, "nb_metadata", {}).values():
        files = metadata.get("js_files", {})
        for key in [key for key in files if key.startswith("ipywidgets")]:
            del files[key]


def fix_singlehtml(app) -> None:
    """sphinx-exercise registers handlers for "singlehtml" for its own nodes only, which
    hides the html handlers of every other extension from that builder."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:
        handlers["singlehtml"] = {**handlers.get("html", {}), **handlers["singlehtml"]}


def copy_mathjax(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise RuntimeError(
            "the package sphinx-mathjax-offline is missing; install the extra 'book' "
            "(pip install -e '.[book]')"
        )
    source = Path(package.origin).parent / "static/mathjax"
    target = Path(app.outdir) / "_static/mathjax"
    fonts = "output/chtml/fonts"
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copy(source / Path(MATHJAX).name, target)


FIRST_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="icon" href="data:,">
<meta http-equiv="refresh" content="0; url={page}">
</head>
<body><a href="{page}">{title}</a></body>
</html>
"""


def write_index(app, exception) -> None:
    """Lead from index.html to the first page.

    The table of contents writes a bare redirection where there is none.  A browser may stay on
    that page long enough to ask for the icon that it doesn't name, and gets an error; and a request
    for one that it does name would be broken off.  So this page says that it has an empty one.
    """
    if exception or app.builder.name != "html":
        return
    page = f"{app.config.master_doc}.html"
    text = FIRST_PAGE.format(title=app.config.project, page=page)
    (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


def setup(app):
    app.connect("config-inited", configure)
    app.connect("builder-inited", fix_singlehtml)
    app.connect("env-updated", drop_widget_state)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", write_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
