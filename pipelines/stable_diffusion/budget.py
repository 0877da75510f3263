"""How much of a card one image may use: tiles in a batch of the UNet, and where VAE tiles wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pipelines.diffusion.memory import free_card_bytes
from pipelines.diffusion.tiling import LatentTiles, VaeTile
from pipelines.stable_diffusion.architecture import StableDiffusion
from pipelines.stable_diffusion.options import AUTO, VAE_FACTOR

ADA = (8, 9)
WIDE_BATCH = 16
"""Samples, which are tiles times prompts: below, the two lowest of the UNet's levels (144 and 576
rows a sample) leave multiprocessors idle; above, nothing is gained."""
CACHED_BATCH = 4
"""On Ada cards: the activations of 4 samples stay in the 72 to 96 MB of L2, beside slow memory."""
SAMPLE_MAPS = 27
"""Live bytes of one UNet sample over its top-level map (5.9 MB for 320 x 96 x 96 in fp16)."""
ALL_TILES, ONE_TILE = 1.05, 1.6
"""Live bytes of the VAE over the second level's full-resolution maps: of all tiles, and of the
largest one beside them (counted on the meta device, within 5 %)."""


@dataclass(frozen=True, slots=True)
class Card:
    """What decides on a device; None stands for a CPU.

    Attributes:
        capability: CUDA compute capability.
        free_bytes: What can still be allocated.
    """

    capability: tuple[int, int]
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of one image beside the weights.

    Attributes:
        resident: With all tiles of the VAE on the device.
        parked: With all but one in host memory.
        unet_sample: Of one UNet sample (a tile and a prompt).
    """

    resident: int
    parked: int
    unet_sample: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What an image may use.

    Attributes:
        tile_batch: UNet tiles in one batch at most.
        tile_batch_reason: Why.
        park: VAE tiles that wait are kept in pinned host memory.
        place: Where tiles wait and why, in words.
        needed_bytes: Of device memory beside the weights.
    """

    tile_batch: int
    tile_batch_reason: str
    park: bool
    place: str
    needed_bytes: int


def read_card(device: torch.device | None, graph_bytes: int = 0) -> Card | None:
    """The card behind a CUDA device, None for any other.

    Args:
        device: Any device.
        graph_bytes: Kept by captured graphs: reserved, and of no use to anything else.
    """
    if device is None or device.type != "cuda":
        return None
    usable = free_card_bytes(device, graph_bytes)
    return Card(torch.cuda.get_device_capability(device), usable)


def needs_of(
    architecture: StableDiffusion,
    vae_tiles: Sequence[VaeTile],
    unet_tiles: LatentTiles,
    element_bytes: int,
) -> Needs:
    """What an image needs, from the shapes of its tiles.

    Args:
        architecture: Of the networks.
        vae_tiles: Of the decoder, which needs more than the encoder.
        unet_tiles: Of the latent.
        element_bytes: Of an activation.
    """
    vae_width: int = sorted(architecture.vae["block_out_channels"])[1]
    unet_width: int = architecture.unet["block_out_channels"][0]
    maps = [
        element_bytes * vae_width * VAE_FACTOR**2 * tile.source.height * tile.source.width
        for tile in vae_tiles
    ]
    unet_map = element_bytes * unet_width * unet_tiles.tile_height * unet_tiles.tile_width
    return Needs(
        resident=int(ALL_TILES * sum(maps) + ONE_TILE * max(maps)),
        parked=int((ALL_TILES + ONE_TILE) * max(maps)),
        unet_sample=SAMPLE_MAPS * unet_map,
    )


def choose_budget(
    tile_batch: int,
    spill: Literal["auto", "never", "always"],
    needs: Needs,
    card: Card | None,
    prompts: int = 2,
) -> Budget:
    """Decide for one size.

    Args:
        tile_batch: As asked for; `AUTO` decides by the card, and by memory.
        spill: `auto` parks tiles where they would not fit.
        needs: Of the size.
        card: None without a card: memory is then the operating system's business.
        prompts: UNet samples of one tile.
    """
    park, why = _parking(spill, needs, card)
    needed = needs.parked if park else needs.resident
    batch, reason = _batch(tile_batch, needs, needed, card, prompts)
    return Budget(batch, reason, park, why, needed)


_PLACES = {False: "on the device", True: "in pinned host memory"}


def _parking(spill: str, needs: Needs, card: Card | None) -> tuple[bool, str]:
    if spill != "auto":
        return spill == "always", f"{_PLACES[spill == 'always']} (spill={spill})"
    if card is None:
        return False, f"{_PLACES[False]} (no card)"
    needed, free = needs.resident / 2**30, card.free_bytes / 2**30
    if needs.resident <= card.free_bytes:
        return False, f"{_PLACES[False]} ({needed:.1f} GiB needed, {free:.1f} GiB free)"
    return True, f"{_PLACES[True]} ({needed:.1f} GiB needed, only {free:.1f} GiB free)"


def _batch(
    tile_batch: int, needs: Needs, needed_bytes: int, card: Card | None, prompts: int
) -> tuple[int, str]:
    if tile_batch != AUTO:
        return tile_batch, f"tile_batch={tile_batch}"
    if card is None:
        return WIDE_BATCH // prompts, "default without a card"
    if card.capability == ADA:
        batch, why = CACHED_BATCH // prompts, "the activations stay in this card's L2"
    else:
        batch, why = WIDE_BATCH // prompts, "fills the card"
    # A captured graph keeps its memory beside the VAE's.
    fitting = max(1, (card.free_bytes - needed_bytes) // (prompts * needs.unet_sample))
    return (batch, why) if batch <= fitting else (fitting, "as many as fit in its memory")
