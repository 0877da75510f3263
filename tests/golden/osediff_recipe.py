"""The weights behind OSEDiff's golden outputs: its adapters on S3Diff's small snapshot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data" / "osediff"


def write_osediff_weights(folder: Path, snapshot: Path) -> Path:
    """Make a weights folder of `osediff.pkl` and a link to the snapshot."""
    folder.mkdir(parents=True)
    (folder / "sd-turbo").symlink_to(snapshot)
    shutil.copy(DATA / "osediff.pkl", folder)
    return folder


def as_passionsr(content: dict[str, Any]) -> dict[str, Any]:
    """The same adapters as PassionSR spells them, with its unused one of the VAE's decoder."""
    renamed = {"state_dict_unet": "unet_state_dict", "state_dict_vae": "vae_state_dict"}
    spelled = {renamed.get(key, key): value for key, value in content.items()}
    vae = spelled["vae_state_dict"]
    unused = {
        name.replace("encoder.", "decoder.", 1).replace("default_encoder", "default_decoder"): t + 1
        for name, t in vae.items()
        if name.startswith("encoder.")
    }
    layers = sorted({name.partition(".lora_")[0] for name in unused})
    return {
        **spelled,
        "vae_state_dict": vae | unused,
        "vae_lora_decoder_modules": layers,
    }
