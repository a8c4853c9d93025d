"""Chains of touching sources divided into sub-blends that share no significant light."""

import math

import numpy as np
from jaxtyping import Float, Int

from ..instrument.box import Box
from ..instrument.observation import Observation
from .chi2 import MARGIN, SignificanceMaps, significance_maps
from .peaks import hills
from .result import Detection


def sub_blends(
    obs: Observation,
    detection: Detection,
    centers: Float[np.ndarray, "peak 2"] | None = None,
    *,
    valley: float = 0.2,
    maps: SignificanceMaps | None = None,
) -> Int[np.ndarray, " peak"]:
    r"""Divide the peaks of each footprint into groups that share no significant light.

    A footprint is whatever touches above a low threshold: two bright galaxies far apart share one as soon as their
    faintest light meets. Here two peaks belong to one group if the signal-to-noise ratio √χ² falls, on the best path
    between them, nowhere below a fraction of the lower peak, or if a chain of such peaks links them. Whether the lower
    peak is bright or faint, it is parted from the higher one only where its own light is what one sees between them.

    Parameters
    ----------
    obs
        The observation.
    detection
        Its peaks and footprints.
    centers
        Positions (y, x) in pixels that are divided instead of its peaks. One that is not on a hill of any, being off
        the image or on no footprint, is alone.
    valley
        The fraction. Smaller groups come of a larger one.
    maps
        Significance maps of the observation, where they are at hand.

    Returns
    -------
    Int[np.ndarray, " peak"]
        Number of each peak's group, from 0 in the order of their first peaks. Peaks without a footprint are alone.

    Raises
    ------
    ValueError
        If the fraction is not between 0 and 1.

    Notes
    -----
    The groups are the islands of the map's logarithm whose prominence is above -ln(valley), see `hills`. Beside the
    footprints of a deconvolved image, of its curvature and of higher thresholds, and beside distances in units of a
    source's extent, these left the least contamination for groups of a given size.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import sub_blends
    >>> star = np.asarray(jd.GaussianPSF(1.5).stamp(65), float)
    >>> image = 2000 * sum(np.roll(star, shift, axis=2) for shift in (-14, 0, 6))
    >>> obs = jd.Observation(image, [1.0], jd.GaussianPSF(1.5), bands=("r",))
    >>> found = jd.detect(obs)
    >>> found.centers[:, 1].round(1).tolist(), len(found.footprints), sub_blends(obs, found).tolist()
    ([31.9, 38.1, 18.0], 1, [0, 0, 1])
    """
    places = detection.centers if centers is None else centers
    return groups_on(islands(obs, detection, valley=valley, maps=maps), places)


def islands(
    obs: Observation, detection: Detection, *, valley: float = 0.2, maps: SignificanceMaps | None = None
) -> Int[np.ndarray, "y x"]:
    """The pixels of footprints that belong to each sub-blend, see `sub_blends`.

    Parameters
    ----------
    obs, detection, valley, maps
        As for `sub_blends`.

    Returns
    -------
    Int[np.ndarray, "y x"]
        A number for each island, -1 outside the footprints.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> star = 2000 * np.asarray(jd.GaussianPSF(1.5).stamp(65), float)
    >>> obs = jd.Observation(star + np.roll(star, 20, axis=2), [1.0], jd.GaussianPSF(1.5), bands=("r",))
    >>> found = islands(obs, jd.detect(obs))
    >>> len(np.unique(found)) - 1, bool(found[32, 32] != found[32, 52])
    (2, True)
    """
    if not 0 < valley <= 1:
        raise ValueError(f"valley: got {valley}; give a fraction between 0 and 1.")
    maps = significance_maps(obs) if maps is None else maps
    chi2 = maps.chi2[MARGIN:-MARGIN, MARGIN:-MARGIN]
    mask = (detection.labels > 0) & (chi2 > 0)
    height = 0.5 * np.log(chi2, where=mask, out=np.zeros_like(chi2))
    return hills(height, mask, prominence=-math.log(valley))


def groups_on(island: Int[np.ndarray, "y x"], places: Float[np.ndarray, "peak 2"]) -> Int[np.ndarray, " peak"]:
    """Number of the group of each position, from 0: those on one island are one; those on none are alone.

    Examples
    --------
    >>> groups_on(np.array([[1, 1, -1, 3]]), np.array([[0.0, 3.0], [0.0, 0.0], [0.0, 2.0], [np.nan, 0.0]])).tolist()
    [0, 1, 2, 3]
    """
    inside = Box((0, 0), (island.shape[0], island.shape[1])).contains(places)
    group = np.full(len(places), -1, dtype=np.intp)
    group[inside] = island[tuple(np.floor(places[inside] + 0.5).astype(int).T)]
    alone = np.flatnonzero(group < 0)
    group[alone] = island.size + alone
    _, first, member = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[member]
