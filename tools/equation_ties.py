"""The ties between the book's equations and the tests that check them.

Three sources must agree: the labels in the book's pages, the claims in ``tests/equations``
(``@pytest.mark.equation("label")``) together with ``definitions.toml``, and the record
``book/_data/equations.json`` that the book's appendix is drawn from. This module reads all
three and makes the comparisons that the record consists of; ``tests/equations/conftest.py``
connects it to pytest, ``book/_ext/equation_ties.py`` to Sphinx.
"""

from __future__ import annotations

import ast
import json
import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

RECORD = Path("book/_data/equations.json")
TESTS = Path("tests/equations")
DEFINITIONS = TESTS / "definitions.toml"

# -- the book's labels --------------------------------------------------------------------

_CODE = re.compile(  # a fenced block, or a span of code in a line
    r"^( *)(`{3,})(?!\{)[^\n`]*\n.*?^ *\2`* *$|(?<!`)`[^`\n]+`(?!`)", re.MULTILINE | re.DOTALL
)
_DISPLAY = re.compile(r"\$\$.*?\$\$(?: *\((?P<label>[^()\s]+)\))?", re.DOTALL)
_DIRECTIVE = re.compile(
    r"^ *(?P<fence>:{3,}|`{3,})\{(?P<name>math|prf:(?:theorem|lemma|proposition|corollary))\}"
    r"[^\n]*\n(?P<options>(?: *:[\w-]+:[^\n]*\n)*)",
    re.MULTILINE,
)
_LABEL = re.compile(r"^ *:label: *(\S+) *$", re.MULTILINE)


def labels_in_text(text: str) -> list[str]:
    """Labels of the display equations and theorems in a page of MyST Markdown, in order.

    Raises:
        ValueError: a theorem or a ``math`` directive has no label.

    >>> labels_in_text("$$ a = b $$ (first), written `$$ a = b $$ (label)`")
    ['first']
    """
    text = _CODE.sub("", text)
    found = [(m.start(), m["label"]) for m in _DISPLAY.finditer(text) if m["label"]]
    for match in _DIRECTIVE.finditer(text):
        label = _LABEL.search(match["options"])
        if label is None:
            raise ValueError(f"{match['name']} without a label: {match[0].strip()!r}")
        found.append((match.start(), label[1]))
    return [label for _, label in sorted(found)]


def book_pages(root: Path) -> list[Path]:
    """The pages that ``book/_toc.yml`` names, in reading order.

    Raises:
        FileNotFoundError: the table of contents names a page that does not exist.
    """
    toc = yaml.safe_load((root / "book/_toc.yml").read_text(encoding="utf-8"))

    def names(entry: dict) -> list[str]:
        own = [entry[key] for key in ("root", "file") if key in entry]
        below = [*entry.get("parts", []), *entry.get("chapters", []), *entry.get("sections", [])]
        return own + [name for child in below for name in names(child)]

    pages = []
    for name in names(toc):
        page = next((p for s in (".md", ".ipynb") if (p := root / f"{name}{s}").exists()), None)
        if page is None:
            raise FileNotFoundError(f"book/_toc.yml names {name}, but there is no such page")
        pages.append(page)
    return pages


def book_labels(root: Path) -> dict[str, str]:
    """Each label of the book and the page it stands on.

    Raises:
        ValueError: a label stands twice, or a theorem has none.
    """
    labels: dict[str, str] = {}
    for page in book_pages(root):
        text = page.read_text(encoding="utf-8")
        texts = [text]
        if page.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        where = page.relative_to(root).as_posix()
        for label in (label for text in texts for label in labels_in_text(text)):
            if label in labels:
                raise ValueError(f"label {label!r} stands in {labels[label]} and in {where}")
            labels[label] = where
    return labels


# -- the tests' claims -----------------------------------------------------------------------


def claims(root: Path) -> dict[str, set[str]]:
    """Each claimed label and the tests ("file::function") that claim it, read without running.

    Raises:
        ValueError: a mark names no label, or one that is not a plain string.
    """
    found: dict[str, set[str]] = {}
    for path in sorted((root / TESTS).rglob("test_*.py")):
        where = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
                continue
            for mark in node.decorator_list:
                if not ast.unparse(mark).startswith("pytest.mark.equation"):
                    continue
                arguments = mark.args if isinstance(mark, ast.Call) else []
                labels = [a.value for a in arguments if isinstance(a, ast.Constant)]
                if not labels or len(labels) != len(arguments):
                    raise ValueError(f"{where}::{node.name}: name the labels as plain strings")
                for label in labels:
                    found.setdefault(label, set()).add(f"{where}::{node.name}")
    return found


def definitions(root: Path) -> dict[str, str]:
    """Labels that have nothing to measure, and why.

    Raises:
        ValueError: a label has no reason.
    """
    path = root / DEFINITIONS
    if not path.exists():
        return {}
    table = tomllib.loads(path.read_text(encoding="utf-8")).get("definitions", {})
    for label, why in table.items():
        if not isinstance(why, str) or len(why.split()) < 3:
            raise ValueError(f"{DEFINITIONS}: say in a few words why {label!r} has no test")
    return table


