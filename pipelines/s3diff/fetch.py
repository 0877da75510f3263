"""Download the published weights by name into the hub's cache; broken downloads are resumed."""

from __future__ import annotations

from pathlib import Path

from pipelines.contract import PipelineError
from pipelines.s3diff.weight_sources import (
    S3DIFF_FILES,
    S3DIFF_REPOSITORY,
    SD_TURBO_REPOSITORY,
    hub_snapshot,
)

_PATTERNS = [
    "model_index.json",
    "scheduler/*",
    "tokenizer/*",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
]


def fetch() -> Path:
    """Download what is missing of S3Diff and SD-Turbo (about 5.4 GB).

    Returns:
        A folder in the published layout.

    Raises:
        ConnectionError: The hub cannot be reached or refuses; the message is one line.
        PipelineError: The hub no longer has a file that is needed.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository = S3DIFF_REPOSITORY
    try:
        for name in S3DIFF_FILES:
            hf_hub_download(repository, name)
        repository = SD_TURBO_REPOSITORY
        snapshot_download(repository, allow_patterns=_PATTERNS)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ConnectionError(
            f"{repository} cannot be downloaded ({reason}); check the network, or give a folder "
            "with --weights"
        ) from error
    found = hub_snapshot()
    if found is None:
        raise PipelineError(
            f"{S3DIFF_REPOSITORY} or {SD_TURBO_REPOSITORY} lacks files that S3Diff needs; "
            "give a folder with --weights"
        )
    return found
