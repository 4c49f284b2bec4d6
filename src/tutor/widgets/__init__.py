"""Live figures: in a notebook with a kernel, in the built book without one, and as pictures."""

from __future__ import annotations

from tutor.widgets._live import LiveFigure
from tutor.widgets.export import export_decoder
from tutor.widgets.frames import PosteriorFrames, posterior_frames
from tutor.widgets.latent_explorer import LatentExplorer
from tutor.widgets.posterior_viewer import PosteriorViewer

__all__ = [
    "LatentExplorer",
    "LiveFigure",
    "PosteriorFrames",
    "PosteriorViewer",
    "export_decoder",
    "posterior_frames",
]
