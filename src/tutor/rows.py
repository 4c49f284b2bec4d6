"""One run of a sweep: its setting, its row, and the folder that is its own while it is made.

A run is a file, ``rows/<name>.json``, written at one stroke when it is finished, and a folder,
``runs/<name>``, which holds its checkpoint and is held by the process that makes it.  Whatever
must outlive a crash is in these files.
"""

from __future__ import annotations

import json
import platform
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from tutor.checkpoints import write_atomically
from tutor.grids import as_json, as_text, row_name

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]
Run = Callable[..., Row]


class SweepError(RuntimeError):
    """Runs that failed, or a sweep that can't go on; the rows that were finished are kept.

    Args:
        message: what happened, and how to go on.
        rows: those that are finished.
        failures: pairs of a setting and what went wrong there, mostly a traceback.
    """

    def __init__(
        self,
        message: str,
        rows: Sequence[Row] = (),
        failures: Sequence[tuple[Row, str]] = (),
    ) -> None:
        super().__init__(message)
        self.rows, self.failures = list(rows), list(failures)

    @property
    def table(self) -> pd.DataFrame:
        """The finished rows, as `tutor.sweep` would have returned them."""
        import pandas as pd

        return pd.DataFrame(self.rows)


@dataclass(frozen=True)
class Outcome:
    """A row, or what went wrong; or ``busy``, when another process is making the run."""

    row: Row | None = None
    error: str = ""
    busy: bool = False


_one_run_at_a_time = threading.RLock()  # in a process: torch has one random stream in each