def read_record(root: Path) -> dict[str, dict]:
    path = root / RECORD
    if not path.exists():
        return {"equations": {}, "definitions": {}}
    return json.loads(path.read_text(encoding="utf-8"))


def write_record(root: Path, equations: dict[str, list[dict]]) -> None:
    record = {"definitions": definitions(root), "equations": equations}
    (root / RECORD).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    (root / RECORD).write_text(text + "\n", encoding="utf-8")


def problems(root: Path) -> list[str]:
    """Where pages, claims, definitions and record disagree; empty when all is well."""
    labels, claimed, defined = book_labels(root), claims(root), definitions(root)
    record = read_record(root)
    out = [
        f"{label} ({where}): no test claims it and definitions.toml does not name it"
        for label, where in labels.items()
        if label not in claimed and label not in defined
    ]
    out += [
        f"{label}: claimed by {', '.join(sorted(tests))}, but it is nowhere in the book"
        for label, tests in claimed.items()
        if label not in labels
    ]
    out += [
        f"{label}: named in definitions.toml, but it is nowhere in the book"
        for label in defined
        if label not in labels
    ]
    out += [
        f"{label}: has a test and stands in definitions.toml; it can't be both"
        for label in claimed
        if label in defined
    ]
    recorded = {k: {row["test"] for row in rows} for k, rows in record["equations"].items()}
    if recorded != claimed or record["definitions"] != defined:
        out.append(f"{RECORD} is out of step with the tests: {HOW_TO_WRITE}")
    return out


HOW_TO_WRITE = "run pytest tests/equations --write-equations and commit the file"

# -- comparing -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    kind: str  # "equal" or "at most"
    tolerance: float
    why: str
    difference: float


class Compare:
    """The fixture ``compare``: asserts that two things agree, and remembers by how much."""

    def __init__(self) -> None:
        self.made: list[Comparison] = []

    def __call__(self, got: Any, want: Any, *, atol: float, why: str) -> None:
        """Assert max |got - want| <= atol. Shapes must be the same; NaN and infinity fail."""
        difference = self._subtract(got, want, atol, why)
        self._note("equal", atol, why, float(np.abs(difference).max()))

    def at_most(self, small: Any, large: Any, *, slack: float = 0.0, why: str) -> None:
        """Assert small <= large + slack everywhere."""
        difference = self._subtract(small, large, slack, why)
        self._note("at most", slack, why, float(difference.max()))

    @staticmethod
    def _subtract(left: Any, right: Any, tolerance: float, why: str) -> np.ndarray:
        if not (isinstance(why, str) and why.strip()):
            raise ValueError("why= must say why the tolerance is what it is")
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"the tolerance must be a finite number >= 0, not {tolerance}")
        left, right = _array(left), _array(right)
        assert left.shape == right.shape, (
            f"shapes differ: {left.shape} and {right.shape}; nothing is broadcast"
        )
        assert left.size > 0, "nothing to compare: both sides are empty"
        for name, side in (("first", left), ("second", right)):
            assert np.isfinite(side).all(), f"the {name} argument holds NaN or infinity: {side}"
        return left - right

    def _note(self, kind: str, tolerance: float, why: str, difference: float) -> None:
        self.made.append(Comparison(kind, float(tolerance), why.strip(), difference))
        what = "largest difference" if kind == "equal" else "largest excess"
        assert difference <= tolerance, f"{what} {difference:.3g} > {tolerance:g} ({why})"


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def rows(test: str, what: str, made: list[Comparison]) -> list[dict]:
    """The record's rows for one test: comparisons of one kind, tolerance and reason are one row."""
    worst: dict[tuple, float] = {}
    for c in made:
        key = (c.kind, c.tolerance, c.why)
        worst[key] = max(worst.get(key, -math.inf), c.difference)
    return [
        {
            "test": test,
            "what": what,
            "kind": kind,
            "tolerance": tolerance,
            "why": why,
            # two digits are shown; more would change with every machine
            "difference": float(f"{difference:.2g}"),
        }
        for (kind, tolerance, why), difference in worst.items()
    ]


def _key(row: dict) -> tuple:
    return tuple(row[name] for name in ("test", "what", "kind", "tolerance", "why"))


def merge_rows(rows: list[dict], more: list[dict]) -> None:
    """Add rows in place; over the parameters of one test the worst difference stays."""
    for new in more:
        same = next((row for row in rows if _key(row) == _key(new)), None)
        if same is None:
            rows.append(dict(new))
        else:
            same["difference"] = max(same["difference"], new["difference"])
    rows.sort(key=_key)


def out_of_step(record: dict, measured: dict[str, list[dict]], *, complete: bool) -> list[str]:
    """Tests whose rows, their differences aside, are not those of the record.

    Only a complete run can tell that a row of the record is no longer made by any test.
    """
    committed = {(label, _key(row)) for label, rows in record["equations"].items() for row in rows}
    now = {(label, _key(row)) for label, rows in measured.items() for row in rows}
    wrong = now - committed
    if complete:
        wrong |= committed - now
    return sorted({key[0] for _, key in wrong})
