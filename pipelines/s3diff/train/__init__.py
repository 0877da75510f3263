"""Training of S3Diff: modulated adapters on a frozen one-step diffusion model (paper section 3)."""
