"""Checkpoints: killed and resumed equals uninterrupted, bit for bit; damage is told, not loaded."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tutor
from tutor import checkpoints
from tutor.checkpoints import CheckpointError
from tutor.models import VAE, BetaVAE

fit = partial(tutor.fit, device="cpu", progress=False, batch_size=8)
DATA = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))

TRAIN = """
import sys, torch, tutor
from functools import partial
torch.set_num_threads(1)
torch.manual_seed(0)
model = tutor.models.VAE(image_shape=(1, 4, 4))
data = torch.rand(32, 1, 4, 4, generator=torch.Generator().manual_seed(0))
tutor.fit(model, data, steps=int(sys.argv[2]), batch_size=8, seed=5, device="cpu",
          checkpoint=sys.argv[1], checkpoint_every=20, progress=False)
"""


def small_vae(seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE(image_shape=(1, 4, 4))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def run_in_process(folder: Path, steps: int) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", TRAIN, str(folder), str(steps)])


def test_resumed_equals_uninterrupted(tmp_path):
    whole = small_vae()
    table = fit(whole, DATA, steps=130, seed=5)
    parts = small_vae()
    fit(parts, DATA, steps=70, seed=5, checkpoint=tmp_path, checkpoint_every=30)
    parts = small_vae(seed=1)  # other weights: everything must come from the folder
    resumed = fit(parts, DATA, steps=130, seed=5, checkpoint=tmp_path, checkpoint_every=30)
    assert same(weights(whole), weights(parts))
    # 70 is no multiple of the window of 50: the run asked for 70 closed a short row there.
    assert resumed.index.tolist() == [50, 70, 100, 130]
    assert table.loc[50].tolist() == resumed.loc[50].tolist()


def test_weights_with_channels_last_resume_bit_for_bit(tmp_path):
    """A fused Adam walks through memory: moments must lie there in the order of the weights."""

    def model() -> VAE:
        torch.manual_seed(0)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 6, 2), torch.nn.Flatten()
        )
        encoder = torch.nn.Sequential(net, torch.nn.Linear(6, 4))
        vae = VAE(image_shape=(1, 4, 4), encoder=encoder)
        return vae.to(memory_format=torch.channels_last)

    whole, parts = model(), model()
    assert not whole.encoder[0][2].weight.is_contiguous()
    fit(whole, DATA, steps=20, seed=5)
    fit(parts, DATA, steps=9, seed=5, checkpoint=tmp_path)
    fit(parts := model(), DATA, steps=20, seed=5, checkpoint=tmp_path)
    assert same(weights(whole), weights(parts))


def test_a_module_shared_by_two_players_resumes_bit_for_bit(tmp_path):
    class Shared(VAE):
        @property
        def players(self):
            return {"autoencoder": [self.encoder, self.decoder], "encoder": [self.encoder]}

        def step(self, x):
            yield from super().step(x)
            yield tutor.Turn("encoder", self.encode(x).mean.square().sum(1).mean())

    def play(steps, **settings):
        torch.manual_seed(0)
        model = Shared(image_shape=(1, 4, 4))
        fit(model, DATA, steps=steps, **settings)
        return weights(model)

    whole = play(60)
    play(40, checkpoint=tmp_path)
    assert same(whole, play(60, checkpoint=tmp_path))


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_equals_uninterrupted(tmp_path):
    steps, rng = 1000, random.Random(0)
    assert run_in_process(tmp_path / "whole", steps).wait() == 0
    kills = 0
    for _ in range(10):
        process = run_in_process(tmp_path / "killed", steps)
        meta = tmp_path / "killed" / "checkpoint.json"
        before = meta.stat().st_mtime_ns if meta.exists() else 0
        while process.poll() is None and (not meta.exists() or meta.stat().st_mtime_ns == before):
            time.sleep(0.001)  # wait for its first checkpoint, then strike at a random moment
        time.sleep(rng.uniform(0, 0.2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        if kills == 3:
            assert run_in_process(tmp_path / "killed", steps).wait() == 0
            break
    assert kills >= 1, "the run finished before it could be killed: make it longer"

    def final(name: str) -> dict[str, torch.Tensor]:
        (file,) = (tmp_path / name).glob("state-*.safetensors")
        assert file.name == f"state-{steps:09d}.safetensors"
        return load_file(file)

    assert same(final("whole"), final("killed"))
    assert not list((tmp_path / "killed").glob("*.part"))
    a, b = (json.loads((tmp_path / n / "checkpoint.json").read_text()) for n in ("whole", "killed"))
    assert a["recorder"] == b["recorder"]


def test_a_finished_run_is_loaded_not_repeated(tmp_path):
    first = small_vae()
    table = fit(first, DATA, steps=60, checkpoint=tmp_path)
    again = small_vae(seed=3)
    loaded = fit(again, DATA, steps=60, checkpoint=tmp_path)
    assert same(weights(first), weights(again))
    assert loaded.equals(table)
    with pytest.raises(ValueError, match="at step 60, past steps=40"):
        fit(small_vae(), DATA, steps=40, checkpoint=tmp_path)


def test_no_pickle_and_one_state_file(tmp_path):
    fit(small_vae(), DATA, steps=40, checkpoint=tmp_path, checkpoint_every=10)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["checkpoint.json", "lock", "state-000000040.safetensors"]
    meta = json.loads((tmp_path / "checkpoint.json").read_text())
    assert meta["step"] == 40
    run = meta["run"]
    assert (run["seed"], run["batch_size"], run["examples"]) == (0, 8, 32)


def test_another_models_checkpoint_is_refused(tmp_path):
    fit(small_vae(), DATA, steps=10, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="a VAE, this is a BetaVAE"):
        fit(BetaVAE(image_shape=(1, 4, 4)), DATA, steps=20, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match=r"of another model: a VAE.*there and.*here"):
        fit(VAE(3, image_shape=(1, 4, 4)), DATA, steps=20, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"data": 1 - DATA}, "made with data="),
        ({}, {"optimizer": partial(torch.optim.SGD, lr=0.1)}, "made with the optimisers"),
        ({}, {"model": {"likelihood": "gaussian", "decoder_std": 0.1}}, "another VAE: it has"),
        (
            {"kind": BetaVAE, "model": {"beta": 1.0}},
            {"kind": BetaVAE, "model": {"beta": 50.0}},
            r"beta=1\.0.*beta=50\.0",
        ),
    ],
)
def test_runs_that_only_look_alike_are_refused(tmp_path, first, second, message):
    def play(kind=VAE, model=None, data=DATA, optimizer=None):
        return fit(kind(image_shape=(1, 4, 4), **(model or {})), data, steps=10,
                   checkpoint=tmp_path, optimizer=optimizer)  # fmt: skip

    play(**first)
    with pytest.raises(CheckpointError, match=message):
        play(**second)


def test_the_readers_own_files_are_left_alone(tmp_path):
    own = [tmp_path / "film.mp4.part", tmp_path / "state-of-the-art.safetensors"]
    for file in own:
        file.write_bytes(b"mine")
    fit(small_vae(), DATA, steps=2, checkpoint=tmp_path)
    assert all(file.read_bytes() == b"mine" for file in own)


def test_a_disk_without_locks_can_still_be_used(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    fit(small_vae(), DATA, steps=2, checkpoint=tmp_path)
    assert (tmp_path / "checkpoint.json").exists()


def test_the_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fit(small_vae(), DATA, steps=2, checkpoint="~/runs")
    assert (tmp_path / "runs" / "checkpoint.json").exists()


def test_a_checkpoint_that_lacks_a_part_is_damaged(tmp_path):
    fit(small_vae(), DATA, steps=2, checkpoint=tmp_path)
    meta = json.loads((tmp_path / "checkpoint.json").read_text())
    del meta["recorder"]
    (tmp_path / "checkpoint.json").write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match=r"damaged \(it lacks \['recorder'\]\)"):
        fit(small_vae(), DATA, steps=4, checkpoint=tmp_path)


def test_other_settings_are_refused(tmp_path):
    fit(small_vae(), DATA, steps=10, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="made with seed=0, this run has seed=1"):
        fit(small_vae(), DATA, steps=20, seed=1, checkpoint=tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "json"])
def test_damage_is_told(tmp_path, damage):
    fit(small_vae(), DATA, steps=10, checkpoint=tmp_path)
    (state,) = tmp_path.glob("state-*.safetensors")
    if damage == "truncate":
        state.write_bytes(state.read_bytes()[:-100])
        message = r"is truncated: \d+ of \d+ bytes"
    elif damage == "alter":
        content = bytearray(state.read_bytes())
        content[-5] ^= 1
        state.write_bytes(content)
        message = "does not match its SHA-256"
    elif damage == "remove":
        state.unlink()
        message = "can't be read"
    else:
        (tmp_path / "checkpoint.json").write_text('{"step": 10')
        message = r"checkpoint\.json is damaged"
    with pytest.raises(CheckpointError, match=message):
        fit(small_vae(), DATA, steps=20, checkpoint=tmp_path)


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    real = checkpoints.write_atomically
    calls = {"n": 0}

    def full_after_the_first(path, payload):
        calls["n"] += path.name.startswith("state-")
        if calls["n"] > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, payload)

    monkeypatch.setattr(checkpoints, "write_atomically", full_after_the_first)
    with pytest.raises(CheckpointError, match=r"No space left on device.*step 20 is intact"):
        fit(small_vae(), DATA, steps=60, checkpoint=tmp_path, checkpoint_every=20)
    monkeypatch.undo()
    whole, parts = small_vae(), small_vae(seed=2)
    fit(whole, DATA, steps=60)
    fit(parts, DATA, steps=60, checkpoint=tmp_path, checkpoint_every=20)
    assert same(weights(whole), weights(parts))


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    checkpoints.write_atomically(target, b"old")

    def fails(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", fails)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write_atomically(target, b"new and longer")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path):
    # A file where the folder should be: refused to every user, root included.
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CheckpointError, match="can't be written to"):
        fit(small_vae(), DATA, steps=10, checkpoint=blocked / "run")


def test_a_read_only_disk_is_told_at_once(tmp_path, monkeypatch):
    def read_only(*_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checkpoints, "write_atomically", read_only)
    with pytest.raises(CheckpointError, match="Read-only file system"):
        fit(small_vae(), DATA, steps=10, checkpoint=tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="advisory locks are POSIX")
@pytest.mark.slow
def test_two_processes_on_one_folder(tmp_path):
    process = run_in_process(tmp_path, 10_000_000)
    try:
        while not (tmp_path / "checkpoint.json").exists():
            time.sleep(0.01)
        with pytest.raises(CheckpointError, match="another process is training"):
            fit(small_vae(), DATA, steps=10, seed=5, checkpoint=tmp_path)
    finally:
        process.kill()
        process.wait()
    # The kill released the folder.  It is past step 10 by now, and says so.
    with pytest.raises(ValueError, match="past steps=10"):
        fit(small_vae(), DATA, steps=10, seed=5, checkpoint=tmp_path)
