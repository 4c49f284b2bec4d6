"""Ties tests to the book's equations: the mark ``equation``, the fixture ``compare``, the record.

A test that claims an equation must compare something, can't be skipped, and says in the first
line of its docstring what it compares. ``pytest tests/equations --write-equations`` writes what
was measured to book/_data/equations.json; every other run checks that the file is in step.
"""

from __future__ import annotations

import pytest

from tools import equation_ties as ties


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-equations",
        action="store_true",
        default=False,
        help="write what the equations' tests measured to book/_data/equations.json",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "equation(label, ...): the test checks these labelled equations or theorems of the book",
    )
    if not hasattr(config, "workerinput"):  # with pytest-xdist the controller sees all reports
        config.pluginmanager.register(Recorder(config), "equation-recorder")


@pytest.fixture
def compare() -> ties.Compare:
    return ties.Compare()


def _labels(item: pytest.Item) -> list[str]:
    return [label for mark in item.iter_markers("equation") for label in mark.args]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _labels(item):
            for name in ("skip", "skipif", "xfail"):
                if item.get_closest_marker(name):
                    raise pytest.UsageError(f"{item.nodeid} claims an equation: no {name} there")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    labels = _labels(item)
    try:
        result = yield
    except pytest.skip.Exception as skipped:
        if labels:
            pytest.fail(f"a test that claims an equation can't be skipped ({skipped})")
        raise
    if labels:
        compare = item.funcargs.get("compare")
        if compare is None or not compare.made:
            pytest.fail("claims an equation but compares nothing: a test that can't fail")
        doc = (item.function.__doc__ or "").strip()
        if not doc:
            pytest.fail("claims an equation: its docstring must say what is compared")
        name = item.nodeid.split("[")[0]
        rows = ties.rows(name, doc.splitlines()[0].rstrip("."), compare.made)
        item.user_properties.append(("equation", {"labels": labels, "rows": rows}))
    return result


class Recorder:
    """Collects what the tests report; at the end writes the record or compares with it."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.measured: dict[str, list[dict]] = {}  # label -> rows
        self.complaints: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            for name, value in report.user_properties:
                if name == "equation":
                    for label in value["labels"]:
                        ties.merge_rows(self.measured.setdefault(label, []), value["rows"])

    @property
    def ran(self) -> set[str]:
        return {row["test"] for rows in self.measured.values() for row in rows}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        root = self.config.rootpath
        if session.exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        claimed = set().union(*ties.claims(root).values())
        complete = claimed <= self.ran and not session.testsfailed
        if self.config.getoption("write_equations", False):
            if complete:
                ties.write_record(root, self.measured)
            else:
                missing = ", ".join(sorted(claimed - self.ran)) or "see the failures above"
                self.complaints.append(f"{ties.RECORD} not written, tests are missing: {missing}")
        else:
            wrong = ties.out_of_step(ties.read_record(root), self.measured, complete=complete)
            if wrong:
                self.complaints.append(
                    f"{ties.RECORD} is out of step with {', '.join(wrong)}: {ties.HOW_TO_WRITE}"
                )
        if self.complaints:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        for complaint in self.complaints:
            terminalreporter.write_line(f"ERROR: {complaint}", red=True)
