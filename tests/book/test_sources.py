"""The book's sources, without building it."""

from __future__ import annotations

import re
from pathlib import Path

import tutor

BOOK = Path(__file__).parents[2] / "book"


def test_every_public_module_is_on_the_api_page():
    page = (BOOK / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"automodule:: tutor\.(\w+)", page))
    assert shown >= tutor._SUBMODULES


def test_every_citation_has_an_entry_and_a_year():
    entries = re.split(r"^@", (BOOK / "references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]
    keys = [re.match(r"\w+\{(\w+),", entry)[1] for entry in entries]
    assert len(keys) == len(set(keys)) >= 40
    for key, entry in zip(keys, entries, strict=True):
        assert re.search(rf"year = \{{{re.search(r'[0-9]{4}', key)[0]}\}}", entry), key
        assert re.search(r"(eprint|doi|url) = ", entry), key
