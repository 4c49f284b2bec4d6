"""`sweep`: one function, called for every setting of a grid, on one machine or on many.

All that a sweep knows is in its folder (see `tutor.rows`), so one that died in any way is simply
started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutor.grids import Grid, as_json, as_settings
from tutor.rows import Outcome, Row, Run, SweepError, Task

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

DEATHS = 3  # of workers, with no run finished between them, after which a run is given up


def sweep(
    run: Run,
    grid: Grid,
    *,
    folder: str | os.PathLike[str],
    workers: int | None = None,
    client: Client | str | None = None,
    facts: Mapping[str, Any] | None = None,
    on_row: Callable[[Row, list[Row]], object] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Call ``run`` once for every setting and gather what it returns in one table.

    A finished run is never made again: started a second time, a sweep makes the runs that are
    missing.  Two sweeps may share a folder; each run is made by one of them.  When a worker is
    killed, another takes up its runs, from their checkpoints where ``run`` keeps them.

    Args:
        run: takes a setting's values by name and returns a mapping of numbers, strings or lists.
            If it has a parameter ``checkpoint``, it is given a folder of the run's own, for
            `tutor.fit` to take under the same name.
        grid: the values of each name, all combinations of which are run; or the settings
            themselves, mappings from name to value.  Values are numbers, strings, None, or lists.
        folder: holds the rows and the checkpoints.  For a cluster, a folder on a disk that all
            its machines see under this path.
        workers: processes on this machine, with one thread each; by default one for each core.
            With 1 the runs are made in this process, with its threads.  On one GPU processes
            stand in each other's way: there `tutor.many.fit_many` trains many models in one.
        client: a ``distributed.Client``, or the address of a scheduler, ``"tcp://host:8786"``; the
            runs then go to the workers of that Dask cluster, which have one thread each.
        facts: what else decides the result and may change from one day to the next: steps, rates,
            sizes.  Work in ``folder`` that was made under other facts is refused.
        on_row: called in this process after every run, with its row and all rows so far.
        progress: show a bar that counts the runs.

    Returns:
        One row a setting, in the order of the settings: its values, what ``run`` returned, and
        ``cpu_seconds``, the processor's seconds since the run was last taken up.

    Raises:
        TypeError: for a grid, settings or facts of the wrong kind, or values JSON can't hold.
        ValueError: for an empty grid, or settings that are the same or would share a file.
        SweepError: at the end, if runs failed (the others' rows are kept, and in its ``table``);
            at once, if the folder can't be written to or holds work of other facts or settings,
            or if the Dask scheduler is lost.
        ImportError: if ``client`` is an address and dask.distributed is not installed.

    Example:
        >>> import tempfile, tutor
        >>> def run(beta, seed):
        ...     return {"score": 10 * beta + seed}
        >>> grid = {"beta": [1, 4], "seed": range(2)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = tutor.sweep(run, grid, folder=folder, workers=1, progress=False)
        >>> table["score"].tolist()
        [10, 11, 40, 41]
    """
    if not callable(run):
        raise TypeError(f"run is a {type(run).__name__}; expected a function of a setting's values")
    home = Path(folder).expanduser().absolute()  # a worker's current folder may be another one
    stated = as_json(dict(facts or {}), "facts=")
    plan = [Task(run, home, s, stated, _takes_checkpoint(run, s)) for s in as_settings(grid)]
    rows: dict[int, Row] = {}
    failures: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        spread = _spreader(workers, client, stack)
        _make_folder(home)
        rows.update((i, row) for i, task in enumerate(plan) if (row := task.kept()) is not None)
        bar = stack.enter_context(_bar(len(rows), len(plan), progress))

        def settle(i: int, outcome: Outcome) -> None:
            if outcome.error:
                failures[i] = outcome.error
                bar.set_postfix(failed=len(failures), refresh=False)
            if outcome.row is not None:
                rows[i] = outcome.row
                if on_row is not None:
                    on_row(outcome.row, _in_order(rows))
            bar.update()

        _settle_all(plan, set(range(len(plan))) - rows.keys(), spread, settle)
    if failures:
        raise _failed(plan, rows, failures, home)
    import pandas as pd

    return pd.DataFrame(_in_order(rows))


