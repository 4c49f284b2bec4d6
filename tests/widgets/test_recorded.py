"""Frames packed for shipping come back as they were, within a level of their shading."""

from __future__ import annotations

import pytest
import torch

from tutor import pretrained
from tutor.data import four_points
from tutor.models import AVB, VAE
from tutor.noise_encoders import NoiseEncoder
from tutor.widgets import posterior_frames, recorded_frames
from tutor.widgets.recorded import save_frames


def frames():
    torch.manual_seed(0)
    shape = (1, 2, 2)
    x = four_points()[:]
    encoder = NoiseEncoder(shape, 2, noise_dim=2, hidden=(8,))
    models = [VAE(2, image_shape=shape), AVB(2, image_shape=shape, encoder=encoder)]
    for model in models:  # a random decoder knows little of z; a steeper one shapes the posterior
        model.decoder[-2].weight.data *= 20
    return [posterior_frames([m, m], x, [0, 10], samples=20, points=24) for m in models]


def test_frames_survive_packing(tmp_path, monkeypatch):
    before = frames()
    save_frames(tmp_path, "mine", before, {"data": "four_points"})
    monkeypatch.setattr(pretrained, "_RECORDINGS", tmp_path)
    after = recorded_frames("mine")
    for a, b in zip(before, after, strict=True):
        assert a.name == b.name
        assert torch.equal(a.steps, b.steps)
        for field in ("bounds", "mean", "log_var", "log_evidence", "kl"):
            one, two = getattr(a, field), getattr(b, field)
            assert (one is None) == (two is None)
            assert one is None or torch.equal(one, two)
        peak = a.log_density.flatten(2).amax(2)[..., None, None]
        shades = [(0.5 * (f.log_density - peak)).exp() for f in (a, b)]
        # rounded to the nearest of 255 levels, and never below half a level
        assert (shades[0] - shades[1]).abs().max() <= 0.5 / 255 + 1e-6
    # float16 keeps eleven bits
    torch.testing.assert_close(before[1].samples, after[1].samples, rtol=1e-3, atol=1e-4)


def test_other_recordings_are_refused(tmp_path, monkeypatch):
    pretrained.save_recording({"codes": torch.zeros(2)}, tmp_path, "codes", {"kind": "codes"})
    monkeypatch.setattr(pretrained, "_RECORDINGS", tmp_path)
    with pytest.raises(ValueError, match="is a recording of codes, not of posterior"):
        recorded_frames("codes")
    with pytest.raises(ValueError, match="nothing shipped is called 'none'"):
        recorded_frames("none")


def test_the_shipped_recording_ends_with_the_shipped_models():
    vae, avb = recorded_frames("avb_four_points")
    assert vae.steps.tolist() == avb.steps.tolist()
    for part, name in ((vae, "vae_four_points"), (avb, "avb_four_points")):
        measured = pretrained.provenance(name)["measured"]["log_likelihood"]
        # the frames were taken before the weights were rounded to float16
        assert part.log_evidence[-1].mean().item() == pytest.approx(measured, abs=2e-3)
        assert part.steps[-1] == pretrained.provenance(name)["steps"]
    # the draws are draws of the posteriors under which they stand: dense there
    left, right = avb.bounds.tolist()[:2]  # one square window for all
    size = avb.log_density.shape[-1]
    z = avb.samples[-1]  # (4, 300, 2)
    cell = ((z - left) / (right - left) * size).long().clamp(0, size - 1)
    own = avb.log_density[-1][torch.arange(4)[:, None], cell[..., 0], cell[..., 1]]
    others = avb.log_density[-1].roll(1, 0)
    other = others[torch.arange(4)[:, None], cell[..., 0], cell[..., 1]]
    assert (own > other).float().mean() > 0.95
