"""OSEDiff: one-step effective diffusion for real-world super-resolution (Wu et al., 2024)."""
