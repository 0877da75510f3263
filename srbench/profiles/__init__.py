"""Device profiles: which card a name means, its datasheet peaks and its published times."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from srbench.errors import NotComparableError, UsageError, did_you_mean
from srbench.nvml import Gpu

_NOT_CARDS = ("cpu", "meta", "simulated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of device.

    Attributes:
        name: Folder under `results/`, and what `--gpu` takes.
        title: Name for tables.
        device_pattern: Regular expression searched in the driver's device name; empty on CPU.
        fp16_tflops: Dense fp16 peak of the datasheet, TFLOP/s; None when not known.
        int8_tops: Dense int8 peak of the datasheet, 10^12 operations a second; None where unknown.
        fp8_tflops: Dense fp8 peak of the datasheet, TFLOP/s; None where the card has none.
        bandwidth_gb_s: Memory bandwidth of the datasheet, GB/s.
        memory_gib: Memory of the datasheet, GiB.
        power_w: Board power of the datasheet, W.
        original_s: Case name -> published seconds an image of the original program.
        lyradiff_s: Case name -> published seconds an image of lyraDiff.
    """

    name: str
    title: str
    device_pattern: str = ""
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    fp8_tflops: float | None = None
    bandwidth_gb_s: float | None = None
    memory_gib: float | None = None
    power_w: float | None = None
    original_s: dict[str, float] = field(default_factory=dict)
    lyradiff_s: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """`cpu`, `cuda`, or a device that measures nothing: `meta`, `simulated`."""
        return self.name if self.name in _NOT_CARDS else "cuda"

    def matches(self, gpu: Gpu) -> bool:
        """Whether the driver's name of a card is this profile's."""
        return bool(self.device_pattern) and re.search(self.device_pattern, gpu.name) is not None


def profile_names() -> list[str]:
    """Names of the shipped profiles, sorted."""
    found = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def load_profile(name: str) -> Profile:
    """Read a shipped profile.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in profile_names():
        raise UsageError(f"--gpu '{name}': no such profile.{did_you_mean(name, profile_names())}")
    return Profile(
        name=name, **tomllib.loads((files(__name__) / f"{name}.toml").read_text("utf-8"))
    )


def profile_or_bare(name: str) -> Profile:
    """The shipped profile, or one without figures for a card that none was written for."""
    return load_profile(name) if name in profile_names() else Profile(name=name, title=name)


def slug(device_name: str) -> str:
    """Folder name for a card without a profile: `NVIDIA RTX 4090` -> `rtx-4090`."""
    words = re.findall(r"[a-z0-9]+", device_name.lower())
    return "-".join(word for word in words if word != "nvidia") or "gpu"


def profile_of(gpu: Gpu) -> Profile:
    """The profile a card belongs to; one without figures when none was written for it."""
    for name in profile_names():
        profile = load_profile(name)
        if profile.matches(gpu):
            return profile
    return Profile(
        name=slug(gpu.name),
        title=gpu.name,
        device_pattern=re.escape(gpu.name),
        memory_gib=gpu.memory_bytes / 2**30,
    )


def choose_profile(name: str, gpus: Sequence[Gpu]) -> tuple[Profile, Gpu | None]:
    """The profile to measure under and the card, None on CPU.

    Args:
        name: `auto`, `cpu` or a profile's name.
        gpus: What the driver shows, in the order CUDA uses.

    Raises:
        UsageError: No profile has that name.
        NotComparableError: The profile is of another device than the one found.
    """
    gpu = gpus[0] if gpus else None
    if name in _NOT_CARDS:
        return load_profile(name), None
    if name == "auto" and gpu is None:
        return load_profile("cpu"), None
    if gpu is not None and name in ("auto", profile_of(gpu).name):
        return profile_of(gpu), gpu
    wanted = load_profile(name)
    for other in gpus:
        if wanted.matches(other):
            raise NotComparableError(
                f"--gpu {name}: the first visible device is {gpus[0].name}; set "
                f"CUDA_VISIBLE_DEVICES={other.index} to use the {other.name}"
            )
    found = f"found {gpu.name}" if gpu else "found no GPU"
    use = f"--gpu {profile_of(gpu).name}" if gpu else "--gpu cpu"
    raise NotComparableError(
        f"--gpu {name}: {found}, and figures of another device are not comparable; use {use} "
        "or --gpu auto"
    )
