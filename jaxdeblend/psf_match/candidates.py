"""The pairs that a spatial kernel is found from."""

from typing import Any

import equinox as eqx
import numpy as np
from astropy.table import Table
from jaxtyping import Bool, Float, Int

from ..runtime.host import AnyArray
from .quality import KernelQuality


class KernelCandidates(eqx.Module):
    """The pairs of PSFs or stars from which a spatial kernel was found.

    Attributes
    ----------
    positions
        Where they are, (y, x) in pixels.
    cells
        Row and column of the cell of each.
    source, target
        What is convolved, and what it shall become: PSFs of unit sum, or cut-outs of stars.
    kernels
        Kernel of each pair alone.
    own, spatial
        Quality of this kernel, and of the spatial kernel at the same position.
    good
        Whether the candidate was used.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> exposure = jd.Exposure(np.zeros((1, 64, 64)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> matched = jd.match_exposure(exposure, jd.GaussianPSF(2.0))
    >>> matched.candidates.table(("r",)).colnames[:4]
    ['y', 'x', 'row', 'column']
    """

    positions: Float[AnyArray, "candidate 2"]
    cells: Int[AnyArray, "candidate 2"]
    source: Float[AnyArray, "candidate band n n"]
    target: Float[AnyArray, "candidate band n n"]
    kernels: Float[AnyArray, "candidate band k k"]
    own: KernelQuality
    spatial: KernelQuality
    good: Bool[AnyArray, "candidate band"]

    def table(self, bands: tuple[str, ...]) -> Table:
        """One row per candidate: position, cell, and for each band whether it is good, and how good."""
        columns: dict[str, Any] = {
            "y": self.positions[:, 0],
            "x": self.positions[:, 1],
            "row": self.cells[:, 0],
            "column": self.cells[:, 1],
        }
        for number, band in enumerate(bands):
            columns[f"good_{band}"] = self.good[:, number]
            for name in ("l2", "encircled_energy", "negative_lobe", "noise_gain"):
                columns[f"{name}_{band}"] = getattr(self.own, name)[:, number]
            columns[f"spatial_l2_{band}"] = self.spatial.l2[:, number]
        return Table({name: np.asarray(column) for name, column in columns.items()})
