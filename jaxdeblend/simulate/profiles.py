"""Shapes of simulated sources, and their exact Fourier transforms on the grid of the image.

Everything is drawn in Fourier space: a shape is integrated on a grid five times finer than the pixels,
transformed, cut to the frequencies that the pixels carry, and multiplied with the transform of the PSF. A PSF
that is sampled well enough (any survey's) carries nothing beyond them, so the result is the image that an
exact convolution gives.

This is deliberately independent of the models that the package fits: simulated truth must not share their
errors.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

OVERSAMPLE = 5
"""Fine samples along one pixel."""

Modulation = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Factor on the surface brightness at (radius / effective radius, azimuth), both in the plane of the disk."""


def sersic_coefficient(index: float) -> float:
    """b_n of the Sérsic profile, by the expansion of Ciotti & Bertin (1999, A&A 352, 447).

    Good to 4e-5 for n >= 1.

    Parameters
    ----------
    index
        Sérsic index n.

    Returns
    -------
    float
        b_n, for which the effective radius holds half of the flux.

    Examples
    --------
    >>> round(sersic_coefficient(4.0), 3), round(sersic_coefficient(1.0), 3)
    (7.669, 1.678)
    """
    series = (2, -1 / 3, 4 / 405, 46 / 25515, 131 / 1148175, -2194697 / 30690717750)
    return sum(factor * index ** (1 - k) for k, factor in enumerate(series))


