"""srbench: benchmarking and regression harness for diffusion super-resolution."""

__version__ = "0.1.0"
