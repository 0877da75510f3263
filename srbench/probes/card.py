"""How a card is set up: limits, modes, link; read once, unlike its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srbench.nvml import ask, library, watts


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSettings:
    """Settings of a card, each None where the driver does not tell.

    Attributes:
        max_clock_mhz: Highest SM clock.
        application_clock_mhz: SM clock that a user asked for (`nvidia-smi -ac`).
        default_clock_mhz: What it is when nobody did.
        power_limit_w: Enforced board power limit.
        default_power_w: What it is when nobody changed it.
        persistence: Whether the driver stays loaded while no process uses the card.
        ecc: Whether memory errors are corrected.
        ecc_errors: Uncorrected ones since the driver was loaded.
        mig: Whether the card is cut into instances.
        link_width: PCIe lanes in use.
        max_link_width: PCIe lanes that card and slot have.
        display: Whether a display is attached or drawn on.
    """

    max_clock_mhz: int | None = None
    application_clock_mhz: int | None = None
    default_clock_mhz: int | None = None
    power_limit_w: float | None = None
    default_power_w: float | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    ecc_errors: int | None = None
    mig: bool | None = None
    link_width: int | None = None
    max_link_width: int | None = None
    display: bool | None = None


def card_settings(uuid: str) -> CardSettings:
    """Read the settings of the card with that identifier."""
    with library() as nvml:
        handle = None if nvml is None else ask(nvml, "nvmlDeviceGetHandleByUUID", uuid)
        if nvml is None or handle is None:
            return CardSettings()

        def get(name: str, *arguments: Any) -> Any:
            return ask(nvml, f"nvmlDeviceGet{name}", handle, *arguments)

        def flag(name: str) -> bool | None:
            value = get(name)
            current = value[0] if isinstance(value, (list, tuple)) else value
            return None if current is None else bool(current)

        display = [flag("DisplayActive"), flag("DisplayMode")]
        return CardSettings(
            max_clock_mhz=get("MaxClockInfo", nvml.NVML_CLOCK_SM),
            application_clock_mhz=get("ApplicationsClock", nvml.NVML_CLOCK_SM),
            default_clock_mhz=get("DefaultApplicationsClock", nvml.NVML_CLOCK_SM),
            power_limit_w=watts(get("EnforcedPowerLimit")),
            default_power_w=watts(get("PowerManagementDefaultLimit")),
            persistence=flag("PersistenceMode"),
            ecc=flag("EccMode"),
            ecc_errors=get(
                "TotalEccErrors", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            ),
            mig=flag("MigMode"),
            link_width=get("CurrPcieLinkWidth"),
            max_link_width=get("MaxPcieLinkWidth"),
            display=True if True in display else display[0],
        )
