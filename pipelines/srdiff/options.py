"""Options of the SRDiff pipelines; torch-free, so that the harness can check options at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.contract import PipelineError, Rung
from pipelines.srdiff.config import SIZE_MULTIPLE

AUTO = 0
"""Value of `tile` that leaves the choice to the pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SRDiffOptions:
    """What changes the picture.

    Attributes:
        divisor: Of 8-bit values before upsampling: the published weights were trained with 256
            (white maps to 0.992), the honest one is 255.
        noise: Where noise is drawn. `device`: quick, other numbers on a GPU than on a CPU. `cpu`:
            the same everywhere, and slower than the network on a GPU.
    """

    divisor: Literal[255, 256] = 256
    noise: Literal["device", "cpu"] = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions(SRDiffOptions):
    """Options of `srdiff-baseline`: none of its own."""


OPTIMIZED_RUNGS = (
    Rung(
        "S1",
        "encoder without its super-resolution tail",
        {
            "half_weights": "false",
            "device_resize": "false",
            "hoist_condition": "false",
            "hoist_time": "false",
            "fold_time": "false",
            "channels_last": "false",
            "cudnn_autotune": "false",
            "fused_step": "false",
            "fused_mish": "false",
            "pinned_transfers": "false",
            "cuda_graphs": "false",
        },
    ),
    Rung("S2", "fp16 weights instead of autocast", {"half_weights": "true"}),
    Rung("S3", "LR upsampled on the device", {"device_resize": "true"}),
    Rung("S4", "condition projected once an image", {"hoist_condition": "true"}),
    Rung("S5-table", "time embedding from a table", {"hoist_time": "true"}),
    Rung("S5", "time embedding folded into biases", {"fold_time": "true"}),
    Rung("S6-layout", "channels_last", {"channels_last": "true"}),
    Rung("S6", "cuDNN autotuned", {"cudnn_autotune": "true"}),
    Rung("S7", "sampler step in one kernel", {"fused_step": "true"}),
    Rung("S8", "Mish, bias, residual and padding in one kernel", {"fused_mish": "true"}),
    Rung("S9-transfers", "pinned asynchronous transfers", {"pinned_transfers": "true"}),
    Rung("S9", "steps replayed from a CUDA graph", {"cuda_graphs": "true"}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedOptions(SRDiffOptions):
    """Options of `srdiff-optimized`: every optimization is one switch, all on.

    Each one is exact: switched off, the same function is computed the published way. `tile` is not:
    it is for pictures that do not fit.

    Attributes:
        half_weights: With precision fp16: fp16 weights instead of float32 weights under autocast;
            the sample and every sampler step stay float32.
        device_resize: MATLAB's bicubic on the device instead of in numpy.
        hoist_condition: Project the encoder's features to full resolution once an image.
        hoist_time: Time embedding and its projections from a table made at load.
        fold_time: With that table: the projections folded into the second convolutions' biases,
            exact under reflection padding.
        channels_last: NHWC memory format.
        cudnn_autotune: Let cuDNN time its algorithms once for each new shape.
        fused_step: x0, clamp, posterior mean and noise in one Triton kernel.
        fused_mish: Bias, Mish, residual, condition and reflection padding in one Triton kernel.
        pinned_transfers: Images through pinned host memory, asynchronously.
        cuda_graphs: Replay the steps of prepared sizes from a CUDA graph.
        tile: Side of a tile of the UNet in HR pixels; 0 tiles only what would not fit into memory.
        tile_overlap: Of neighbouring tiles: its outer quarters are context, the middle half is
            blended at every step.
    """

    RUNGS: ClassVar[tuple[Rung, ...]] = OPTIMIZED_RUNGS

    half_weights: bool = True
    device_resize: bool = True
    hoist_condition: bool = True
    hoist_time: bool = True
    fold_time: bool = True
    channels_last: bool = True
    cudnn_autotune: bool = True
    fused_step: bool = True
    fused_mish: bool = True
    pinned_transfers: bool = True
    cuda_graphs: bool = True
    tile: int = AUTO
    tile_overlap: int = 64

    def __post_init__(self) -> None:
        for name, least in (("tile", 0), ("tile_overlap", SIZE_MULTIPLE)):
            value = getattr(self, name)
            if value < least or value % SIZE_MULTIPLE:
                raise PipelineError(
                    f"option {name}={value}: must be a multiple of {SIZE_MULTIPLE} from {least}"
                )
        if self.tile and self.tile < 2 * self.tile_overlap:
            raise PipelineError(
                f"option tile={self.tile}: must be at least twice tile_overlap={self.tile_overlap}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DdimOptions(OptimizedOptions):
    """Options of `srdiff-ddim`, which takes fewer steps: another function.

    Attributes:
        steps: Timesteps visited, evenly spaced from the last to the first.
        eta: 0 is deterministic after the first noise (Song et al. 2021, equation 12), 1 adds as
            much noise as ancestral sampling.
    """

    steps: int = 20
    eta: float = 0.0

    def __post_init__(self) -> None:
        OptimizedOptions.__post_init__(self)
        if self.steps < 1:
            raise PipelineError(f"option steps={self.steps}: must be at least 1")
        if not 0 <= self.eta <= 1:
            raise PipelineError(f"option eta={self.eta}: must be from 0 to 1")
