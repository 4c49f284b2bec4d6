"""Execute the notebooks in place, or check the ones that lie there.

    python tools/notebooks.py execute [NOTEBOOK ...]     make notebooks
    python tools/notebooks.py check [NOTEBOOK ...]       part of make test

`execute` runs each notebook from its first cell in a fresh kernel and writes the outputs back
without what changes from run to run: timings, memory addresses, progress bars, saved widget state.
Where the outputs come from is written into the notebook's metadata, under "tutor". A notebook with
a failing cell is left as it was.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 1_500_000
MAX_LINES = 20
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# Run after the last cell, in the same kernel; its output is read and the cell thrown away.
PROVENANCE = """\
import json as _json, platform as _platform, sys as _sys
from importlib.metadata import version as _version
_torch = _sys.modules.get("torch")
_cuda = _torch is not None and _torch.cuda.is_available()
print(_json.dumps({
    "version": _version("autoencoder-tutor"),
    "python": _platform.python_version(),
    "torch": None if _torch is None else _torch.__version__.split("+")[0],
    "dataset": ", ".join(sorted({
        _v.name for _v in list(globals().values())
        if type(_v).__name__ == "Dataset" and type(_v).__module__.startswith("tutor")})),
    "device": _torch.cuda.get_device_name() if _cuda
              else f"CPU, {_torch.get_num_threads() if _torch else 1} threads",
}))
"""


def execute(path: Path, *, cell_timeout: int = 600) -> None:
    """Run the notebook at `path` in a fresh kernel and write it back with its outputs.

    Raises nbclient's CellExecutionError when a cell fails; the file is then unchanged.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(PROVENANCE))
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3", "language": "python", "name": "python3",
    }  # fmt: skip
    began = time.monotonic()
    NotebookClient(
        notebook,
        timeout=cell_timeout,
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # else each kernel warns of its unencrypted socket
        resources={"metadata": {"path": str(path.parent)}},
    ).execute(env={**os.environ, "TUTOR_STATIC_WIDGETS": "1", "JUPYTER_PREFER_ENV_PATH": "1"})
    seconds = time.monotonic() - began

    provenance = json.loads(notebook.cells.pop().outputs[0].text)
    for number, text in complaints(notebook):
        print(f"{path.name}, cell {number} wrote to stderr:\n{text}", file=sys.stderr)
    tidy(notebook, stem=path.stem)
    notebook.metadata["tutor"] = {
        **provenance,
        "seconds": round(seconds),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
    }
    write(notebook, path)


def tidy(notebook, *, stem: str) -> None:
    """Drop from the notebook, in place, everything that differs between two equal runs."""
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"{re.sub(r'[^A-Za-z0-9-]', '-', stem)}-{number:03d}"[-64:]
        for key in ("execution", "collapsed", "scrolled", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [tidy_output(output) for output in cell.outputs if not is_stderr(output)]
    notebook.nbformat, notebook.nbformat_minor = 4, 5  # the first version with cell ids
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}


def tidy_output(output):
    """One output without memory addresses, and without a widget's view when it has another form."""
    address = re.compile(r"0x[0-9a-fA-F]{8,}")
    if output.output_type == "stream":
        output.text = address.sub("0x...", output.text)
    elif "data" in output:
        if "text/plain" in output.data:
            output.data["text/plain"] = address.sub("0x...", output.data["text/plain"])
        # without the saved state a view shows nothing, and hides the picture beside it
        if len(output.data) > 1:
            output.data.pop(WIDGET_VIEW, None)
        output.metadata.pop(WIDGET_VIEW, None)
        if "image/png" in output.data:
            output.data["image/png"] = smaller_png(output.data["image/png"])
    return output


def smaller_png(encoded: str) -> str:
    """The picture in 256 colours, which a figure hardly needs more of, at a third of the bytes."""
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(encoded)))
    if picture.mode == "P":
        return encoded
    small = io.BytesIO()
    flat = picture.convert("RGB").quantize(256)
    flat.save(small, "PNG", optimize=True, dpi=picture.info.get("dpi"))
    shorter = base64.b64encode(small.getvalue()).decode()
    return min(encoded, shorter, key=len)


def is_stderr(output) -> bool:
    return output.output_type == "stream" and output.name == "stderr"


