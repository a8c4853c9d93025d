"""Variances, from whatever says how noisy pixels are."""

import dataclasses
import logging
from collections.abc import Callable, Mapping

import numpy as np
from astropy.stats import sigma_clipped_stats

logger = logging.getLogger(__name__)


def same(values: np.ndarray) -> np.ndarray:
    """A variance that is one already.

    Examples
    --------
    >>> same(np.array([4.0])).tolist()
    [4.0]
    """
    return values


def inverted(weight: np.ndarray) -> np.ndarray:
    """Variance of weights; infinite where a weight is not positive.

    Examples
    --------
    >>> inverted(np.array([0.25, 0.0])).tolist()
    [4.0, inf]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight > 0, 1 / weight, np.inf).astype(weight.dtype)


VARIANCE_OF: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "variance": same,
    "error": np.square,
    "weight": inverted,
}
"""Makes a variance of each kind of plane; the kind that is looked for first is the first."""

ROLE_OF_KIND = {"variance": "variance", "weight": "weight", "rms": "error", "exposure_time": "exposure_time"}
"""Role of the planes of each kind, see `jaxdeblend.io.planes.ROLES`."""

NOISE_KINDS = tuple(ROLE_OF_KIND)
"""What a noise plane can be said to be."""

SIGMA_OF: dict[str, Callable[[float], float]] = {
    "variance": lambda value: value**0.5,
    "weight": lambda value: value**-0.5,
    "rms": lambda value: value,
}
"""Standard deviation that a value of each kind means; exposure times mean none by themselves."""


@dataclasses.dataclass(frozen=True)
class OfExposureTime:
    """Makes a variance of exposure times t: scale / t, infinite where t is not positive.

    Attributes
    ----------
    scale
        Variance of a pixel of the exposure time 1.
    """

    scale: float

    def __call__(self, time: np.ndarray) -> np.ndarray:
        """Variance of pixels of these exposure times."""
        return (inverted(time) * self.scale).astype(time.dtype)

    @classmethod
    def measured(cls, image: np.ndarray, time: np.ndarray, bad: np.ndarray | None, band: str) -> "OfExposureTime":
        """The scale is measured: the background noise of image × √t.

        Examples
        --------
        >>> noise = np.random.default_rng(1).normal(0, 3, (200, 200))
        >>> to_variance = OfExposureTime.measured(noise, np.full(noise.shape, 4.0), None, "r")
        >>> to_variance(np.array([4.0, 0.0])).round().tolist()
        [9.0, inf]
        """
        lit = np.isfinite(time) & (time > 0)
        scaled = np.where(lit, image * np.sqrt(np.where(lit, time, 1)), np.nan)
        rms = background_rms(scaled, bad)
        if rms <= 0:
            raise ValueError(f"exposure_time: band {band} shows no noise, which is to be measured; give a variance.")
        return cls(rms**2)


def background_rms(image: np.ndarray, bad: np.ndarray | None = None) -> float:
    """Noise of the background: MAD of the sigma-clipped pixels; 1 where there are none, which stay masked.

    Parameters
    ----------
    image
        Image (y, x).
    bad
        True where it is unusable.

    Returns
    -------
    float
        Its standard deviation.

    Examples
    --------
    >>> 2.9 < background_rms(np.random.default_rng(1).normal(0, 3, (200, 200))) < 3.1
    True
    """
    good = np.isfinite(image) if bad is None else np.isfinite(image) & ~bad
    values = image[good]
    if values.size == 0:
        return 1.0
    return float(sigma_clipped_stats(values.astype(float), sigma=3, maxiters=5, stdfunc="mad_std")[2])


def checked_estimate(rms: Mapping[str, float]) -> list[float]:
    """Variances of the estimated noise of each band, with a warning of what they lack.

    Parameters
    ----------
    rms
        Noise of the background by band.

    Returns
    -------
    list[float]
        The variances.

    Raises
    ------
    ValueError
        If a band shows no noise.

    Examples
    --------
    >>> checked_estimate({"g": 2.0})
    [4.0]
    """
    flat = [band for band, value in rms.items() if value <= 0]
    if flat:
        raise ValueError(f"variance: no variance plane, and band {', '.join(flat)} shows no noise; give a variance.")
    logger.warning(
        "No variance plane: using the background noise estimated from the pixels (rms: %s); the photon "
        "noise of bright sources is not in it.",
        ", ".join(f"{band} {value:.4g}" for band, value in rms.items()),
    )
    return [value**2 for value in rms.values()]
