"""Measurements as an astropy table: the public edge of the room."""

from typing import TYPE_CHECKING, cast

import jax
import numpy as np
from astropy import units
from astropy.table import Column, QTable
from jaxtyping import Int

from ..fit.loop import RESULTS
from ..instrument.host import AnyArray
from ..instrument.observation import Observation
from ..model.blend import Blend
from .photometry import Measurements, measure_jit

if TYPE_CHECKING:
    from astropy.wcs import WCS


def measure(
    blend: Blend,
    obs: Observation,
    *,
    status: Int[AnyArray, ""] | int = RESULTS.CONVERGED,
    wcs: "WCS | None" = None,
) -> QTable:
    """Measure every source of a blend.

    Parameters
    ----------
    blend
        Fitted blend.
    obs
        Observation that it was fitted to.
    status
        Status of the fit, ``result.status``.
    wcs
        World coordinates of the observation's pixels; adds the columns ``ra`` and ``dec``.

    Returns
    -------
    astropy.table.QTable
        One row per source: ``id``, ``x``, ``y`` (pixels, 0-based), per band b ``flux_b``, ``flux_err_b`` (image
        units; 1σ at fixed shapes), ``snr_b``, ``blendedness_b``, then ``size`` (√ of half the trace of the second
        moments, without the PSF, pixels), ``e1``, ``e2`` ((Q_xx - Q_yy, 2 Q_xy) / (Q_xx + Q_yy)), ``n_components``
        and ``flags`` (bits of `jaxdeblend.Flag`).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(jnp.zeros((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> blend = jd.Blend.of([jd.PointSource((8, 8), jnp.array([30.0]))], frame=(16, 16))
    >>> float(jd.measure(blend, obs)["flux_r"][0])
    30.0
    """
    _check(blend, obs)
    active = np.asarray(blend.active)
    if not active.any():
        return table_of(empty_measurements(len(obs.bands)), obs.bands, wcs=wcs)
    values, _ = measure_jit(blend, obs, np.asarray(status))
    return table_of(_select(values, active), obs.bands, wcs=wcs)


def _check(blend: Blend, obs: Observation) -> None:
    """The observation must be one that the blend was made for."""
    if blend.frame != obs.shape:
        raise ValueError(
            f"obs: got shape {obs.shape} for a blend of the frame {blend.frame}; give its own observation."
        )
    n_bands = {stack.terms()[0].shape[-1] for stack in blend.stacks}
    if n_bands and n_bands != {len(obs.bands)}:
        raise ValueError(f"obs: got {len(obs.bands)} bands for a blend of {n_bands.pop()}; give its own observation.")


def table_of(values: Measurements, bands: tuple[str, ...], *, wcs: "WCS | None" = None) -> QTable:
    """Table of measurements that are already arrays, with one row per entry.

    Parameters
    ----------
    values
        Measurements without padding.
    bands
        Name of each band.
    wcs
        World coordinates of the pixels; adds ``ra`` and ``dec``.

    Returns
    -------
    astropy.table.QTable
        See `measure`.
    """
    center = np.asarray(values.center, dtype=float)
    table = QTable({"id": np.arange(len(center)), "x": center[:, 1], "y": center[:, 0]})
    for name in ("x", "y"):
        cast(Column, table[name]).unit = units.pix
    if wcs is not None:
        sky = wcs.pixel_to_world_values(center[:, 1], center[:, 0])
        table["ra"], table["dec"] = (np.asarray(angle, dtype=float) * units.deg for angle in sky)
    flux, error = np.asarray(values.flux), np.asarray(values.flux_err)
    with np.errstate(invalid="ignore"):
        snr = flux / error
    for b, band in enumerate(bands):
        table[f"flux_{band}"] = flux[:, b]
        table[f"flux_err_{band}"] = error[:, b]
        table[f"snr_{band}"] = snr[:, b]
        table[f"blendedness_{band}"] = np.asarray(values.blendedness)[:, b]
    q_yy, q_yx, q_xx = np.asarray(values.moments, dtype=float).T
    trace = q_xx + q_yy
    safe = np.where(trace > 0, trace, 1.0)
    table["size"] = np.sqrt(np.maximum(0.5 * trace, 0.0)) * units.pix
    table["e1"] = np.where(trace > 0, (q_xx - q_yy) / safe, 0.0)
    table["e2"] = np.where(trace > 0, 2 * q_yx / safe, 0.0)
    table["n_components"] = np.asarray(values.n_components, dtype=np.int32)
    table["flags"] = np.asarray(values.flags, dtype=np.int32)
    return table


def empty_measurements(n_bands: int) -> Measurements:
    """Measurements of no source.

    Parameters
    ----------
    n_bands
        Number of bands.

    Returns
    -------
    Measurements
        Arrays of length 0.
    """
    bands = np.zeros((0, n_bands))
    none = np.zeros(0, dtype=int)
    return Measurements(bands, bands, bands, np.zeros((0, 2)), np.zeros((0, 3)), none, none)


def _select(values: Measurements, active: np.ndarray) -> Measurements:
    return jax.tree.map(lambda array: np.asarray(array)[active], values)
