"""S3Diff: degradation-guided one-step super-resolution (Zhang et al., ECCV 2024)."""