def complaints(notebook) -> Iterable[tuple[int, str]]:
    """What the code cells wrote to stderr, progress bars apart: (cell number, text)."""
    bar = re.compile(r"\d+%\|.*\||\d+(it|B) \[|it/s|s/it")
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if is_stderr(output):
                lines = re.split(r"[\r\n]+", output.text)
                text = "\n".join(line for line in lines if line.strip() and not bar.search(line))
                if text:
                    yield number, text


def commit() -> str:
    """The commit that the outputs were made from; "+changes" when the package differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return "unknown"
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "src"], capture_output=True, text=True
    )
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def write(notebook, path: Path) -> None:
    """Replace the file in one step: an interrupted write leaves the old notebook."""
    import nbformat

    nbformat.validate(notebook)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=".", suffix=".ipynb", encoding="utf-8", delete=False
    ) as file:
        nbformat.write(notebook, file)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


# --- check --------------------------------------------------------------------------------------


def check(paths: Iterable[Path]) -> list[str]:
    """What is wrong with the notebooks as they lie there; an empty list when nothing is."""
    from nbformat.validator import iter_validate

    problems: list[str] = []
    owner: dict[str, str] = {}
    for path in paths:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if errors := list(iter_validate(notebook)):
            problems.append(f"{path.name}: not a valid notebook: {str(errors[0]).splitlines()[0]}")
            continue
        problems += [f"{path.name}: {problem}" for problem in check_notebook(notebook, path)]
        for number, cell in enumerate(notebook["cells"], 1):
            name = f"{path.name}, cell {number}"
            if "id" not in cell:
                problems.append(f"{name}: has no id; run make notebooks")
            elif (first := owner.setdefault(cell["id"], name)) != name:
                problems.append(f"{name}: has the id {cell['id']!r} of {first}; run make notebooks")
    return problems


def check_notebook(notebook: dict, path: Path) -> Iterable[str]:
    if (size := path.stat().st_size) > MAX_BYTES:
        yield f"{size / 1e6:.2f} MB, more than {MAX_BYTES / 1e6} MB; make its figures smaller"
    code = [
        (number, cell, "".join(cell["source"]))
        for number, cell in enumerate(notebook["cells"], 1)
        if cell["cell_type"] == "code"
    ]
    if not code:
        yield "has no code cell"
        return
    number, _, source = code[0]
    if "pip" not in source or "tutor" not in source:
        yield f"cell {number}: the first code cell must install tutor where it is missing"
    if "tutor" not in notebook["metadata"]:
        yield "has no stamp saying where its outputs come from; run make notebooks"
    if not any(cell["outputs"] for _, cell, _ in code):
        yield "has no outputs; run make notebooks"
    for number, cell, source in code:
        if (lines := len(source.strip().splitlines())) > MAX_LINES:
            yield f"cell {number}: {lines} lines of code, more than {MAX_LINES}; split it"
        if source.strip() and cell["execution_count"] is None:
            yield f"cell {number}: was not executed; run make notebooks"
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"cell {number}: its output is the error {output['ename']}"
            if found := absolute_path(output):
                yield f"cell {number}: its output names a path of one machine: {found}"


def absolute_path(output: dict) -> str | None:
    """The first path of somebody's machine in an output's text, encoded pictures apart."""
    texts = [output.get("text", ""), *output.get("traceback", [])]
    data = output.get("data", {})
    texts += [content for kind, content in data.items() if kind.startswith("text/")]
    for text in texts:
        text = re.sub(r"[A-Za-z0-9+/=]{200,}", "", "".join(text))
        if match := re.search(r"(?<![\w.:/])(/(home|root|work|tmp|Users)/|[A-Z]:\\)[\w.-]+", text):
            return match.group()
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["execute", "check"])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not paths:
        print("there are no notebooks in notebooks/", file=sys.stderr)
        return 1

    if options.command == "check":
        problems = check(paths)
        for problem in problems:
            print(problem, file=sys.stderr)
        print(f"{len(paths)} notebooks checked, {len(problems)} problems")
        return bool(problems)

    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    failed = 0
    for path in paths:
        began = time.monotonic()
        try:
            execute(path.resolve())
        except (CellExecutionError, CellTimeoutError) as error:
            failed += 1
            print(f"{path.name} failed and is unchanged:\n{error}", file=sys.stderr)
        else:
            size = path.stat().st_size / 1e6
            print(f"{path.name}: {time.monotonic() - began:.0f} s, {size:.2f} MB", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
