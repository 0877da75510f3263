"""Stable Diffusion 2.1's networks as flat modules, and what one-step pipelines on them share."""
