"""`s3diff-authors`: the checkout of S3Diff's authors (ArcticHare105/S3Diff), as its inference runs.

Its own classes compute everything between the enlarged picture and the VAE's output, its own
functions fix the colours; what its scripts do around them (enlarge, pad, crop, truncate to 8 bits)
is done here alike. `fp16` is float32 weights under autocast, as in its demo.

Not as there: the posterior's noise comes from the seed of srbench, drawn on the CPU. As there: TF32
is switched on by its own modules, caches are emptied around each image, prompts are encoded anew.

Runs in the checkout's environment: Python 3.8 or newer, torch, torchvision, diffusers, peft.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pipelines.external.checkout import (
        SeededPosterior,
        built,
        enter,
        imported,
        require_file,
    )
    from pipelines.external.srbench_engine import Engine, Image, Refused, Weights, serve
else:
    from checkout import SeededPosterior, built, enter, imported, require_file
    from srbench_engine import Engine, Refused, serve

_MULTIPLE = 64
_LAYOUT = "a weights folder of S3Diff holds sd-turbo/, s3diff.pkl and de_net.pth"


class Authors(Engine):
    """The published networks and colour fix."""

    tiers: ClassVar[dict[str, str]] = {"fp32": "approx", "fp16": "approx"}
    defaults: ClassVar[dict[str, Any]] = {
        "python": "",
        "checkout": "",
        "guidance": 1.07,
        "align_corners": False,
        "color_fix": "wavelet",
        "latent_tile": 96,
        "latent_overlap": 32,
        "vae_encoder_tile": 1024,
        "vae_decoder_tile": 224,
        "positive_prompt": (
            "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, "
            "and natural lighting."
        ),
        "negative_prompt": (
            "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, "
            "oversmooth"
        ),
    }
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {"color_fix": ("wavelet", "adain", "none")}

    def load(self, weights: Weights, device: str, precision: str) -> None:
        """Import the checkout and build its networks from a folder in the published layout."""
        options = self.options
        folder = Path(weights.path).absolute()
        enter(
            options["checkout"],
            "s3diff-authors.checkout",
            ("src/s3diff_tile.py", "src/de_net.py"),
            ("src", "."),
        )
        checkpoint, snapshot, estimator = (
            require_file(folder / name, _LAYOUT)
            for name in ("s3diff.pkl", "sd-turbo", "de_net.pth")
        )
        torch = imported("torch")
        self._transforms = imported("torchvision.transforms")
        networks, estimators = imported("s3diff_tile"), imported("de_net")
        self._colors = imported("utils.wavelet_color")
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self._network = built(
            networks.S3Diff,
            lora_rank_unet=stored["rank_unet"],
            lora_rank_vae=stored["rank_vae"],
            sd_path=snapshot,
            pretrained_path=checkpoint,
            args=argparse.Namespace(
                latent_tiled_size=options["latent_tile"],
                latent_tiled_overlap=options["latent_overlap"],
                vae_encoder_tiled_size=options["vae_encoder_tile"],
                vae_decoder_tiled_size=options["vae_decoder_tile"],
            ),
        )
        self._network.set_eval()
        self._network.guidance_scale = options["guidance"]
        self._network.to(device, dtype=torch.float32)
        self._estimator = built(estimators.DEResNet, num_in_ch=3, num_degradation=2)
        self._estimator.load_model(estimator)
        self._estimator.to(device).eval()
        self._noise = SeededPosterior()
        self._autocast = precision == "fp16"
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        self.tf32 = device == "cuda" and bool(cudnn.allow_tf32 or matmul.allow_tf32)

    def prepare(self, height: int, width: int, scale: int) -> dict[str, str]:
        """Nothing is prepared; what ran, for the report."""
        return {"noise": self._noise.told, "checkout": os.path.basename(os.getcwd())}  # noqa: PTH109, PTH119

    def upscale(self, image: Image, scale: int, seed: int) -> Any:
        """One image, as the checkout's inference does."""
        import torch

        self._noise.seeded(seed)
        with torch.no_grad():
            with self.stage("preprocess"):
                pixels = torch.from_numpy(image.numpy()).to(self.device)
                picture = pixels.permute(2, 0, 1)[None].float() / 255
                large = self._enlarged(picture, scale)
            output = self._infer(picture, self._padded((large * 2 - 1).clamp(-1, 1)))
            height, width = large.shape[-2:]
            with self.stage("postprocess"):
                unit = (output[0, :, :height, :width] * 0.5 + 0.5).float().cpu()
                made = self._transforms.ToPILImage()(unit)
        with self.stage("color_fix"):
            return self._fixed(made, large[0].cpu())

    def _enlarged(self, picture: Any, scale: int) -> Any:
        from torch.nn.functional import interpolate

        size = [scale * side for side in picture.shape[-2:]]
        corners = self.options["align_corners"]
        return interpolate(picture, size=size, mode="bilinear", align_corners=corners)

    def _padded(self, picture: Any) -> Any:
        from torch.nn.functional import pad

        height, width = picture.shape[-2:]
        right, bottom = -width % _MULTIPLE, -height % _MULTIPLE
        if right >= width or bottom >= height:
            raise Refused(
                f"{width}x{height} px: the checkout mirrors an output to multiples of {_MULTIPLE}, "
                f"for which a side of at most {_MULTIPLE // 2} px is too short"
            )
        return pad(picture, (0, right, 0, bottom), mode="reflect")

    def _infer(self, picture: Any, padded: Any) -> Any:
        import torch

        prompts = {
            "pos_prompt": [self.options["positive_prompt"]],
            "neg_prompt": [self.options["negative_prompt"]],
        }
        with torch.autocast(self.device, torch.float16, enabled=self._autocast):
            return self._network(padded, self._estimator(picture), **prompts)

    def _fixed(self, made: Any, large: Any) -> Any:
        import numpy

        fix = self.options["color_fix"]
        if fix != "none":
            source = self._transforms.ToPILImage()(large)
            made = getattr(self._colors, f"{fix}_color_fix")(made, source)
        return numpy.array(made)


if __name__ == "__main__":
    serve(Authors)
