"""References of a fidelity record that are no arm of the run; no arm may have such a name."""

FP32 = "fp32"
"""The baseline pipeline in float32, TF32 off, same input and noise."""
REPEAT = "repeat"
"""The arm's own picture again, in the same process: the worst of several."""
OTHER_SEED = "other_seed"
"""The arm's own picture with other noise: how much the model itself varies."""
OTHER_PROCESS = "other_process"
"""What the arm painted in other processes, where that differs: the worst of it."""
ROLES = frozenset({FP32, REPEAT, OTHER_SEED, OTHER_PROCESS})
