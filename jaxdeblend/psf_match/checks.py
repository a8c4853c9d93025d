"""What is wrong with PSFs and kernels, said before it does harm."""

import warnings

import numpy as np
from jaxtyping import Float

from ..ops.moments import core_centroid
from .quality import KernelQuality

LARGEST_GAIN = 1.5
"""Largest Fourier component of a kernel above which it is said to deconvolve."""

LARGEST_LOBE = 1.0
"""Weight of its negative pixels from which on it is said to."""

TRUNCATED = 0.01
"""Error of the encircled energy from which on a kernel is said to be cut off."""

OFF_CENTER = 0.2
"""Distance in pixels between the centroids of two PSFs that is worth a warning."""

NEGATIVE = 0.01
"""Depth of a PSF's negative pixels, relative to its maximum, that is worth a warning; real ones reach 1e-3."""


def check_psfs(
    source: Float[np.ndarray, "*#batch n n"], target: Float[np.ndarray, "*#batch n n"], *, recentered: bool = False
) -> None:
    """Warn of PSFs with negative pixels, and of pairs that are not centred alike.

    Parameters
    ----------
    source, target
        Stamps of unit sum.
    recentered
        Whether their centroids do not matter any more.

    Examples
    --------
    >>> import numpy as np
    >>> from jaxdeblend.psf_match.checks import check_psfs
    >>> check_psfs(np.ones((1, 5, 5)), np.ones((1, 5, 5)))
    """
    for name, stamps in (("source", source), ("target", target)):
        depth = float(np.max(-stamps.min(axis=(-2, -1)) / stamps.max(axis=(-2, -1))))
        if depth > NEGATIVE:
            _warn(f"{name}: negative pixels of the PSF reach {depth:.3f} of its maximum; is its background subtracted?")
    offset = np.abs(core_centroid(target) - core_centroid(source)).max()
    if offset > OFF_CENTER and not recentered:
        _warn(
            f"target: its centroid is up to {offset:.2f} pixels from that of the source, and the kernel moves sources "
            "by as much; recenter=True leaves them where they are."
        )


def check_quality(quality: KernelQuality, *, allow_deconvolution: bool, narrower: bool) -> None:
    """Refuse kernels that deconvolve, and warn of those that are cut off.

    Parameters
    ----------
    quality
        Figures of all kernels.
    allow_deconvolution
        Whether they may amplify noise.
    narrower
        Whether some target is narrower than its source.

    Raises
    ------
    ValueError
        If some kernel deconvolves and may not.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.psf_match.checks import check_quality
    >>> matched = jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.0))
    >>> check_quality(matched.quality, allow_deconvolution=False, narrower=False)
    """
    figures = (quality.largest_gain, quality.negative_lobe, quality.noise_gain, quality.encircled_energy)
    gain, lobe, noise, error = (np.asarray(figure).max() for figure in figures)
    if not allow_deconvolution and (narrower or gain > LARGEST_GAIN or lobe > LARGEST_LOBE):
        reason = _reason(gain, narrower=narrower)
        raise ValueError(
            f"target: the kernel would deconvolve: {reason} (largest gain {gain:.2f}, negative lobe {lobe:.2f}, noise "
            f"gain {noise:.2f}); choose a broader target, a larger edge or a stronger regularization, or pass "
            "allow_deconvolution=True."
        )
    if error > TRUNCATED:
        _warn(
            f"match_psf: the kernels leave {error:.3f} of the encircled energy; a larger edge or a weaker "
            "regularization would do better."
        )


def _reason(gain: float, *, narrower: bool) -> str:
    """Why a kernel is refused."""
    if narrower:
        return "the target is narrower than the source"
    if gain > LARGEST_GAIN:
        return "the kernel amplifies some frequencies"
    return "its negative pixels weigh as much as a source"


def recentered(stamps: Float[np.ndarray, "*batch n n"]) -> Float[np.ndarray, "*batch n n"]:
    """Stamps moved by a phase in Fourier space, so that their cores' centroids are in the middle; unit sum.

    Parameters
    ----------
    stamps
        Stamps of odd edge.

    Returns
    -------
    Float[np.ndarray, "*batch n n"]
        Stamps of the same shape.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> import numpy as np
    >>> from jaxdeblend.ops.moments import core_centroid
    >>> from jaxdeblend.psf_match.checks import recentered
    >>> moved = np.roll(np.asarray(jd.GaussianPSF(2.0).stamp(25), float), 2, axis=1)
    >>> bool(np.abs(core_centroid(recentered(moved))).max() < 0.02)
    True
    """
    edge = stamps.shape[-1]
    for _ in range(2):  # what is above a tenth of the maximum changes a little
        offset = core_centroid(stamps)
        frequency = np.fft.fftfreq(2 * edge), np.fft.rfftfreq(2 * edge)
        phase = offset[..., 0, None, None] * frequency[0][:, None] + offset[..., 1, None, None] * frequency[1]
        spectrum = np.fft.rfft2(stamps, s=(2 * edge, 2 * edge)) * np.exp(2j * np.pi * phase)
        stamps = np.fft.irfft2(spectrum, s=(2 * edge, 2 * edge))[..., :edge, :edge]
    return stamps / stamps.sum(axis=(-2, -1), keepdims=True)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
