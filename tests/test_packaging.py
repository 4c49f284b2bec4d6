"""The lists of packages, the wheel and the files around the code agree with each other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOT_SHIPPED = {"__pycache__"}


def requirements(*extras: str) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return [Requirement(line) for line in lines]


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pins}


# --- the lists of packages ----------------------------------------------------------------------


def test_pyproject_has_ranges_and_no_pins():
    for requirement in requirements("book", "test"):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators & {">=", ">"}, f"{requirement}: no lower bound"
        assert not operators & {"==", "===", "~="}, f"{requirement}: a pin"


def test_the_package_alone_asks_for_no_book_tools():
    needed = {canonicalize_name(requirement.name) for requirement in requirements()}
    book = {canonicalize_name(Requirement(line).name) for line in EXTRAS["book"]}
    assert not needed & book


def test_constraints_pin_every_requirement_inside_its_range():
    pins = constraints()
    for requirement in requirements("book", "test"):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"constraints.txt does not pin {requirement.name}; make constraints"
        assert requirement.specifier.contains(pins[name]), f"{requirement}: pinned {pins[name]}"
    assert pins["torch"] == Version("2.13.0")


def test_constraints_are_sorted_and_name_versions_only():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in pins)
    assert "autoencoder-tutor" not in constraints()
    assert pins == sorted(pins, key=str.upper)


def test_environment_yml_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, from_pip = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"]
    assert pip == "pip"
    assert list(from_pip) == ["pip"]
    (line,) = from_pip["pip"]
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", line).group(1).split(",")
    assert sorted(extras) == sorted(EXTRAS)


# --- the wheel ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the sources: leftovers of earlier builds cannot get into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("*.egg-info", *NOT_SHIPPED)
    shutil.copytree(ROOT / "src", source / "src", ignore=ignore)
    shutil.copytree(ROOT / "tests", source / "tests", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_all_of_the_package_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "src"
    expected = {
        path.relative_to(package).as_posix()
        for path in (package / "tutor").rglob("*")
        if path.is_file() and not NOT_SHIPPED & set(path.parts) and path.suffix != ".pyc"
    }
    assert names == expected
    assert "tutor/py.typed" in names
    assert any(name.endswith((".js", ".mjs")) for name in names), "no ES module"
    assert any(name.endswith(".safetensors") for name in names), "no shipped weights"


def test_wheel_metadata_is_that_of_pyproject(wheel):
    assert wheel.name.startswith(f"autoencoder_tutor-{PROJECT['version']}-py3-none-any")
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = archive.read(name).decode()
    assert set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.M)) == set(EXTRAS)
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"not installed: {{name}}", name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, {folder!r})
import tutor
assert tutor.__file__.startswith({folder!r}), tutor.__file__
for module in pkgutil.walk_packages(tutor.__path__, "tutor."):
    importlib.import_module(module.name)
    print(module.name)
"""


def test_wheel_alone_imports_without_book_and_test_tools(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    blocked = {
        "jupyter_book", "sphinx", "jupyterlab", "nbclient", "nbformat", "ot", "pyro", "pytest",
        "hypothesis", "nbval", "playwright", "axe_playwright_python", "yaml", "packaging",
    }  # fmt: skip
    code = IMPORT_EVERYTHING.format(blocked=blocked, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tutor.data" in done.stdout.split()


# --- the repository -----------------------------------------------------------------------------


def git_files() -> list[Path]:
    git = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(git, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_file_names_a_path_of_one_machine():
    machine = re.compile(r"(?<![\w.:/~-])/(?:home|root|work|farm|tmp|Users)/[A-Za-z.]\S*")
    found = []
    for path in git_files():
        data = path.read_bytes()
        if b"\0" in data:
            continue
        text = re.sub(r"[A-Za-z0-9+/=]{200,}", "", data.decode("utf-8"))  # encoded pictures
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in machine.finditer(text)]
    assert found == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    targets = re.search(r"^\.PHONY:(.*)$", makefile, re.M).group(1).split()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    shown = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    listed = re.findall(r"^  make (\S+) +\S", shown.stdout, re.M)
    assert sorted(listed) == sorted(targets)
    assert {"book", "test", "lab", "notebooks", "bench", "clean"} <= set(listed)


def test_the_repositorys_address_is_the_same_everywhere():
    address = yaml.safe_load((ROOT / "book" / "_config.yml").read_text())["repository"]["url"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["urls"]["Repository"] == address
    assert citation["repository-code"] == address
    assert address in (ROOT / "README.md").read_text()
    owner = address.removeprefix("https://").rpartition("/")[0]
    for path in git_files():
        if path.suffix in {".md", ".toml", ".yml", ".cff", ".py", ".ipynb"}:
            text = path.read_text(encoding="utf-8")
            for match in re.finditer(re.escape(owner) + r"/[\w.-]+", text):
                repository = match.group().removesuffix(".git").rstrip(".")
                assert "https://" + repository == address, path


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert citation["version"] == PROJECT["version"]
    assert re.search(r"^## (\S+)", changes, re.M).group(1) == PROJECT["version"]
