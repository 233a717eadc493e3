"""Tidy frames behind the figures: costs and runs go in, one row per mark comes out.

A frame holds everything that its figure shows and that a claim needs, the
paper's own values included, so that its csv alone draws and judges again.
"""

from fedquad.report.frames.fig01 import communication_frame, memory_frame, tuning_latency_frame
from fedquad.report.frames.fig02 import position_accuracy_frame, position_cost_frame
from fedquad.report.frames.fig03 import depth_accuracy_frame, depth_cost_frame

__all__ = [
    "communication_frame",
    "depth_accuracy_frame",
    "depth_cost_frame",
    "memory_frame",
    "position_accuracy_frame",
    "position_cost_frame",
    "tuning_latency_frame",
]
