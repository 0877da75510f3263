"""The metrics that can be asked for, by name; torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from srbench.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Metric:
    """A picture metric.

    Attributes:
        name: As in records and on the command line.
        unit: `dB` or empty.
        higher_is_better: Direction.
        variant: What exactly is computed.
        needs_reference: False for metrics of the picture alone.
        of_folders: One value for all pictures together; no picture has one of its own.
    """

    name: str
    unit: str
    higher_is_better: bool
    variant: str
    needs_reference: bool = True
    of_folders: bool = False


_Y = "Y of BT.601 studio range, no border crop"
METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "dB", True, f"{_Y}, 1e-8 added to the MSE: at most 80 dB"),
        Metric(
            "psnr_rgb",
            "dB",
            True,
            "RGB, all pixels, 10 log10(255^2 / MSE) but for 1e-8 added to the MSE of [0, 1]: "
            "0.001 dB less at 43 dB, at most 80 dB",
        ),
        Metric("ssim", "", True, _Y),
        Metric("ssim_rgb", "", True, "RGB"),
        Metric(
            "ssim_skimage",
            "",
            True,
            "structural_similarity of uint8 RGB: 7x7 uniform window, sample covariance, mean over "
            "channels, 3 pixels at the borders excluded",
        ),
        Metric(
            "lr_psnr",
            "dB",
            True,
            "uint8 imresize(SR, 1/scale) against the uint8 LR, RGB, MATLAB bicubic; "
            "1e-16 added to the MSE of [0, 1]: at most 160 dB",
        ),
        Metric(
            "diversity",
            "",
            True,
            "standard deviation over the samples (divided by their number, not one less) of values "
            "in 0-255, mean over pixels and channels",
        ),
        Metric("lpips", "", False, "AlexNet, version 0.1"),
        Metric("lpips-vgg", "", False, "VGG16, version 0.1"),
        Metric("ms_ssim", "", True, "Y"),
        Metric("cw_ssim", "", True, "Y"),
        Metric("fsim", "", True, "chromatic"),
        Metric("gmsd", "", False, "Y"),
        Metric("nlpd", "", False, "Y"),
        Metric("vif", "", True, "pixel domain"),
        Metric("vsi", "", True, "RGB"),
        Metric("mad", "", False, "Y"),
        Metric("dists", "", False, "VGG16, the authors' alpha and beta"),
        Metric("piqe", "", False, "no reference", needs_reference=False),
        Metric(
            "niqe",
            "",
            False,
            "no reference, Y of YIQ rounded to 8 bits, 96x96 blocks, the authors' pristine model",
            needs_reference=False,
        ),
        Metric("brisque", "", False, "no reference", needs_reference=False),
        Metric("musiq", "", True, "no reference, trained on KonIQ-10k", needs_reference=False),
        Metric("clipiqa", "", True, "no reference, CLIP RN50", needs_reference=False),
        Metric("maniqa", "", True, "no reference, trained on KonIQ-10k", needs_reference=False),
        Metric("maniqa-pipal", "", True, "no reference, trained on PIPAL", needs_reference=False),
        Metric(
            "fid",
            "",
            False,
            "FID's own InceptionV3, 2048 features, pictures resized to 299x299 as clean-fid does",
            of_folders=True,
        ),
    )
}


def parse_metrics(text: str) -> list[str]:
    """Split a comma-separated list of metric names.

    Raises:
        UsageError: An unknown name, or none at all.
    """
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError("--metrics: no metric named; for example --metrics psnr,ssim,lpips")
    for name in names:
        if name not in METRICS:
            raise UsageError(f"metric '{name}': unknown.{did_you_mean(name, list(METRICS))}")
    return names
