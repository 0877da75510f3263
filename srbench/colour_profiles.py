"""ICC profiles: which of an input's still tells the colours of the RGB output made of it."""

from __future__ import annotations

import io
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Carried:
    """What becomes of an embedded profile.

    Attributes:
        profile: To be embedded in the output; None where it does not describe RGB values.
        note: For the user, empty where nothing is to be said.
    """

    profile: bytes | None
    note: str


def carry(profile: bytes) -> Carried:
    """Decide on the profile of an input whose pixel values are processed as stored.

    One for RGB is copied, so that viewers show output and input alike. Networks were trained on
    sRGB: any other is told. One for grey or CMYK values says nothing about the RGB ones that are
    made of them.

    Args:
        profile: As embedded in a file.
    """
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = " ".join(ImageCms.getProfileDescription(opened).split())
        space = opened.profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, TypeError, ValueError):
        return Carried(None, "its colour profile is damaged and not copied")
    if space != "RGB":
        return Carried(
            None,
            f"its colour profile '{name}' ({space}) is not that of RGB values: "
            "it is not copied, colours may shift",
        )
    if "srgb" in name.lower():
        return Carried(profile, "")
    return Carried(
        profile,
        f"colours are processed as stored, in its profile '{name}', which is copied; networks "
        "know sRGB",
    )
