"""What every page gets: a check that each picture has alt text, repairs to markup that browsers
and screen readers stumble over, and, on notebook pages, a line that says with what, where and
when the outputs were made (the notebook's metadata ``tutor``, written by ``make notebooks``).
"""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

logger = logging.getLogger(__name__)


class _Images(HTMLParser):
    """Collects the <img> tags that have no alt text."""

    def __init__(self) -> None:
        super().__init__()
        self.without_alt: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "img" and not (found.get("alt") or "").strip():
            self.without_alt.append((found.get("src") or "")[:60])


def check_alt_text(app, doctree: nodes.document) -> None:
    """Warn (an error in our build) about each image without alt text."""
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            logger.warning(
                "image without alt text: %s%s",
                Path(image["uri"]).name,
                _cell_of(image),
                location=image,
                type="book",
                subtype="alt",
            )
    for raw in doctree.findall(nodes.raw):
        if "html" not in raw.get("format", "") or "<img" not in raw.astext():
            continue
        parser = _Images()
        parser.feed(raw.astext())
        for source in parser.without_alt:
            logger.warning(
                "image in raw HTML without alt text: %s%s",
                source,
                _cell_of(raw),
                location=raw,
                type="book",
                subtype="alt",
            )


def _cell_of(node: nodes.Node) -> str:
    while node is not None:
        if isinstance(node, nodes.container) and node.get("nb_element") == "cell_code":
            return (
                f" (output of cell {node['cell_index']}, counted from 0; give the cell "
                'the metadata {"mystnb": {"image": {"alt": "..."}}})'
            )
        node = node.parent
    return ""


def mend_tables(app, doctree: nodes.document) -> None:
    """An empty corner cell is no header in a pandas table; in Markdown it gets a hidden word."""
    for raw in doctree.findall(nodes.raw):
        if "html" in raw.get("format", "") and "<th></th>" in raw.astext():
            raw.children = [nodes.Text(raw.astext().replace("<th></th>", "<td></td>"))]
    for head in doctree.findall(nodes.thead):
        for entry in head.findall(nodes.entry):
            if not entry.astext().strip():
                word = nodes.raw("", '<span class="visually-hidden">Row</span>', format="html")
                entry.children = []
                entry += word


REPEATED = {"proof-content", "proof", "exercise-content", "solution-content"}


def drop_repeated_ids(app, doctree: nodes.document, docname: str) -> None:
    """sphinx-proof and sphinx-exercise give all bodies of one kind the same id."""
    for node in doctree.findall(lambda n: isinstance(n, (nodes.section, nodes.admonition))):
        node["ids"] = [name for name in node["ids"] if name not in REPEATED]


def flatten_module_list(app, pagename, templatename, context, doctree) -> None:
    """viewcode nests lists in a way that HTML does not allow."""
    if pagename == "_modules/index":
        title, _, rest = context["body"].partition("<ul>")
        items = rest.replace("<ul>", "").replace("</ul>", "")
        context["body"] = f"{title}<ul>{items}</ul>"


def list_references(app, doctree: nodes.document, docname: str) -> None:
    """References as a plain list: docutils gives citations roles that ARIA has withdrawn."""
    for citation in list(doctree.findall(nodes.citation)):
        parent = citation.parent
        place = parent.index(citation)
        body = [child for child in citation.children if not isinstance(child, nodes.label)]
        item = nodes.list_item("", *body, ids=citation["ids"])
        before = parent[place - 1] if place else None
        if isinstance(before, nodes.bullet_list) and "bibliography" in before["classes"]:
            before += item
            del parent[place]
        else:
            parent[place] = nodes.bullet_list("", item, classes=["bibliography"])


def stamp_text(stamp: dict) -> str:
    """One sentence on how a notebook's outputs were made, from its ``tutor`` metadata."""
    with_what = [f"tutor {stamp['version']}"] if stamp.get("version") else []
    if stamp.get("torch"):
        with_what.append(f"torch {stamp['torch']}")
    parts = []
    if with_what:
        parts.append("with " + " and ".join(with_what))
    if stamp.get("dataset"):
        parts.append(f"on {stamp['dataset']}")
    if stamp.get("device"):
        parts.append(f"({stamp['device']})")
    if stamp.get("seconds") is not None:
        parts.append(f"in {float(stamp['seconds']):.0f} s")
    if stamp.get("date"):
        parts.append(f"on {stamp['date']}" if not stamp.get("dataset") else f", {stamp['date']}")
    if stamp.get("commit"):
        parts.append(f", commit {str(stamp['commit'])[:10]}")
    return ("This page was executed " + " ".join(parts)).replace(" ,", ",") + "."


def add_stamp(app, doctree: nodes.document) -> None:
    source = Path(app.env.doc2path(app.env.docname))
    if source.suffix != ".ipynb":
        return
    metadata = json.loads(source.read_text(encoding="utf-8"))["metadata"]
    if "tutor" not in metadata:
        return
    sections = [node for node in doctree.children if isinstance(node, nodes.section)]
    line = nodes.paragraph("", stamp_text(metadata["tutor"]), classes=["notebook-stamp"])
    (sections[-1] if sections else doctree).append(line)


def setup(app):
    app.connect("doctree-read", check_alt_text)
    app.connect("doctree-read", mend_tables)
    app.connect("doctree-resolved", drop_repeated_ids)
    app.connect("doctree-resolved", list_references)
    app.connect("html-page-context", flatten_module_list)
    app.connect("doctree-read", add_stamp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
