"""Where the noise of a band is, and whether it agrees with the pixels."""

import dataclasses
from collections.abc import Callable

import numpy as np

from .arrays import as_float32, as_float64
from .lazy import BandSource, Noise, cut
from .masks import any_of, as_bits
from .noise_check import check_noise, windows_to_look_at


@dataclasses.dataclass(frozen=True)
class NoiseSource:
    """What says how noisy a band is.

    Attributes
    ----------
    label
        Where it comes from, for messages.
    kind
        What it is taken for, one of `NOISE_KINDS`; None where it was measured in the pixels.
    values
        Its values.
    to_variance
        Makes a variance of them.
    """

    label: str
    kind: str | None
    values: Noise
    to_variance: Callable[[np.ndarray], np.ndarray]


def look_at_noise(band: str, source: BandSource, noise: NoiseSource) -> None:
    """Compare the noise of a band with its pixels in some windows, and log a warning if they do not agree."""
    if noise.kind is None:
        return
    images, planes, sigmas, usable = [], [], [], []
    for box in windows_to_look_at(
        (source.image.shape[0], source.image.shape[1]), mapped=source.image.dtype is not None
    ):
        image = as_float32(source.image.read(box))
        plane = np.broadcast_to(as_float64(cut(source.noise, box)), image.shape)
        with np.errstate(invalid="ignore"):
            sigma = np.sqrt(source.to_variance(plane))
        good = np.isfinite(image) & np.isfinite(sigma) & (sigma > 0)
        if source.mask is not None:
            good &= ~any_of(as_bits(source.mask.pixels.read(box)), source.mask.bad)
        for values, part in zip((images, planes, sigmas, usable), (image, plane, sigma, good), strict=True):
            values.append(part)
    check_noise(noise.label, band, noise.kind, images, planes, sigmas, usable)
