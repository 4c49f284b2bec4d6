"""What the README shows works: its example runs, its files and commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs():
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot as plt

    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    (example,) = [block for block in blocks if "tutor.fit" in block]
    shorter = example.replace("steps=2_000", "steps=2").replace('"mnist"', '"digits"')
    assert shorter.count("steps=2)") == 1
    names: dict = {}
    exec(shorter, names)
    plt.close("all")
    assert names["history"].notna().all(axis=None)
    assert names["model"].latent_dim == 2


def test_links_lead_to_files_of_the_repository():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(re.findall(r"`?\bmake ([a-z]+)\b(?=`|\s+#)", README))
    assert commands >= {"book", "test"}
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.M), command


def test_the_colab_link_is_the_path_of_a_notebook():
    colab = r"colab\.research\.google\.com/github/[^/]+/[^/]+/blob/main/(\S+?)\)"
    (path,) = re.findall(colab, README)
    assert (ROOT / path).is_file()
