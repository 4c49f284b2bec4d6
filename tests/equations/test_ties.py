"""Pages, tests, definitions and the committed record name the same equations."""

from __future__ import annotations

import pytest

from tools import equation_ties as ties


def test_every_equation_has_a_test_and_every_test_an_equation(pytestconfig):
    if pytestconfig.getoption("--write-equations"):
        pytest.skip("the record is just being written; run again without --write-equations")
    found = ties.problems(pytestconfig.rootpath)
    assert not found, "\n" + "\n".join(found)


def test_the_book_has_equations(pytestconfig):
    # an empty list would agree with an empty list
    assert len(ties.book_labels(pytestconfig.rootpath)) >= 10
    assert len(ties.claims(pytestconfig.rootpath)) >= 10
