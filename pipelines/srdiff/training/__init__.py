"""Training of SRDiff: the encoder alone, then the diffusion on the frozen encoder (paper 3.4)."""
