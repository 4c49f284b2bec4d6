"""The machinery that ties equations to tests fails when it should."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tools import equation_ties as ties

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parent / "equations/conftest.py"
PASSING = '''
import pytest

@pytest.mark.equation("sum")
def test_sum(compare):
    """One and one against two."""
    compare(1 + 1, 2, atol=0, why="integers are exact")
'''


@pytest.fixture
def book(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A small repository: one page with one equation, one test that claims it."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # the inner runs start faster
    for name, text in {
        "pytest.ini": "[pytest]\naddopts = --strict-markers --import-mode=importlib",
        "book/_toc.yml": "format: jb-book\nroot: book/intro\nchapters: [{file: notebooks/one}]",
        "book/intro.md": "# Intro\n\nInline $a$ and a display without a number:\n\n$$a = b$$\n",
        "tests/equations/conftest.py": CONFTEST.read_text(),
        "tests/equations/test_sum.py": PASSING,
        "tests/equations/definitions.toml": "[definitions]\n",
    }.items():
        path = pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_notebook(pytester.path, "$$\n1 + 1 = 2\n$$ (sum)")
    return pytester


def write_notebook(root: Path, *texts: str) -> None:
    cells = [{"cell_type": "markdown", "metadata": {}, "source": [text]} for text in texts]
    code = {"cell_type": "code", "metadata": {}, "source": ["'$$ x $$ (no-label)'"], "outputs": []}
    (root / "notebooks").mkdir(exist_ok=True)
    (root / "notebooks/one.ipynb").write_text(json.dumps({"cells": [*cells, code]}))


def run(book: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return book.runpytest_inprocess("tests/equations", *arguments)


def record(book: pytest.Pytester) -> dict:
    return json.loads((book.path / ties.RECORD).read_text())


# -- what a run writes and checks ------------------------------------------------------------


def test_the_record_holds_what_was_measured(book):
    assert run(book, "--write-equations").ret == 0
    assert record(book)["equations"] == {
        "sum": [
            {
                "test": "tests/equations/test_sum.py::test_sum",
                "what": "One and one against two",
                "kind": "equal",
                "tolerance": 0.0,
                "why": "integers are exact",
                "difference": 0.0,
            }
        ]
    }
    assert ties.problems(book.path) == []
    assert run(book).ret == 0


def test_a_run_without_a_record_fails(book):
    result = run(book)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*equations.json is out of step with*test_sum*"])


@pytest.mark.parametrize(
    "change",
    [
        ("atol=0", "atol=0.5"),
        ("integers are exact", "another reason"),
        ("against two", "against 2"),
        ("def test_sum", "def test_the_sum"),
    ],
)
def test_a_changed_test_is_noticed(book, change):
    run(book, "--write-equations")
    (book.path / "tests/equations/test_sum.py").write_text(PASSING.replace(*change))
    assert run(book).ret == 1


def test_a_vanished_row_is_noticed_by_a_complete_run(book):
    (book.path / "tests/equations/test_sum.py").write_text(
        PASSING + '    compare.at_most(1, 2, why="one is less")\n'
    )
    run(book, "--write-equations")
    (book.path / "tests/equations/test_sum.py").write_text(PASSING)
    assert run(book).ret == 1


def test_parameters_share_a_row_with_the_worst_difference(book):
    (book.path / "tests/equations/test_sum.py").write_text(
        PASSING.replace(
            '@pytest.mark.equation("sum")',
            '@pytest.mark.parametrize("error", [0.0, 0.25, 0.125])\n@pytest.mark.equation("sum")',
        )
        .replace("(compare)", "(compare, error)")
        .replace("1 + 1, 2, atol=0", "2 + error, 2, atol=0.5")
    )
    assert run(book, "--write-equations").ret == 0
    (row,) = record(book)["equations"]["sum"]
    assert row["difference"] == 0.25
    assert run(book).ret == 0


def test_nothing_is_written_when_a_test_fails_or_is_left_out(book):
    (book.path / "tests/equations/test_more.py").write_text(
        PASSING.replace("test_sum", "test_more").replace("1 + 1", "1 + 2")
    )
    assert run(book, "--write-equations").ret == 1
    assert run(book, "--write-equations", "-k", "test_sum").ret == 1
    assert not (book.path / ties.RECORD).exists()


# -- tests that could not fail are failures ----------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("compare(1 + 1, 2, atol=0, why=", "str("), "compares nothing"),
        (("(compare)", "()"), "*"),
        (('"""One and one against two."""', ""), "docstring must say"),
        (("compare(1", 'pytest.skip("no")\n    compare(1'), "can't be skipped"),
        (("1 + 1", "1 + 1 + 1e-6"), "largest difference 1e-06 > 0"),
    ],
)
def test_a_test_without_force_fails(book, change, message):
    (book.path / "tests/equations/test_sum.py").write_text(PASSING.replace(*change))
    result = run(book, "--write-equations")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{message}*"])


@pytest.mark.parametrize("mark", ["skip", "xfail", "skipif(True, reason='no')"])
def test_marks_that_hide_a_failure_are_refused(book, mark):
    (book.path / "tests/equations/test_sum.py").write_text(
        PASSING.replace("def test", f"@pytest.mark.{mark}\ndef test")
    )
    assert run(book).ret == pytest.ExitCode.USAGE_ERROR


def test_a_test_that_claims_nothing_may_do_as_it_likes(book):
    (book.path / "tests/equations/test_free.py").write_text("def test_free():\n    assert True\n")
    assert run(book, "--write-equations").ret == 0


# -- pages against tests --------------------------------------------------------------------


def test_an_equation_without_test_is_a_problem(book):
    run(book, "--write-equations")
    write_notebook(book.path, "$$ 1 $$ (sum)", "$$ 2 $$ (new)")
    (problem,) = ties.problems(book.path)
    assert problem.startswith("new (notebooks/one.ipynb): no test claims it")


def test_a_theorem_without_test_is_a_problem(book):
    run(book, "--write-equations")
    write_notebook(book.path, "$$ 1 $$ (sum)", ":::{prf:theorem} T\n:label: new\nText.\n:::")
    (problem,) = ties.problems(book.path)
    assert problem.startswith("new ")


def test_a_claim_without_equation_is_a_problem(book):
    run(book, "--write-equations")
    write_notebook(book.path, "No equation here.")
    (problem,) = ties.problems(book.path)
    assert "nowhere in the book" in problem


def test_a_definition_needs_no_test_but_an_equation_and_a_reason(book):
    toml = book.path / ties.DEFINITIONS
    write_notebook(book.path, "$$ 1 $$ (sum)", "$$ 2 $$ (new)")
    toml.write_text('[definitions]\nnew = "names the two things"\n')
    assert run(book, "--write-equations").ret == 0
    assert ties.problems(book.path) == []
    toml.write_text('[definitions]\nnew = "names the two things"\nother = "is not in the book"\n')
    assert any("other" in problem for problem in ties.problems(book.path))
    toml.write_text('[definitions]\nnew = "names the two things"\nsum = "has a test as well"\n')
    assert any("can't be both" in problem for problem in ties.problems(book.path))
    toml.write_text('[definitions]\nnew = "because"\n')
    with pytest.raises(ValueError, match="why 'new' has no test"):
        ties.problems(book.path)


def test_a_record_of_another_day_is_a_problem(book):
    run(book, "--write-equations")
    stale = record(book)
    stale["equations"]["sum"][0]["test"] = "tests/equations/test_gone.py::test_gone"
    (book.path / ties.RECORD).write_text(json.dumps(stale))
    assert any("out of step" in problem for problem in ties.problems(book.path))


def test_the_same_label_twice_is_an_error(book):
    write_notebook(book.path, "$$ 1 $$ (sum)\n\n$$ 2 $$ (sum)")
    with pytest.raises(ValueError, match="'sum' stands in"):
        ties.problems(book.path)


def test_a_missing_page_is_an_error(book):
    (book.path / "notebooks/one.ipynb").unlink()
    with pytest.raises(FileNotFoundError, match="notebooks/one"):
        ties.problems(book.path)


def test_computed_labels_are_refused(book):
    (book.path / "tests/equations/test_sum.py").write_text(
        PASSING.replace('equation("sum")', 'equation("su" + "m")')
    )
    with pytest.raises(ValueError, match="plain strings"):
        ties.claims(book.path)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("$$ a $$ (one)", ["one"]),
        ("$$\na\n$$ (one)\n\ntext\n\n$$ b $$\n\n$$ c $$ (two)", ["one", "two"]),
        ("$$ a $$\n\n(two)=\n## Heading", []),
        ("```python\n'$$ a $$ (one)'\n```\n$$ b $$ (two)", ["two"]),
        ("```{math}\n:label: one\na\n```", ["one"]),
        (":::{prf:lemma} L\n:label: one\n$$ a $$ (two)\n:::", ["one", "two"]),
        ("::::{prf:theorem}\n:class: dropdown\n:label: one\nText\n::::", ["one"]),
        (":::{prf:remark} R\n:label: one\nText\n:::", []),
    ],
)
def test_labels_are_found(text, labels):
    assert ties.labels_in_text(text) == labels


@pytest.mark.parametrize("text", [":::{prf:theorem} T\nText\n:::", "```{math}\na\n```"])
def test_a_theorem_without_label_is_an_error(text):
    with pytest.raises(ValueError, match="without a label"):
        ties.labels_in_text(text)


# -- compare ------------------------------------------------------------------------------------


def test_compare_reports_the_largest_difference():
    compare = ties.Compare()
    compare(torch.tensor([1.0, 2.0]), np.array([1.0, 2.5]), atol=0.5, why="half is allowed")
    assert compare.made[0].difference == 0.5
    with pytest.raises(AssertionError, match=r"largest difference 0\.5 > 0\.4"):
        compare([1.0, 2.0], [1.0, 2.5], atol=0.4, why="less is allowed")


def test_at_most_has_a_direction():
    compare = ties.Compare()
    compare.at_most([1.0, 2.0], [2.0, 2.5], why="smaller")
    assert compare.made[0].difference == -0.5
    compare.at_most(1.1, 1.0, slack=0.2, why="noise")
    with pytest.raises(AssertionError, match="largest excess 1 > 0"):
        compare.at_most([2.0], [1.0], why="larger")


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        (math.nan, math.nan, "NaN or infinity"),
        (1.0, math.nan, "second argument"),
        (math.inf, math.inf, "first argument"),
        (torch.ones(3), torch.ones(3, 1), "shapes differ"),
        (torch.ones(3), 1.0, "shapes differ"),
        (torch.ones(0), torch.ones(0), "both sides are empty"),
    ],
)
def test_compare_refuses_what_can_not_be_compared(got, want, message):
    for method in (
        lambda c: c(got, want, atol=1.0, why="reason"),
        lambda c: c.at_most(got, want, slack=1.0, why="reason"),
    ):
        with pytest.raises(AssertionError, match=message):
            method(ties.Compare())


@pytest.mark.parametrize("atol", [-1.0, math.nan, math.inf])
def test_compare_refuses_a_tolerance_that_always_or_never_holds(atol):
    with pytest.raises(ValueError, match="tolerance"):
        ties.Compare()(1.0, 1.0, atol=atol, why="reason")


def test_compare_wants_a_reason():
    with pytest.raises(ValueError, match="why="):
        ties.Compare()(1.0, 1.0, atol=0.0, why=" ")


def test_gradients_and_float32_are_accepted():
    compare = ties.Compare()
    x = torch.tensor([0.1], requires_grad=True)
    compare(x, [0.1], atol=1e-8, why="float32 holds 0.1 to 1.5e-9")
    assert 0 < compare.made[0].difference < 1e-8
