"""Memory of a card that an image may still take."""

from __future__ import annotations

import torch


def free_card_bytes(device: torch.device, graph_bytes: int = 0) -> int:
    """What can still be allocated on a CUDA device.

    Args:
        device: The card.
        graph_bytes: Kept by captured graphs: reserved, and of no use to anything else.
    """
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + max(0, kept - graph_bytes)
