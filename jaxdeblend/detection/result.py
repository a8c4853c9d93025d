"""What a detection gives: peaks, footprints and their label image."""

import dataclasses

import astropy.units as u
import numpy as np
from astropy.table import Column, Table
from jaxtyping import Float, Int

from .footprints import Footprint


@dataclasses.dataclass(frozen=True)
class Detection:
    """Sources found in an observation.

    Attributes
    ----------
    peaks
        One row per source, most significant first: `id` (its row), `y`, `x` (pixels, 0-based), `significance`
        (σ, at the peak's pixel), `error` (1σ of the position per axis, pixels), `footprint` (its index in
        `footprints`). Some ways of detecting add columns, see there.
    footprints
        The blends.
    labels
        0 where there is no footprint, k + 1 on footprint k.
    footprint_flags
        One row per footprint, in order: ``merge_footprint_<band>``, for detections that were merged over bands.
        Otherwise a table without columns.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import detect
    >>> sky = jd.Observation(np.zeros((1, 32, 32)), np.ones((1, 32, 32)), jd.GaussianPSF(1.5), bands=("r",))
    >>> found = detect(sky)
    >>> len(found.peaks), len(found.footprints), found.labels.shape
    (0, 0, (32, 32))
    """

    peaks: Table
    footprints: tuple[Footprint, ...]
    labels: Int[np.ndarray, "y x"]
    footprint_flags: Table = dataclasses.field(default_factory=Table)

    @property
    def centers(self) -> Float[np.ndarray, "source 2"]:
        """Positions (y, x) in pixels."""
        return np.stack([np.asarray(self.peaks["y"]), np.asarray(self.peaks["x"])], axis=-1)


def peak_table(
    position: Float[np.ndarray, "peak 2"],
    height: Float[np.ndarray, " peak"],
    error: Float[np.ndarray, " peak"],
    owner: Int[np.ndarray, " peak"],
) -> Table:
    """Table of the peaks of a `Detection`.

    Parameters
    ----------
    position
        (y, x) in pixels.
    height
        Significance in σ.
    error
        1σ error of the position per axis in pixels.
    owner
        Index of the footprint.

    Returns
    -------
    Table
        One row per peak, in the order given.

    Examples
    --------
    >>> import numpy as np
    >>> peak_table(np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0, int)).colnames
    ['id', 'y', 'x', 'significance', 'error', 'footprint']
    """
    return Table(
        [
            Column(np.arange(len(owner)), "id", description="row of the source"),
            Column(position[:, 0], "y", unit=u.pix, description="position, 0 is the centre of the first pixel"),
            Column(position[:, 1], "x", unit=u.pix, description="position, 0 is the centre of the first pixel"),
            Column(height, "significance", description="Gaussian-equivalent significance at the peak"),
            Column(error, "error", unit=u.pix, description="1-sigma error of the position per axis"),
            Column(owner, "footprint", description="index of the footprint"),
        ]
    )
