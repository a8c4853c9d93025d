"""What comes back for each blend."""

import dataclasses
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from ..fitting.loop import RESULTS, FitResult
from ..fitting.record import checksum, recorded
from ..instrument.observation import Observation
from ..instrument.sky import rough_fwhm
from ..measurement.flags import Flag
from ..measurement.photometry import Measurements
from ..measurement.table import table_of
from ..model.blend import Blend
from ..runtime.host import AnyArray
from .plan import Item

if TYPE_CHECKING:
    from astropy.table import QTable
    from astropy.wcs import WCS


BORDER_REACH = 8.0
"""Distance from a border that is lit from outside, in FWHM, up to which free shapes take that light for their own."""


class Deblended(eqx.Module):
    """A deblended blend: the fit, and what was measured on it in the same compiled call.

    Attributes
    ----------
    fit
        The fit.
    measurements
        Fluxes, errors, shapes and flags, one entry per source.
    source_models
        Each source as observed, (source, band, y, x).
    bands
        Name of each band.
    sky
        Sky that was found and taken out before the fit: its level at the middle of the image, and its slopes along y
        and x per pixel, of each band in image units; 0 where there is no evidence of any. It is not part of `model`.
    as_given
        Whether measurements and models are of all pixels as they were given, and of all sources: nothing was taken out
        before the fit.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> result = jd.deblend(obs, [(8.0, 8.0)])
    >>> len(result.table()), result.model.shape
    (1, (1, 16, 16))
    """

    fit: FitResult
    measurements: Measurements
    source_models: Float[np.ndarray, "source band y x"]
    bands: tuple[str, ...] = eqx.field(static=True)
    sky: Float[np.ndarray, "band 3"]
    as_given: bool = eqx.field(static=True, default=False)

    def measured_on(self, obs: Observation) -> tuple[Measurements, Float[np.ndarray, "source band y x"]] | None:
        """Measurements and source models, if they are those of this very observation."""
        record = self.blend.record
        if not self.as_given or record is None or record.observation is None:
            return None
        here = checksum(obs)
        if here is None or int(here) != int(record.observation):
            return None
        return self.measurements, self.source_models

    @property
    def model(self) -> Float[np.ndarray, "band y x"]:
        """The model of all sources as observed."""
        return self.source_models.sum(axis=0)

    @property
    def blend(self) -> Blend:
        """The best blend."""
        return self.fit.blend

    @property
    def loss(self) -> Float[AnyArray, " step"]:
        """Negative log-posterior before each step."""
        return self.fit.loss

    @property
    def n_steps(self) -> Int[AnyArray, ""]:
        """Number of steps made."""
        return self.fit.n_steps

    @property
    def status(self) -> Int[AnyArray, ""]:
        """Value of `RESULTS`."""
        return self.fit.status

    @property
    def result(self) -> RESULTS:
        """The status as a member of `RESULTS`."""
        return self.fit.result

    @property
    def converged(self) -> Bool[AnyArray, ""] | np.bool:
        """Whether the fit stopped by itself."""
        return self.fit.converged

    def table(self, *, wcs: "WCS | None" = None) -> "QTable":
        """Table of the sources, with the columns of `jaxdeblend.measure`.

        Parameters
        ----------
        wcs
            World coordinates of the observation's pixels; adds the columns ``ra`` and ``dec``.
        """
        return table_of(self.measurements, self.bands, wcs=wcs)

    def take(self, index: Int[np.ndarray, " taken"]) -> "Deblended":
        """Some of the sources, as they were fitted together with the others, in the order wanted.

        Parameters
        ----------
        index
            Indices of the sources wanted, each once.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> import jaxdeblend as jd
        >>> obs = jd.Observation(jnp.ones((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
        >>> result = jd.deblend(obs, [(8.0, 5.0), (8.0, 11.0)]).take(np.array([1, 0]))
        >>> result.blend.center_prior.mean[:, 1].tolist()
        [11.0, 5.0]
        """
        return Deblended(
            fit=dataclasses.replace(self.fit, blend=self.fit.blend.take(index)),
            measurements=jax.tree.map(lambda array: array[index], self.measurements),
            source_models=self.source_models[index],
            bands=self.bands,
            sky=self.sky,
        )


def unpack(output: tuple[FitResult, Measurements, np.ndarray], item: Item) -> Deblended:
    """A blend as it came out of a program, without the padding of sources and pixels."""
    fit, measurements, models = output
    height, width = item.obs.shape
    blend = dataclasses.replace(fit.blend, frame=(height, width)).scaled(item.unit)
    fit = recorded(dataclasses.replace(fit, blend=blend), item.given)
    models = models[:, :, :height, :width]
    models = models if item.unit == 1.0 else models * np.float32(item.unit)
    result = Deblended(fit, measurements.scaled(item.unit), models, item.obs.bands, item.sky.plane * item.unit)
    if item.start is None:
        flagged = _flagged(result.take(np.arange(len(item.centers))), item)
        unchanged = item.obs.images is item.given.images and item.obs.weights is item.given.weights
        return dataclasses.replace(flagged, as_given=unchanged)
    known, new = np.arange(len(item.start.centers)), np.arange(len(item.centers))
    taken = result.take(np.concatenate([known, item.bucket.n_start + new]))
    without_padding = dataclasses.replace(taken.fit, blend=taken.fit.blend.trimmed())
    return _flagged(dataclasses.replace(taken, fit=without_padding), item)


def _flagged(result: Deblended, item: Item) -> Deblended:
    """The result with flags for what was found in the observation before the fit."""
    centers, fwhm = np.asarray(result.measurements.center), rough_fwhm(item.obs)
    outskirts = np.full(len(centers), item.sky.plane.any() or item.sky.bright_outskirts.any())
    conditions = {
        Flag.REJECTED_PIXELS: _near(centers, np.logical_or.reduce(item.hits), fwhm),
        Flag.UNEXPLAINED_LIGHT: outskirts,
        Flag.BRIGHT_NEIGHBOR_OUTSIDE: _near(centers, item.sky.lit_border, BORDER_REACH * fwhm),
    }
    bits = np.zeros(len(centers), np.int32)
    for flag, met in conditions.items():
        bits |= np.where(met, flag.value, 0).astype(np.int32)
    flags = result.measurements.flags | bits
    measurements = eqx.tree_at(lambda found: found.flags, result.measurements, flags)
    fit = eqx.tree_at(lambda f: f.blend.record.flags, result.fit, bits, is_leaf=lambda node: node is None)
    return dataclasses.replace(result, fit=fit, measurements=measurements)


def _near(centers: np.ndarray, pixels: Bool[np.ndarray, "y x"], reach: float) -> Bool[np.ndarray, " source"]:
    """Sources that have such a pixel within reach."""
    distance = np.argwhere(pixels)[None, :, :] - centers[:, None, :]
    return (np.hypot(*np.moveaxis(distance, -1, 0)) <= reach).any(axis=1)
