"""Live figures: in a notebook with a kernel, in the built book without one, and as pictures."""

from __future__ import annotations

from tutor.widgets._live import LiveFigure
from tutor.widgets.export import export_decoder
from tutor.widgets.frames import PosteriorFrames, posterior_frames
from tutor.widgets.latent_explorer import LatentExplorer
from tutor.widgets.posterior_viewer import PosteriorViewer
from tutor.widgets.prior_playground import PriorPlayground
from tutor.widgets.recorded import recorded_frames
from tutor.widgets.recordings import Recording
from tutor.widgets.transport_plan import TransportPlan
from tutor.widgets.traversal_board import TraversalBoard

__all__ = [
    "LatentExplorer",
    "LiveFigure",
    "PosteriorFrames",
    "PosteriorViewer",
    "PriorPlayground",
    "Recording",
    "TransportPlan",
    "TraversalBoard",
    "export_decoder",
    "posterior_frames",
    "recorded_frames",
]