@dataclass(frozen=True)
class Task:
    """One run that a worker, wherever it is, can make.

    Args:
        run: called with the setting, and with its folder as ``checkpoint`` if ``checkpoints``;
            as bytes when it was sent by another process.
        home: the sweep's folder.
        setting: the arguments of ``run``.
        facts: what else was stated about the run, as JSON gives it back.
        checkpoints: whether ``run`` takes a folder.

    Example:
        >>> import tempfile
        >>> home = tempfile.TemporaryDirectory()
        >>> (Path(home.name) / "rows").mkdir(); (Path(home.name) / "runs").mkdir()
        >>> task = Task(lambda seed: {"score": seed / 2}, Path(home.name), {"seed": 3}, {}, False)
        >>> task.kept() is None, task.make(threads=None, wait=False).row["score"]
        (True, 1.5)
        >>> task.kept()["score"]
        1.5
        >>> home.cleanup()
    """

    run: Run | bytes
    home: Path
    setting: dict[str, Any]
    facts: Any
    checkpoints: bool

    @property
    def row_file(self) -> Path:
        return self.home / "rows" / f"{row_name(self.setting)}.json"

    @property
    def folder(self) -> Path:
        return self.home / "runs" / row_name(self.setting)

    @property
    def begun_file(self) -> Path:
        """Says what the folder's work was made with; who has locked it makes the run."""
        return self.folder / "begun.json"

    @property
    def stated(self) -> Any:
        return as_json(self.setting, "setting")

    def kept(self) -> Row | None:
        """The row, if the run is finished.

        Raises:
            SweepError: if the row, or the work begun, is of other facts or another setting.
        """
        if not self.row_file.exists():
            self._check_begun()
            return None
        try:
            found = json.loads(self.row_file.read_text())
            facts, row = found["facts"], found["row"]
            setting = {key: row[key] for key in self.setting if key in row}
        except (ValueError, KeyError, TypeError) as error:
            raise SweepError(
                f"{self.row_file} is damaged ({error!r}); delete it to make that run again"
            ) from error
        self._check_same(self.row_file, facts, setting)
        return row

    def make(self, *, threads: int | None, wait: bool) -> Outcome:
        """Make the run, unless it is finished; with ``wait``, after another process has ended.

        No exception gets out, so that one run can't take the others with it.
        """
        if not (self.home / "rows").is_dir():
            return Outcome(
                error=f"there is no folder {self.home} on {platform.node()}: all workers must see "
                "it under this path, so choose one on a disk that they share"
            )
        before = torch.get_num_threads()
        try:
            with _one_run_at_a_time, self._opened() as begun:
                if not _hold(begun, wait):
                    return Outcome(busy=True)
                if (row := self.kept()) is not None:
                    return Outcome(row)
                run = self._unpacked()
                self._begin(begun)
                if threads is not None:
                    torch.set_num_threads(threads)
                return self._make(run)
        except SweepError as error:
            return Outcome(error=str(error))
        except Exception:
            return Outcome(error=traceback.format_exc())
        finally:
            torch.set_num_threads(before)

    def _unpacked(self) -> Run:
        if not isinstance(self.run, bytes):
            return self.run
        import cloudpickle

        try:
            return cloudpickle.loads(self.run)
        except Exception as error:
            raise SweepError(
                f"run can't be read in another process ({type(error).__name__}: {error}). Write it "
                "to a module that every worker can import, and import it from there; or use "
                "workers=1"
            ) from error

    def _make(self, run: Run) -> Outcome:
        arguments = {**self.setting, **({"checkpoint": self.folder} if self.checkpoints else {})}
        began = time.process_time()
        returned = run(**arguments)
        row = self._row(returned, time.process_time() - began)
        content = json.dumps({"facts": self.facts, "row": row}).encode()
        try:
            write_atomically(self.row_file, content)
        except OSError as error:
            return Outcome(
                row,
                f"the run is finished, but its row can't be written to {self.row_file}: "
                f"{error.strerror}. The row is in this exception's table. Make room, then start "
                "again; a run with a checkpoint does not train again.",
            )
        return Outcome(row)

    def _row(self, returned: Any, seconds: float) -> Row:
        if not isinstance(returned, Mapping) or not all(isinstance(k, str) for k in returned):
            raise TypeError(
                f"run returned {returned!r}, a {type(returned).__name__}; expected a mapping from "
                'names to numbers, strings or lists, such as {"loss": 0.1}'
            )
        result, setting = as_json(dict(returned), "what run returned"), self.stated
        for key in sorted(result.keys() & {*setting, "cpu_seconds"}):
            if key not in setting or as_text(result[key]) != as_text(setting[key]):
                raise ValueError(
                    f"run returned {key}={result[key]!r}, but the row has {key!r} already; "
                    "give the result another name"
                )
        return {**setting, **result, "cpu_seconds": seconds}

    def _opened(self) -> IO[bytes]:
        try:
            self.folder.mkdir(exist_ok=True)
            return open(self.begun_file, "ab", buffering=0)
        except OSError as error:
            raise self._cannot_begin(error) from error

    def _begin(self, begun: IO[bytes]) -> None:
        if self._check_begun():
            return
        try:
            begun.truncate(0)  # what a process killed in the next line left
            begun.write(json.dumps({"facts": self.facts, "setting": self.stated}).encode())
        except OSError as error:
            raise self._cannot_begin(error) from error

    def _cannot_begin(self, error: OSError) -> SweepError:
        return SweepError(
            f"the run can't be begun in {self.folder}: {error.strerror}; make room, or choose a "
            "folder on a disk that you may write to, and start again"
        )

    def _check_begun(self) -> bool:
        """Whether the run has been begun, by whomever."""
        if not self.begun_file.exists():
            return False
        try:
            stamp = json.loads(self.begun_file.read_text())
        except ValueError:  # killed before the run itself was begun
            return False
        self._check_same(self.folder, stamp["facts"], stamp["setting"])
        return True

    def _check_same(self, where: Path, facts: Row, setting: Row) -> None:
        for kind, there, here in (
            ("facts", facts, self.facts),
            ("its setting", setting, self.stated),
        ):
            differing = (
                k for k in {**there, **here} if as_text(there.get(k)) != as_text(here.get(k))
            )
            for key in differing:
                raise SweepError(
                    f"{where} holds work made with {key}={there.get(key)!r} in {kind}, this sweep "
                    f"has {key}={here.get(key)!r}; choose another folder"
                )


def _hold(file: IO[bytes], wait: bool) -> bool:
    """Keep other processes from the run until the file is closed, if only by a crash."""
    try:
        import fcntl
    except ImportError:  # Windows: no advisory lock, so nothing guards against a second sweep
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network disk without locks: as on Windows
        pass
    return True
