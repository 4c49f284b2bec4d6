"""The script that proves the GPU side can't fail for silly reasons: it is rehearsed here."""

from __future__ import annotations

import json

import pytest
import torch

import tutor
from benchmarks import gpu
from tests import tape
from tutor import graphs


@pytest.fixture
def _taped(monkeypatch):
    """The CPU is treated like a GPU, and records on a tape; one process is enough."""
    monkeypatch.setattr(graphs, "DEVICES", ("cuda", "cpu"))
    monkeypatch.setattr(graphs, "record", tape.record)
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)


@pytest.mark.slow
@pytest.mark.usefixtures("_taped")
def test_a_rehearsal_runs_every_part(tmp_path):
    output = tmp_path / "results" / "gpu.json"
    assert gpu.main(["--rehearse", "--output", str(output)]) == 0
    results = json.loads(output.read_text())
    assert set(results) == set(gpu.PARTS)
    for part in results.values():
        assert part["passed"]
        assert {"command", "torch", "date", "commit"} <= part["origin"].keys()
    rows = results["recorded_equals_eager"]["by_model"]
    trained = {name.split(",")[0].split("-")[0] for name in rows}
    assert trained == set(_models()), "every model of the package is tried"
    assert {row["loop"] for row in rows.values()} == {"CUDA graph"}
    assert all(row["largest_difference"] == 0 for row in rows.values())
    for row in results["speed"]["by_precision"].values():
        assert {"recorded", "eager", "peak_tflops", "minutes_for_300000_steps"} <= row.keys()
    assert results["many"]["equal_to_single_runs"]
    assert "steps_per_second_batched_parameters" in results["many"]["by_model"]["VAE"]


def _models() -> list[str]:
    everything = map(tutor.models.__dict__.get, tutor.models.__all__)
    games = [m for m in everything if isinstance(m, type) and issubclass(m, tutor.Model)]
    return [game.__name__ for game in games if "step" in vars(game) or game.__name__ == "BetaVAE"]


@pytest.fixture
def _two_games(monkeypatch):
    names = ("VAE", "EnergyAVB")
    few = {name: game for name, game in gpu.games().items() if name in names}
    monkeypatch.setattr(gpu, "games", lambda: few)


@pytest.mark.usefixtures("_two_games")
def test_devices_that_differ_are_found(monkeypatch):
    fit, calls = tutor.fit, iter(range(100))
    monkeypatch.setattr(tutor, "fit", lambda *a, **kw: fit(*a, **kw, seed=next(calls)))
    assert not gpu.agreement(torch.device("cpu"), gpu.TINY)["passed"]


@pytest.mark.usefixtures("_two_games")
def test_a_recording_that_differs_is_found(monkeypatch):
    fit, calls = tutor.fit, iter(range(100))
    monkeypatch.setattr(
        tutor, "fit", lambda *a, **kw: fit(*a, **kw, seed=int(next(calls) % 3 == 0))
    )
    assert not gpu.recorded_equals_eager(torch.device("cpu"), gpu.TINY)["passed"]


def test_noise_from_the_cpu_is_the_cpus():
    torch.manual_seed(0)
    plain = (
        torch.rand(2),
        torch.randn((2, 3)),
        torch.randint(5, (4,)),
        torch.randn_like(torch.ones(2)),
    )
    torch.manual_seed(0)
    with gpu.noise_from_the_cpu():
        moved = (torch.rand(2, device="cpu"), torch.randn((2, 3), generator=None, device="cpu"),
                 torch.randint(5, (4,)), torch.randn_like(torch.ones(2)))  # fmt: skip
        assert torch.randn(3, device="meta").device.type == "meta"
    assert all(map(torch.equal, plain, moved))


def test_a_part_that_breaks_is_reported_and_the_others_run(tmp_path, monkeypatch, capsys):
    def breaks(device, sizes):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "PARTS", {"one": breaks, "two": lambda d, s: {"passed": True}})
    output = tmp_path / "gpu.json"
    assert gpu.main(["--rehearse", "--only", "one", "two", "--output", str(output)]) == 1
    results = json.loads(output.read_text())
    assert results["one"]["error"] == "RuntimeError: out of memory"
    assert results["two"]["passed"]
    assert "failed: one" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_a_gpu_nothing_is_run(capsys):
    assert gpu.main([]) == 0
    assert "no CUDA device here, nothing was run" in capsys.readouterr().out
