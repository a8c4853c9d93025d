"""Widths of the stars of two images: which of the two has the wider PSF, whatever their PSF models say."""

import numpy as np
from jaxtyping import Float

from ..instrument.psf import ImagePSF

WIDER = 1.02
"""Ratio of the FWHM of the exposure's stars to the reference's from which on they are wider; images tell 1 %."""


def fluxes_of_stars(stamps: Float[np.ndarray, "star n n"]) -> Float[np.ndarray, " star"]:
    """Sum of each cut-out above the median of its border."""
    return _above_border(stamps).sum(axis=(-2, -1))


def width_of_stars(stamps: Float[np.ndarray, "star n n"]) -> float:
    """FWHM of the median star in pixels, NaN without any."""
    light = _above_border(stamps)
    total = light.sum(axis=(-2, -1))
    shining = np.isfinite(total) & (total > 0)
    if not shining.any():
        return float("nan")
    median = np.median(light[shining] / total[shining, None, None], axis=0)
    if not median.sum() > 0:
        return float("nan")
    return float(np.asarray(ImagePSF(median).fwhm())[0])


def what_is_wider(
    band: str, source: Float[np.ndarray, "star n n"], target: Float[np.ndarray, "star n n"]
) -> str | None:
    """A sentence that says so if the exposure's stars are wider than those of the reference, else None."""
    widths = width_of_stars(source), width_of_stars(target)
    if not widths[0] > WIDER * widths[1]:
        return None
    return (
        f"the exposure has the wider PSF in band {band} (FWHM of its stars {widths[0]:.2f} pixels, of the reference's "
        f"{widths[1]:.2f}), and a kernel can only blur; exchange the two, and convolve the reference"
    )


def _above_border(stamps: Float[np.ndarray, "star n n"]) -> Float[np.ndarray, "star n n"]:
    edge = stamps.shape[-1]
    inner = np.zeros((edge, edge), bool)
    inner[2:-2, 2:-2] = True
    level = np.median(stamps[:, ~inner], axis=1) if len(stamps) else np.zeros(0)
    return stamps - level[:, None, None]
