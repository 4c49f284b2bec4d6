"""`fit_many`: many small models trained at once on one device.

A small model leaves most of a GPU idle, so each run has a CUDA stream of its own and the runs take
turns in starting their recorded rounds (`tutor.graphs`).  On a CPU, threads of one run wait for
each other more than they help: there each core trains one run, in a process with one thread.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import itertools
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from tutor.batches import DataSource, as_source
from tutor.devices import private_stream, resolve_device
from tutor.grids import combinations
from tutor.history import History
from tutor.training import finished, fit, playing

MakeModel = Callable[..., nn.Module]


@dataclass
class Trained:
    """One run of `fit_many`: its seed and settings, the trained model, and what happened."""

    seed: int
    settings: dict[str, Any]
    model: nn.Module = field(repr=False)
    history: History = field(repr=False)


class RunsFailed(RuntimeError):
    """Some runs of `fit_many` failed.

    ``runs`` holds the others, ``failures`` the seed, the settings and the error of each.

    Example:
        >>> print(RunsFailed([], [(3, {"beta": 4.0}, ValueError("why"))]))
        1 of 1 runs failed; the others are in this exception's `runs`:
          seed=3, beta=4.0: why
    """

    def __init__(
        self, runs: list[Trained], failures: list[tuple[int, dict[str, Any], Exception]]
    ) -> None:
        lines = [f"  {_named(s, setting)}: {error}" for s, setting, error in failures]
        count = f"{len(failures)} of {len(runs) + len(failures)} runs failed"
        super().__init__(
            "\n".join([f"{count}; the others are in this exception's `runs`:", *lines])
        )
        self.runs, self.failures = runs, failures

    def __reduce__(self) -> Any:
        return type(self), (self.runs, self.failures)


def fit_many(
    make_model: MakeModel,
    dataset: DataSource | Tensor,
    *,
    seeds: Iterable[int],
    grid: Mapping[str, Iterable[Any]] | None = None,
    device: str | torch.device = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **fit_arguments: Any,
) -> list[Trained]:
    """Train a model for every seed and every setting of a grid, all on one device.

    Each run is the one that these three lines make with one thread, on a CPU bit for bit::

        torch.manual_seed(seed)
        model = make_model(**settings)
        history = tutor.fit(model, dataset, seed=seed, **fit_arguments)

    Which other runs there are, and in which order, makes no difference.

    Args:
        make_model: makes a model from a setting, by name: a class such as
            `tutor.models.FactorVAE`, or a function.
        dataset: as in `tutor.fit`; all runs read the same one.
        seeds: whole numbers, each once.  A seed decides the first weights, the order of the
            examples and all noise.
        grid: the values of each argument of ``make_model`` that varies; every combination is run
            with every seed.
        device: as in `tutor.fit`.  A CUDA device trains all runs at once, a CPU one a core in
            processes of their own, another device one after another.
        checkpoint: folder in which each run has a folder of its own, named by seed and setting.
        progress: show a bar.
        **fit_arguments: the other arguments of `tutor.fit`; ``steps`` is needed.

    Returns:
        A `Trained` for each run: setting by setting, and the seeds in their order within each.

    Raises:
        TypeError: for a grid that is no mapping of lists, a ``make_model`` that can't be called or
            makes no game, seeds that are no whole numbers, or arguments that `fit` does not know.
        ValueError: for no seed or one given twice, or a name in the grid without a value or with
            the same one twice.
        RunsFailed: at the end, when some runs failed.  When all did, the first one's own error.

    Example:
        >>> import tutor
        >>> from tutor.models import BetaVAE
        >>> digits = tutor.data.load("digits")
        >>> runs = fit_many(BetaVAE, digits, seeds=[0], grid={"beta": [4.0]}, steps=2,
        ...                 device="cpu", progress=False)
        >>> runs[0], runs[0].history.index.tolist()
        (Trained(seed=0, settings={'beta': 4.0}), [2])
    """
    if not callable(make_model) or isinstance(make_model, nn.Module):
        raise TypeError(
            f"make_model is a {type(make_model).__name__}; expected a class or function that makes "
            "a new model for each run, such as tutor.models.VAE"
        )
    if "seed" in fit_arguments:
        raise TypeError("seed= is for one run; give seeds=[...]")
    inspect.signature(fit).bind(None, dataset, **fit_arguments)  # a wrong name fails here
    where = resolve_device(device)
    data = as_source(dataset)
    runs = [
        _Run(make_model, seed, setting, where, fit_arguments, checkpoint)
        for setting, seed in itertools.product(_settings(grid), _checked_seeds(seeds))
    ]
    if where.type == "cpu":
        outcomes = _in_processes(runs, data, progress)
    elif where.type == "cuda":
        outcomes = _in_turns(runs, data, where, progress)
    else:
        outcomes = _one_by_one(runs, data, progress)
    done = [outcome for outcome in outcomes if isinstance(outcome, Trained)]
    failures = [
        (run.seed, run.setting, outcome)
        for run, outcome in zip(runs, outcomes, strict=True)
        if isinstance(outcome, Exception)
    ]
    if failures and not done:
        raise failures[0][2]
    if failures:
        raise RunsFailed(done, failures)
    return done


@dataclass
class _Run:
    """What a run is made from; it goes to another process."""

    make_model: MakeModel
    seed: int
    setting: dict[str, Any]
    where: torch.device
    arguments: dict[str, Any]
    checkpoint: str | os.PathLike[str] | None

    def model(self) -> nn.Module:
        with private_stream(self.where, self.seed):
            return self.make_model(**self.setting)

    def game(self, model: nn.Module, data: DataSource) -> Generator[int, None, History]:
        """`playing` this run, with its own checkpoints."""
        folder = None
        if self.checkpoint is not None:
            folder = Path(self.checkpoint) / _folder_name(self.seed, self.setting)
        return playing(
            model,
            data,
            where=self.where,
            seed=self.seed,
            checkpoint=folder,
            progress=False,
            **self.arguments,
        )

    def alone(self, data: DataSource) -> Trained | Exception:
        """The run from beginning to end, or the error that ended it."""
        try:
            model = self.model()
            with private_stream(self.where, self.seed):
                return self.trained(model, finished(self.game(model, data)))
        except Exception as error:
            return self.noted(error)

    def trained(self, model: nn.Module, history: History) -> Trained:
        return Trained(self.seed, self.setting, model, history)

    def noted(self, error: Exception) -> Exception:
        error.add_note(f"This was the run {_named(self.seed, self.setting)} of fit_many.")
        return error


Outcomes = list[Trained | Exception]


# -- on a CPU: processes with one thread each -----------------------------------------------------


def _in_processes(runs: list[_Run], data: DataSource, progress: bool) -> Outcomes:
    import joblib

    try:
        import cloudpickle
    except ImportError:  # older versions of joblib bring their own
        from joblib.externals import cloudpickle

    workers = min(joblib.cpu_count(), len(runs))
    outcomes: Outcomes = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # The data go through a file that all processes map: they are in memory once.
        path = os.path.join(folder, "data")
        if workers > 1:
            torch.save(data, path, pickle_module=cloudpickle)
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            parallel = joblib.Parallel(workers, batch_size=1, return_as="generator")
        made = joblib.delayed(_in_one_thread)
        with _bar(len(runs), "run", progress) as bar:
            for outcome in parallel(made(run, path if workers > 1 else data) for run in runs):
                outcomes.append(outcome)
                bar.update()
    return outcomes


def _in_one_thread(run: _Run, data: DataSource | str) -> Trained | Exception:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run.alone(_read(data) if isinstance(data, str) else data)
    finally:
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def _read(path: str) -> DataSource:
    return torch.load(path, mmap=True, weights_only=False)  # written above


def _one_by_one(runs: list[_Run], data: DataSource, progress: bool) -> Outcomes:
    with _bar(len(runs), "run", progress) as bar:
        outcomes: Outcomes = []
        for run in runs:
            outcomes.append(run.alone(data))
            bar.update()
    return outcomes


# -- on a CUDA device: all at once, in one process ------------------------------------------------


class Lane:
    """What a game has to itself while others play: its random stream and its CUDA stream.

    Inside ``with lane:`` torch's default generators are the lane's.  Leaving puts the caller's
    back; the next ``with`` goes on where the last one stopped.

    Example:
        >>> lane = Lane(torch.device("cpu"), seed=0)
        >>> with lane:
        ...     first = torch.rand(2)
        >>> with lane:
        ...     second = torch.rand(2)
        >>> torch.equal(torch.cat([first, second]),
        ...             torch.rand(4, generator=torch.Generator().manual_seed(0)))
        True
    """

    def __init__(self, where: torch.device, seed: int) -> None:
        self.where = where
        self.on_cpu = torch.Generator().manual_seed(seed).get_state()
        if where.type == "cuda":
            self.stream = torch.cuda.Stream(where)
            self.stream.wait_stream(torch.cuda.current_stream(where))
            self.on_device = torch.Generator(where).manual_seed(seed)

    def __enter__(self) -> Lane:
        self._left = contextlib.ExitStack()
        self.callers_on_cpu = torch.get_rng_state()
        torch.set_rng_state(self.on_cpu)
        if self.where.type == "cuda":
            self._left.enter_context(torch.cuda.device(self.where))
            self._left.enter_context(torch.cuda.stream(self.stream))
            # The generator is exchanged, not its numbers: a recorded round belongs to one.
            default = torch.cuda.default_generators[self.where.index]
            self.callers_on_device = default.graphsafe_get_state()
            default.graphsafe_set_state(self.on_device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.where.type == "cuda":
            default = torch.cuda.default_generators[self.where.index]
            self.on_device = default.graphsafe_get_state()
            default.graphsafe_set_state(self.callers_on_device)
        self.on_cpu = torch.get_rng_state()
        torch.set_rng_state(self.callers_on_cpu)
        self._left.close()


def _in_turns(runs: list[_Run], data: DataSource, where: torch.device, progress: bool) -> Outcomes:
    """Every game starts a stretch of rounds, then the next one does, and so on round the table.

    To start a stretch takes less time than to play it: while one game's values are read, the
    other games' rounds are being computed.
    """
    data = data.to(where)  # once for all
    outcomes: Outcomes = [RuntimeError("not played")] * len(runs)
    lanes = [Lane(where, run.seed) for run in runs]
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(_bar(len(runs) * runs[0].arguments["steps"], "step", progress))
        games, models, done = {}, [], [0] * len(runs)
        for i, (run, lane) in enumerate(zip(runs, lanes, strict=True)):
            with lane:
                try:
                    models.append(run.model())
                except Exception as error:
                    models.append(None)
                    outcomes[i] = run.noted(error)
                    continue
                games[i] = run.game(models[i], data)
                stack.callback(games[i].close)  # when interrupted, let go of checkpoint folders
        while games:
            for i in list(games):
                with lanes[i]:
                    try:
                        now = next(games[i])
                        bar.update(now - done[i])
                        done[i] = now
                    except StopIteration as end:
                        outcomes[i] = runs[i].trained(models[i], end.value)
                        del games[i]
                    except Exception as error:
                        outcomes[i] = runs[i].noted(error)
                        del games[i]
        if where.type == "cuda":
            for lane in lanes:
                torch.cuda.current_stream(where).wait_stream(lane.stream)
    return outcomes


# -- what is run ----------------------------------------------------------------------------------


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    try:
        given = list(seeds)
    except TypeError as error:
        raise TypeError(f"seeds is {seeds!r}; expected a list, such as range(5)") from error
    if not given:
        raise ValueError("seeds is empty; give at least one, such as seeds=[0]")
    for seed in given:
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise TypeError(f"seeds hold {seed!r}; expected whole numbers")
    numbers = [int(seed) for seed in given]
    twice = sorted({seed for seed in numbers if numbers.count(seed) > 1})
    if twice:
        raise ValueError(f"seeds hold {twice[0]} more than once; it would make the same run again")
    return numbers


def _settings(grid: Mapping[str, Iterable[Any]] | None) -> list[dict[str, Any]]:
    if grid is None:
        return [{}]
    if not isinstance(grid, Mapping):
        raise TypeError(
            f"grid is a {type(grid).__name__}; expected a mapping from names of make_model's "
            "arguments to lists of values, such as {'beta': [1.0, 4.0]}"
        )
    settings = combinations(grid)
    for i, setting in enumerate(settings):
        if setting in settings[:i]:
            raise ValueError(
                f"the setting {setting!r} is in the grid more than once; it would make the same "
                "run again"
            )
    return settings


def _named(seed: int, setting: Mapping[str, Any]) -> str:
    return ", ".join([f"seed={seed}", *(f"{name}={value!r}" for name, value in setting.items())])


def _folder_name(seed: int, setting: Mapping[str, Any]) -> str:
    """Readable, and different for different runs: what a file name can't hold is in the digest."""
    name = _named(seed, dict(sorted(setting.items())))
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9=._-]+', '_', name)[:80]}-{digest}"


def _bar(total: int, unit: str, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, disable=not progress, unit=unit, dynamic_ncols=True)
