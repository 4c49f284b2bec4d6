"""Every equation runs: the tie between a numbered equation and the tests that check it.

``book/_data/equations.json`` is written by ``pytest tests/equations --write-equations``. It
says, for each label, which tests claim it and what they measured, or why it is a definition
that has nothing to measure. This extension

- warns (an error in our build) about a numbered equation or theorem without a label, one that
  no test claims, and a claim whose equation is nowhere in the book;
- puts a small mark beside each equation that leads to its row in the appendix;
- draws the appendix (directive ``equation-ties``) and its counts (``equation-counts``).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

TESTED_KINDS = {"theorem", "lemma", "proposition", "corollary"}
DATA = Path(__file__).parents[1] / "_data" / "equations.json"


class ties_table(nodes.General, nodes.Element):
    """Stands for the appendix until all numbers are known."""


class ties_counts(nodes.General, nodes.Element):
    """Stands for the sentence with the counts."""


class named_equation(nodes.Inline, nodes.Element):
    """Stands for the number of an equation or theorem that a docstring names."""


_NAMED = re.compile(r"(Book equations?: +)([a-z][\w-]*(?:, *[a-z][\w-]*)*)")


def name_equations(app, what, name, obj, options, lines: list[str]) -> None:
    """``Book equation: label`` in a docstring becomes a link to the equation."""
    for i, line in enumerate(lines):
        lines[i] = _NAMED.sub(
            lambda m: m[1] + ", ".join(f":tie:`{label.strip()}`" for label in m[2].split(",")), line
        )


def tie_role(name, rawtext, text, lineno, inliner, options=None, content=None):
    return [named_equation(label=text)], []


class TiesTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.equation_appendix = self.env.docname
        return [ties_table()]


class TiesCounts(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [ties_counts()]


def read_data() -> dict:
    if not DATA.exists():
        return {"equations": {}, "definitions": {}}
    return json.loads(DATA.read_text(encoding="utf-8"))


# -- collecting and checking ------------------------------------------------------------


def _statement(node: nodes.Node) -> dict | None:
    """What is to be tied: a numbered display equation, or a theorem and its like."""
    if isinstance(node, nodes.math_block):
        if node.get("label") or node.get("number") or node.get("numbered"):
            ids = node.get("ids", [])
            return {"label": node.get("label"), "kind": "equation", "id": ids[0] if ids else ""}
    elif node.get("realtype") in TESTED_KINDS:
        kind, label = node["realtype"], node["label"]
        if re.fullmatch(rf"{kind}-\d+", label):  # the name sphinx-proof invents
            label = None
        return {
            "label": label,
            "kind": kind,
            "counter": node["countertype"],
            "id": node["ids"][0],
        }
    return None


def collect(app, doctree: nodes.document) -> None:
    env = app.env
    if not hasattr(env, "equation_ties"):
        env.equation_ties = {}
    found = []
    for node in doctree.findall(nodes.Element):
        statement = _statement(node)
        if statement is None:
            continue
        if not statement["label"]:
            logger.warning(
                "%s without a label: nothing can be tied to it",
                "numbered equation" if statement["kind"] == "equation" else statement["kind"],
                location=node,
                type="ties",
                subtype="unlabelled",
            )
            continue
        found.append(statement)
    env.equation_ties[env.docname] = found


def purge(app, env, docname: str) -> None:
    getattr(env, "equation_ties", {}).pop(docname, None)


def merge(app, env, docnames, other) -> None:
    if not hasattr(env, "equation_ties"):
        env.equation_ties = {}
    env.equation_ties.update(getattr(other, "equation_ties", {}))
    if hasattr(other, "equation_appendix"):
        env.equation_appendix = other.equation_appendix


def check(app, env) -> None:
    data = read_data()
    claimed, defined = set(data["equations"]), set(data["definitions"])
    in_book: dict[str, str] = {}
    for docname, found in getattr(env, "equation_ties", {}).items():
        for statement in found:
            in_book[statement["label"]] = docname
    for label, docname in sorted(in_book.items()):
        if label not in claimed | defined:
            logger.warning(
                "no test claims %r: mark one in tests/equations with "
                '@pytest.mark.equation("%s"), or name it in tests/equations/definitions.toml; '
                "then run pytest tests/equations --write-equations",
                label,
                label,
                location=docname,
                type="ties",
                subtype="untested",
            )
    for label in sorted((claimed | defined) - set(in_book)):
        what = "a test claims" if label in claimed else "definitions.toml names"
        logger.warning(
            "%s %r, which is no equation or theorem of the book",
            what,
            label,
            type="ties",
            subtype="unknown",
        )
    for label in sorted(claimed & defined):
        logger.warning(
            "%r has a test and is also called a definition", label, type="ties", subtype="both"
        )


def outdated(app, env, added, changed, removed) -> set[str]:
    """The marks are part of every page, so new results mean that every page is written."""
    digest = hashlib.sha256(DATA.read_bytes() if DATA.exists() else b"").hexdigest()
    old, env.equation_digest = getattr(env, "equation_digest", digest), digest
    return set(env.found_docs) if old != digest else set()


# -- drawing ------------------------------------------------------------------------------


def _number(env, docname: str, statement: dict) -> str:
    counter = "displaymath" if statement["kind"] == "equation" else statement["counter"]
    number = env.toc_fignumbers.get(docname, {}).get(counter, {}).get(statement["id"], ())
    text = ".".join(map(str, number))
    return f"({text})" if statement["kind"] == "equation" else f"{statement['kind'].title()} {text}"


def _reference(builder, page: str, target: str, anchor: str, *children, **attributes):
    return nodes.reference(
        "",
        "",
        *children,
        internal=True,
        refuri=builder.get_relative_uri(page, target) + "#" + anchor,
        **attributes,
    )


def _named(app, docname: str, label: str) -> nodes.Node:
    for page, found in getattr(app.env, "equation_ties", {}).items():
        for statement in found:
            if statement["label"] == label:
                number = nodes.Text(_number(app.env, page, statement))
                return _reference(app.builder, docname, page, statement["id"], number)
    logger.warning(
        "a docstring names the equation %r, which is not in the book",
        label,
        location=docname,
        type="ties",
        subtype="unknown",
    )
    return nodes.literal("", label)


def _mark(app, docname: str, label: str, data: dict) -> nodes.raw | None:
    appendix = getattr(app.env, "equation_appendix", None)
    if appendix is None or app.builder.format != "html":
        return None
    uri = app.builder.get_relative_uri(docname, appendix) + f"#tie-{label}"
    if label in data["definitions"]:
        kind, text = "definition", "a definition or bound, nothing to measure: see the appendix"
    else:
        kind, text = "tested", "tested: see the appendix"
    return nodes.raw(
        "",
        f'<a class="tie tie-{kind}" href="{uri}" title="{text}">'
        f'<span class="visually-hidden">{text}</span></a>',
        format="html",
    )


def draw(app, doctree: nodes.document, docname: str) -> None:
    data = read_data()
    for node in list(doctree.findall(nodes.Element)):
        statement = _statement(node)
        if statement is None or not statement["label"]:
            continue
        mark = _mark(app, docname, statement["label"], data)
        if mark is None:
            continue
        if statement["kind"] == "equation":
            box = nodes.container(classes=["tied-equation"])
            # not replace_self: it would give the box the equation's id a second time
            parent = node.parent
            parent[parent.index(node)] = box
            box += [node, mark]
        else:
            node.next_node(nodes.title).append(mark)
    for place in list(doctree.findall(named_equation)):
        place.replace_self(_named(app, docname, place["label"]))
    for place in list(doctree.findall(ties_table)):
        place.replace_self(_tables(app, docname, data))
    for place in list(doctree.findall(ties_counts)):
        place.replace_self(_counts(app.env, data))


def _counts(env, data: dict) -> nodes.paragraph:
    labels = {s["label"]: s["kind"] for found in env.equation_ties.values() for s in found}
    equations = [label for label, kind in labels.items() if kind == "equation"]
    theorems = [label for label, kind in labels.items() if kind != "equation"]
    tested = [label for label in labels if label in data["equations"]]
    defined = [label for label in labels if label in data["definitions"]]
    tests = {row["test"] for label in tested for row in data["equations"][label]}

    def some(count: int, word: str) -> str:
        return f"{count} {word}" if count == 1 else f"{count} {word}s"

    return nodes.paragraph(
        "",
        f"The book has {some(len(equations), 'numbered equation')} and "
        f"{some(len(theorems), 'theorem')} (lemmas, propositions and corollaries counted among "
        f"them). {len(tested)} of them are checked by {some(len(tests), 'test')}; "
        f"{len(defined)} are definitions or bounds with nothing to measure, marked as such.",
    )


def _tables(app, docname: str, data: dict) -> list[nodes.Node]:
    env, out = app.env, []
    ties = getattr(env, "equation_ties", {})
    for page in _reading_order(env):
        if not ties.get(page):
            continue
        out.append(nodes.rubric("", env.titles[page].astext()))
        out.append(_table(app, docname, page, ties[page], data))
    return out


def _reading_order(env) -> list[str]:
    order, todo = [], [env.config.root_doc]
    while todo:
        page = todo.pop(0)
        if page not in order:
            order.append(page)
            todo = list(env.toctree_includes.get(page, [])) + todo
    return order


def _table(app, docname: str, page: str, statements: list[dict], data: dict) -> nodes.table:
    heads = ["Equation", "What is compared, and the test", "Tolerance, and why", "Measured"]
    group = nodes.tgroup(cols=len(heads))
    for width in (14, 44, 30, 12):
        group += nodes.colspec(colwidth=width)
    group += nodes.thead("", nodes.row("", *[_entry(nodes.Text(head)) for head in heads]))
    body = nodes.tbody()
    for statement in statements:
        label = statement["label"]
        link = _reference(
            app.builder,
            docname,
            page,
            statement["id"],
            nodes.Text(_number(app.env, page, statement)),
        )
        first = _entry(link, nodes.Text(" "), nodes.literal("", label))
        first["ids"] = [f"tie-{label}"]
        rows = data["equations"].get(label, [])
        if not rows:
            reason = data["definitions"].get(label, "no test")
            first_row = nodes.row("", first, _entry(nodes.Text(reason)), _entry(), _entry())
            first_row["classes"] = ["tie-definition-row"]
            body += first_row
        for i, row in enumerate(rows):
            what = _entry(nodes.Text(row["what"]))
            what += nodes.paragraph("", "", nodes.literal("", row["test"]), classes=["tie-test"])
            sign = "at most" if row["kind"] == "equal" else "excess at most"
            body += nodes.row(
                "",
                first if i == 0 else _entry(),
                what,
                _entry(nodes.Text(f"{sign} {row['tolerance']:g}: {row['why']}")),
                _entry(nodes.Text(f"{row['difference']:.2g}")),
            )
    group += body
    return nodes.table("", group, classes=["ties", "colwidths-given"])


def _entry(*children: nodes.Node) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", "", *children)) if children else nodes.entry("")


def setup(app):
    app.add_node(ties_table)
    app.add_node(ties_counts)
    app.add_node(named_equation)
    app.add_role("tie", tie_role)
    app.add_directive("equation-ties", TiesTable)
    app.add_directive("equation-counts", TiesCounts)
    app.connect("autodoc-process-docstring", name_equations, priority=400)
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("env-check-consistency", check)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-resolved", draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
