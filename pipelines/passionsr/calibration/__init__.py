"""Distributed calibration of quantized one-step networks (PassionSR): photographs to bounds."""
