"""`lyradiff`: lyraDiff's S3Diff example (TMElyralab/lyraDiff, examples/S3Diff), as it runs.

Its class `InferenceS3` gets a picture and gives a picture; nothing between is done here.

Not as there: the posterior's noise comes from the seed of srbench, drawn on the CPU, and the
weights from srbench's folder, where the example reads `/app/weights` whatever it is told. Not as in
`s3diff-baseline`: corners are aligned when the picture is enlarged, each VAE tile is normalised by
itself, and colours are fixed before the picture is truncated to 8 bits.

Runs in lyraDiff's container: Python 3.8 or newer, its torch, diffusers, peft, torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Callable
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

_BUILT_IN_FOLDER = "/app/weights/"
_LAYOUT = "a weights folder of S3Diff holds sd-turbo/, s3diff.pkl and de_net.pth"


class LyraDiff(Engine):
    """The example's networks, in float16."""

    tiers: ClassVar[dict[str, str]] = {"fp16": "approx"}
    defaults: ClassVar[dict[str, Any]] = {
        "python": "",
        "checkout": "",
        "library": "",
        "weights_dir": "",
        "guidance": 1.07,
        "latent_tile": 96,
        "latent_overlap": 32,
        "vae_encoder_tile": 1024,
        "vae_decoder_tile": 224,
    }

    def load(self, weights: Weights, device: str, precision: str) -> None:
        """Load the library, import the example and build its networks."""
        options = self.options
        folder = Path(options["weights_dir"] or weights.path).expanduser().absolute()
        library = Path(options["library"]).expanduser().absolute()
        if not options["library"] or not library.is_file():
            raise Refused(
                f"--set lyradiff.library={options['library']}: no such file; name "
                "libth_lyradiff.so, as it was built"
            )
        enter(
            options["checkout"],
            "lyradiff.checkout",
            ("inference_s3.py", "s3diff/s3diff_tile.py"),
            (".",),
        )
        files = {
            "pretrained_path": require_file(folder / "s3diff.pkl", _LAYOUT),
            "sd_path": require_file(folder / "sd-turbo", _LAYOUT),
            "de_net_path": require_file(folder / "de_net.pth", _LAYOUT),
        }
        # The example loads it by this variable, on import.
        os.environ["LYRA_LIB_PATH"] = str(library)
        torch = imported("torch")
        self._pictures = imported("PIL.Image")
        example, networks = imported("inference_s3"), imported("s3diff.s3diff_tile")
        networks.load_file = _redirected(networks.load_file, folder)
        theirs = torch.load
        torch.load = _redirected(theirs, folder)
        try:
            self._example = built(
                example.InferenceS3,
                vae_encoder_tiled_size=options["vae_encoder_tile"],
                vae_decoder_tiled_size=options["vae_decoder_tile"],
                device=device,
                **files,
            )
        finally:
            torch.load = theirs
        self._noise = SeededPosterior()
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        self.tf32 = device == "cuda" and bool(cudnn.allow_tf32 or matmul.allow_tf32)

    def prepare(self, height: int, width: int, scale: int) -> dict[str, str]:
        """Nothing is prepared; what ran, for the report."""
        return {"noise": self._noise.told, "library": Path(os.environ["LYRA_LIB_PATH"]).name}

    def upscale(self, image: Image, scale: int, seed: int) -> Any:
        """One image, by the example's own `process`."""
        import numpy

        self._noise.seeded(seed)
        options = self.options
        made = self._example.process(
            input_image=self._pictures.fromarray(image.numpy()),
            scale_factor=scale,
            cfg_scale=options["guidance"],
            latent_tiled_size=options["latent_tile"],
            latent_tiled_overlap=options["latent_overlap"],
            align_method="wavelet",  # the only one that the example still runs
            device=self.device,
        )
        return numpy.array(made)


def _redirected(load: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """A loader that reads from `folder` what the example's text has in `/app/weights`."""

    def load_from_folder(path: Any, *rest: Any, **named: Any) -> Any:
        return load(redirected(path, folder), *rest, **named)

    return load_from_folder


def redirected(path: Any, folder: Path) -> Any:
    """Where a path of the example's text lies in a weights folder; other paths stay."""
    if not str(path).startswith(_BUILT_IN_FOLDER):
        return path
    name = str(path)[len(_BUILT_IN_FOLDER) :]
    found = folder / ("s3diff.pkl" if name.endswith("s3diff.pkl") else name)
    if not found.exists():  # the float32 file serves as well: the example rounds it itself
        found = found.with_name(found.name.replace(".fp16.", "."))
    return require_file(found, _LAYOUT)


if __name__ == "__main__":
    serve(LyraDiff)
