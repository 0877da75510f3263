"""What goes wrong when untrusted files of `torch.save` are read."""

from __future__ import annotations

import pickle
import struct

UNREADABLE = (
    *(OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(AssertionError, OverflowError, pickle.UnpicklingError, struct.error),
)
"""What `torch.load` raises for truncated and damaged files."""
