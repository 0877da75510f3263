"""Instruments that workers put around images. They import torch lazily, or not at all on CPU."""
