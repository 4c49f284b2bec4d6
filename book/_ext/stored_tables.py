"""Tables of stored measurements: the page names them, the files hold the numbers.

``{training-table} mlp_vae``, ``{evaluation-table}`` and ``{benchmark-origin} training`` read
``benchmarks/results/cpu.json``, which ``make bench`` writes; ``{precision-table}`` reads the rows
of ``experiments/precision.py`` from the package.  Where nothing is stored yet, the page says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

FILE = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu.json"
MISSING = "Not measured yet: `make bench` writes the file that this table is read from."

Table = tuple[list[str], list[list[str]]]


def training(stored: dict[str, Any], contest: str) -> Table:
    """A contest's loops, from the fastest down."""
    rows = stored["training"]["contests"][contest]["rows"]
    heads = ["Loop", "What it is", "Steps a second", "Beside pythae", "Share of the peak"]
    return heads, [
        [
            row["loop"],
            row["what"],
            f"{row['lower_quartile']:.4g} ({row['median']:.4g}, {row['upper_quartile']:.4g})",
            f"{row['beside_pythae']:.2f}",
            f"{row['share_of_peak']:.0%}",
        ]
        for row in rows
    ]


def evaluation(stored: dict[str, Any]) -> Table:
    """Seconds of every metric, encoding first."""
    part = stored["evaluation"]
    seconds = {f"encoding all images, {k}": v for k, v in part["encoding_seconds"].items()}
    seconds |= part["scores_seconds"]
    exact = f"exact parts of the rate, {part['exact_rate_images']} images of MNIST"
    seconds[exact] = part["exact_rate_seconds"]
    seconds |= part["drawing_seconds"]
    return ["What", "Seconds"], [[name, f"{value:.2f}"] for name, value in seconds.items()]


def precision() -> Table:
    """Means over seeds of each figure in both precisions, and of the difference in pairs."""
    import tutor

    runs = tutor.pretrained.results("precision")
    figures = [
        ("vae", "negative_elbo", "VAE: negative ELBO, nats"),
        ("factor-vae", "negative_elbo", "FactorVAE: negative ELBO, nats"),
        ("factor-vae", "total_correlation", "FactorVAE: exact total correlation, nats"),
        ("factor-vae", "factor_vae_score", "FactorVAE: its score"),
        ("factor-vae", "beta_vae_score", "FactorVAE: Higgins score"),
        ("factor-vae", "mig", "FactorVAE: MIG"),
    ]
    heads = ["Figure", "Seeds", "float32", "bf16", "Difference", "Its standard error"]
    rows = []
    for model, figure, name in figures:
        pairs = runs[runs["model"] == model].pivot(index="seed", columns="precision", values=figure)
        gap = pairs["bf16"] - pairs["float32"]
        means = f"{pairs['float32'].mean():.3f}", f"{pairs['bf16'].mean():.3f}"
        texts = [*means, f"{gap.mean():+.3f}", f"{gap.sem():.3f}"]
        rows.append([name, str(len(pairs)), *texts])
    return heads, rows


def origin(stored: dict[str, Any], section: str) -> str:
    """One sentence on where a section's numbers come from."""
    made = stored[section]["origin"]
    return (
        f"Measured with `{made['command']}` at commit {made['commit']}, torch {made['torch']}, "
        f"Python {made['python']}, on {made['processor']}, {made['cores']} cores, "
        f"{made['threads']} threads, {made['date']}."
    )


class StoredTable(Directive):
    """Any of the tables; without the stored file, a sentence in its place."""

    optional_arguments = 1
    make: Any

    def run(self) -> list[nodes.Node]:
        self.state.document.settings.env.note_dependency(str(FILE))
        stored = json.loads(FILE.read_text()) if FILE.exists() else {}
        try:
            made = type(self).make(stored, *self.arguments)
        except KeyError:  # this section has not been written
            made = MISSING
        return [_paragraph(made)] if isinstance(made, str) else [_table(*made)]


def _paragraph(text: str) -> nodes.paragraph:
    """Text whose parts between backticks are code."""
    parts = [
        nodes.literal("", part) if i % 2 else nodes.Text(part)
        for i, part in enumerate(text.split("`"))
    ]
    return nodes.paragraph("", "", *parts)


def _table(heads: list[str], rows: list[list[str]]) -> nodes.table:
    def row(cells: list[str]) -> nodes.row:
        return nodes.row("", *[nodes.entry("", _paragraph(cell)) for cell in cells])

    group = nodes.tgroup(cols=len(heads))
    group += [nodes.colspec(colwidth=100 // len(heads)) for _ in heads]
    group += nodes.thead("", row(heads))
    group += nodes.tbody("", *[row(cells) for cells in rows])
    return nodes.table("", group)


def setup(app: Any) -> dict[str, Any]:
    makers = {
        "training-table": training,
        "evaluation-table": evaluation,
        "benchmark-origin": origin,
        "precision-table": lambda stored: precision(),
    }
    for name, make in makers.items():
        app.add_directive(name, type("Stored", (StoredTable,), {"make": staticmethod(make)}))
    return {"parallel_read_safe": True}