@dataclasses.dataclass(frozen=True)
class Profile:
    """Elliptical Sérsic profile of unit flux, with modulations in the plane of the disk.

    I(R, θ) = I_0 exp(-b_n (R / R_e)^(1/n)) Π_j m_j(R / R_e, θ)

    Parameters
    ----------
    radius
        Effective (half-light) radius along the major axis R_e in pixels.
    index
        Sérsic index n: 1 a disk, 4 a bulge.
    axis_ratio
        Minor over major axis, (0, 1].
    angle
        Direction of the major axis, radians from x towards y.
    modulations
        Factors on the surface brightness. The flux stays 1 if their mean over the azimuth is 1 at each
        radius.
    """

    radius: float
    index: float
    axis_ratio: float = 1.0
    angle: float = 0.0
    modulations: tuple[Modulation, ...] = ()

    @property
    def peak(self) -> float:
        """I_0, the central surface brightness for unit flux, per square pixel."""
        n, b = self.index, sersic_coefficient(self.index)
        return b ** (2 * n) / (2 * math.pi * n * math.gamma(2 * n) * self.radius**2 * self.axis_ratio)

    def brightness(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Surface brightness per square pixel at offsets from the centre in pixels."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        u, v = x * cos + y * sin, (y * cos - x * sin) / self.axis_ratio
        radius = np.hypot(u, v) / self.radius
        values = self.peak * np.exp(-sersic_coefficient(self.index) * radius ** (1 / self.index))
        if self.modulations:
            azimuth = np.arctan2(v, u)
            for modulation in self.modulations:
                values *= modulation(radius, azimuth)
        return values

    def isophote(self, brightness: float) -> float:
        """Semi-major axis in pixels at which the unmodulated profile has fallen to a surface brightness."""
        decades = math.log(max(self.peak / brightness, 1.0)) / sersic_coefficient(self.index)
        return self.radius * decades**self.index

    def transform(self, center: np.ndarray, edges: tuple[int, int]) -> np.ndarray:
        """Half-plane transform (ky, kx) on an image of even edges (y, x), centred at (y, x) pixels."""
        reach = self.isophote(_NEGLIGIBLE)
        first = [min(max(math.floor(at - reach), 0), n - 1) for at, n in zip(center, edges, strict=True)]
        last = [min(max(math.ceil(at + reach), 0), n - 1) for at, n in zip(center, edges, strict=True)]
        counts = [(stop + 1 - start) * OVERSAMPLE for start, stop in zip(first, last, strict=True)]
        y, x = (np.arange(n) / OVERSAMPLE + start + _FIRST for n, start in zip(counts, first, strict=True))
        y, x = np.broadcast_arrays(y[:, None] - center[0], x[None] - center[1])
        fine = _pixel_means(self.brightness, y, x, 1 / OVERSAMPLE, depth=3) / OVERSAMPLE**2
        spectrum = np.fft.rfft(fine, edges[1] * OVERSAMPLE, axis=1)[:, : edges[1] // 2 + 1]
        spectrum = np.fft.fft(spectrum, edges[0] * OVERSAMPLE, axis=0)
        spectrum = np.concatenate([spectrum[: edges[0] // 2], spectrum[-edges[0] // 2 :]])
        ky, kx = frequencies(edges)
        cell = np.sinc(ky / OVERSAMPLE) * np.sinc(kx / OVERSAMPLE)
        return spectrum / cell * np.exp(-2j * math.pi * ((first[0] + _FIRST) * ky + (first[1] + _FIRST) * kx))


_FIRST = 0.5 / OVERSAMPLE - 0.5
"""Position of the first fine sample of pixel 0."""

_NEGLIGIBLE = 1e-8
"""Surface brightness per square pixel, for unit flux, at which a profile ends."""


@dataclasses.dataclass(frozen=True)
class Blobs:
    """Circular Gaussians of unit total flux: points (σ = 0), star-forming clumps, strings of debris.

    Parameters
    ----------
    offsets
        Offsets (blob, 2) from the centre, (y, x) in pixels.
    sigmas
        σ of each in pixels.
    fractions
        Fraction of the flux in each; they sum to 1.
    """

    offsets: np.ndarray
    sigmas: np.ndarray
    fractions: np.ndarray

    def isophote(self, brightness: float) -> float:
        """Distance from the centre in pixels at which the last blob has fallen to a surface brightness."""
        sigmas = np.maximum(self.sigmas, 0.3)
        peaks = self.fractions / (2 * math.pi * sigmas**2)
        reach = sigmas * np.sqrt(2 * np.log(np.maximum(peaks / brightness, 1.0)))
        return float(np.max(np.hypot(*self.offsets.T) + reach))

    def transform(self, center: np.ndarray, edges: tuple[int, int]) -> np.ndarray:
        """Half-plane transform (ky, kx) on an image of even edges (y, x), centred at (y, x) pixels; exact."""
        ky, kx = frequencies(edges)
        y, x = (self.offsets + np.asarray(center)).T
        rows, columns = (
            np.exp(-2 * (math.pi * k.ravel() * self.sigmas[:, None]) ** 2 - 2j * math.pi * k.ravel() * at[:, None])
            for k, at in ((ky, y), (kx, x))
        )
        return (self.fractions[:, None] * rows).T @ columns


def point() -> Blobs:
    """Make a point of light.

    Examples
    --------
    >>> point().isophote(1e-3) > 0
    True
    """
    return Blobs(np.zeros((1, 2)), np.zeros(1), np.ones(1))


def frequencies(edges: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in cycles per pixel of a half-plane transform, shaped (ky, 1) and (1, kx).

    Examples
    --------
    >>> ky, kx = frequencies((4, 4))
    >>> ky.shape, kx.shape
    ((4, 1), (1, 3))
    """
    return np.fft.fftfreq(edges[0])[:, None], np.fft.rfftfreq(edges[1])[None]


def _pixel_means(brightness: Callable, y: np.ndarray, x: np.ndarray, size: float, *, depth: int) -> np.ndarray:
    """Mean brightness of cells of a given size: the midpoint or, near the cusp, the mean of finer cells."""
    values = brightness(y, x)
    near = y**2 + x**2 < (10 * size) ** 2
    if depth and near.any():
        inner = (np.arange(OVERSAMPLE) + 0.5) / OVERSAMPLE - 0.5
        dy, dx = (size * d.ravel() for d in np.meshgrid(inner, inner))
        finer = _pixel_means(
            brightness, y[near][:, None] + dy, x[near][:, None] + dx, size / OVERSAMPLE, depth=depth - 1
        )
        values[near] = finer.mean(-1)
    return values