# --- all runs: in this process, in several, or on a cluster ---------------------------------------

# Makes the tasks, and yields the place of each in the list with its outcome as it comes.
_Spread = Callable[[Sequence[Task], bool], Generator[tuple[int, Outcome], None, None]]
_Outcomes = Generator[tuple[int, Outcome], None, None]


def _settle_all(
    plan: Sequence[Task], todo: set[int], spread: _Spread, settle: Callable[[int, Outcome], None]
) -> None:
    """Spread the runs, and spread again what dead workers left behind, until none is left.

    One run that kills its worker takes down what the others are making.  So after a death what had
    been begun comes last, and before the last attempt runs go one at a time: then it is known whose
    death it was.
    """
    wait, deaths = False, 0
    while todo:
        order = sorted(todo, key=lambda i: (deaths > 0 and plan[i].begun_file.exists(), i))
        if alone := deaths >= DEATHS - 1:
            order = order[:1]
        try:
            with contextlib.closing(spread([plan[i] for i in order], wait)) as outcomes:
                for at, outcome in outcomes:
                    if not outcome.busy:
                        settle(order[at], outcome)
                        todo.remove(order[at])
                        deaths = 0
            wait = True  # what is left is being made by other processes
        except BrokenProcessPool:
            deaths += 1
            if alone:
                settle(order[0], Outcome(error=_DIED))
                todo.remove(order[0])


_DIED = (
    f"worker processes died {DEATHS} times and finished no run between. Something killed them, "
    "perhaps for want of memory: try fewer workers, or this run alone with workers=1."
)


def _spreader(
    workers: int | None, client: Client | str | None, stack: contextlib.ExitStack
) -> _Spread:
    if client is not None:
        if workers is not None:
            raise ValueError(
                f"workers={workers!r} counts processes of this machine, client= sends the runs to "
                "a cluster; give one of the two"
            )
        return partial(_on_cluster, _connected(client, stack))
    if workers is None:
        import joblib

        workers = joblib.cpu_count()
    if isinstance(workers, bool) or not isinstance(workers, int):
        raise TypeError(f"workers is {workers!r}; expected a whole number")
    if workers < 1:
        raise ValueError(f"workers is {workers}; expected at least 1")
    return _here if workers == 1 else partial(_in_processes, workers)


def _here(tasks: Sequence[Task], wait: bool) -> _Outcomes:
    for at, task in enumerate(tasks):
        yield at, task.make(threads=None, wait=wait)


def _numbered(at: int, task: Task, wait: bool) -> tuple[int, Outcome]:
    return at, task.make(threads=1, wait=wait)  # threads of several processes wait for each other


def _packed(tasks: Sequence[Task]) -> list[Task]:
    """The tasks for other processes: run by value where no module holds it, as in a notebook."""
    import cloudpickle

    try:
        code = cloudpickle.dumps(tasks[0].run)
    except Exception as error:
        raise TypeError(
            f"run can't be sent to other processes: {error}. It refers to something that can't be "
            "copied, such as a lock or an open file: make that inside run, or use workers=1"
        ) from error
    return [dataclasses.replace(task, run=code) for task in tasks]


def _in_processes(workers: int, tasks: Sequence[Task], wait: bool) -> _Outcomes:
    import joblib

    with joblib.parallel_config("loky", inner_max_num_threads=1):
        # all workers even for one run: with n_jobs=1 joblib would make it in this process
        parallel = joblib.Parallel(workers, batch_size=1, return_as="generator_unordered")
    make = joblib.delayed(_numbered)
    yield from parallel(make(at, task, wait) for at, task in enumerate(_packed(tasks)))


def _on_cluster(client: Client, tasks: Sequence[Task], wait: bool) -> _Outcomes:
    """The client's futures: the scheduler itself gives a dead worker's tasks to another one."""
    from distributed import as_completed

    where = client.scheduler.address
    futures = {
        client.submit(_numbered, at, task, wait, pure=False): at
        for at, task in enumerate(_packed(tasks))
    }
    try:
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except CancelledError as error:
                raise SweepError(
                    f"the Dask scheduler at {where} was lost. Finished rows and checkpoints are "
                    f"in {tasks[0].home}; start the scheduler and its workers, then the sweep, "
                    "again to go on"
                ) from error
            except Exception as error:  # a worker could not even begin, or too many have died
                outcome = futures[future], Outcome(error=f"{type(error).__name__}: {error}")
            yield outcome
    finally:
        if client.status == "running":  # interrupted here: nobody waits for the rest
            client.cancel(list(futures))


def _connected(client: Client | str, stack: contextlib.ExitStack) -> Client:
    if isinstance(client, str):
        try:
            from distributed import Client as Connected
        except ImportError as error:
            raise ImportError(
                "a sweep on a cluster needs dask.distributed: "
                "pip install 'autoencoder-tutor[sweep]'"
            ) from error
        try:
            client = stack.enter_context(Connected(client))
        except OSError as error:
            raise SweepError(
                f"no Dask scheduler answers at {client}; start one with `dask scheduler`, and "
                "workers with `dask worker --nthreads 1 ADDRESS`"
            ) from error
    if not hasattr(client, "submit") or not hasattr(client, "nthreads"):
        raise TypeError(
            f"client is a {type(client).__name__}; expected a distributed.Client or the address "
            'of a scheduler, such as "tcp://host:8786"'
        )
    for address, threads in client.nthreads().items():
        if threads > 1:
            raise ValueError(
                f"the worker at {address} has {threads} threads, but runs in one process would "
                "share its random stream; start workers with one thread each "
                "(`dask worker --nthreads 1`, LocalCluster(threads_per_worker=1))"
            )
    return client


# --- before and after -----------------------------------------------------------------------------


def _takes_checkpoint(run: Run, setting: Row) -> bool:
    try:
        takes = "checkpoint" in inspect.signature(run).parameters
    except ValueError:  # written in C, without a signature
        takes = False
    if takes and "checkpoint" in setting:
        raise ValueError(
            f"the setting {setting!r} has a value for `checkpoint`, which sweep itself passes to "
            "run; use another name"
        )
    return takes


def _make_folder(home: Path) -> None:
    try:
        (home / "rows").mkdir(parents=True, exist_ok=True)
        (home / "runs").mkdir(exist_ok=True)
    except OSError as error:
        raise SweepError(
            f"rows can't be written to {home}: {error.strerror}; "
            "choose a folder on a disk with space that you may write to"
        ) from error


def _in_order(rows: Mapping[int, Row]) -> list[Row]:
    return [rows[i] for i in sorted(rows)]


def _failed(
    plan: Sequence[Task], rows: Mapping[int, Row], failures: Mapping[int, str], home: Path
) -> SweepError:
    listed = [(plan[i].setting, failures[i]) for i in sorted(failures)]
    shown = "\n\n".join(f"{setting!r}:\n{text.rstrip()}" for setting, text in listed[:3])
    more = f"\n\n{len(listed) - 3} more are in this exception's failures" if listed[3:] else ""
    return SweepError(
        f"{len(listed)} of {len(plan)} runs failed. The rows of the others are in {home / 'rows'}; "
        f"started again, the sweep makes only what is missing.\n\n{shown}{more}",
        _in_order(rows),
        listed,
    )


def _bar(done: int, total: int, progress: bool) -> Any:
    # The plain bar: the notebook one leaves dead text in a rendered page.
    from tqdm import tqdm

    return tqdm(total=total, initial=done, disable=not progress, unit="run", dynamic_ncols=True)
