"""Measurements as an astropy table: the public edge of the room.

Astropy is imported when a table is made, as to load it takes half a second.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Int

from ..instrument.noise_units import in_noise_units
from ..instrument.observation import Observation
from ..model.blend import Blend
from ..runtime.host import AnyArray
from .columns import IMAGE_UNIT, MEASURED_COLUMNS, ColumnInfo, of_bands
from .fitted import Fitted, blend_and_status, blend_on, check_observation, measurements_at_hand, needs_spectra
from .photometry import Measurements, measure_jit

if TYPE_CHECKING:
    from astropy.table import QTable, Table
    from astropy.units import UnitBase
    from astropy.wcs import WCS


def measure(
    fitted: Blend | Fitted,
    obs: Observation,
    *,
    status: Int[AnyArray, ""] | int | None = None,
    refit_spectra: bool | None = None,
    wcs: "WCS | None" = None,
) -> "QTable":
    """Measure every source of a blend, on the observation that it was fitted to or on another of the same pixel grid.

    On another observation this is forced photometry: positions and shapes stay, and the fluxes of all sources are
    solved for together on its pixels, by weighted non-negative linear least squares (`refit_spectra`). It needs the
    same frame and the same number of bands, in the same order.

    Parameters
    ----------
    fitted
        What `fit` or `deblend` returned, or its blend, or a blend made by hand.
    obs
        Observation to measure on.
    status
        Status of the fit, a value of `jaxdeblend.RESULTS`; by default that of `fitted`, which a blend that came from a
        fit remembers, too. A blend made by hand counts as converged.
    refit_spectra
        Whether spectra are solved for on `obs` before anything is measured. None: only if the blend was fitted to
        another observation (other pixels, weights, PSFs or bands), so that fluxes always belong to `obs`. False: the
        fluxes of the blend as it is. A blend made by hand does not know an observation: say True for forced photometry.
        Only the spectra of components of one shape and a `FreeSpectrum` are solved for; others stay.
    wcs
        World coordinates of the observation's pixels; adds the columns ``ra`` and ``dec``.

    Returns
    -------
    astropy.table.QTable
        One row per source: ``id``, ``x``, ``y`` (pixels, 0-based), per band b ``flux_b``, ``flux_err_b`` (image
        units; 1σ at fixed shapes), ``snr_b``, ``blendedness_b``, ``data_coverage_b`` (share of its light on usable
        pixels), ``peak_flux_b`` (value of the image at the detected position), then ``size`` (√ of half the trace of
        the second moments, without the PSF, pixels), ``e1``, ``e2`` ((Q_xx - Q_yy, 2 Q_xy) / (Q_xx + Q_yy)),
        ``n_components`` and ``flags`` (bits of `jaxdeblend.Flag`). Every column has a description.

    Raises
    ------
    ValueError
        If the frame or the number of bands is not that of the blend.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> blank = jd.Observation(jnp.zeros((1, 16, 16)), jnp.ones((1, 16, 16)), jd.GaussianPSF(1.5), bands=["r"])
    >>> blend = jd.Blend.of([jd.PointSource((8, 8), jnp.array([30.0]))], frame=(16, 16))
    >>> round(float(jd.measure(blend, blank)["flux_r"][0]), 4)
    30.0

    A later image, in which the star is twice as bright:

    >>> later = jd.Observation(2 * jd.render(blend, blank), jnp.ones((1, 16, 16)), blank.psf, bands=["r"])
    >>> round(float(jd.measure(blend, later, refit_spectra=True)["flux_r"][0]), 2)
    60.0
    """
    blend, known = blend_and_status(fitted)
    check_observation(blend, obs)
    active = np.asarray(blend.active)
    if not active.any():
        return table_of(empty_measurements(len(obs.bands)), obs.bands, wcs=wcs, unit=obs.unit)
    at_hand = measurements_at_hand(fitted, obs, refit_spectra) if status is None else None
    if at_hand is not None:
        return table_of(_select(at_hand[0], active), obs.bands, wcs=wcs, unit=obs.unit)
    refit = needs_spectra(blend, obs) if refit_spectra is None else refit_spectra
    obs, unit = in_noise_units(obs)
    on_data = blend_on(blend.scaled(1 / unit), obs, refit_spectra=refit)
    values, _ = measure_jit(on_data, obs, np.asarray(known if status is None else status))
    if blend.record is not None and blend.record.flags is not None:
        values = eqx.tree_at(lambda found: found.flags, values, np.asarray(values.flags) | blend.record.flags)
    return table_of(_select(values, active).scaled(unit), obs.bands, wcs=wcs, unit=obs.unit)


def table_of(
    values: Measurements, bands: tuple[str, ...], *, wcs: "WCS | None" = None, unit: str | None = None
) -> "QTable":
    """Table of measurements that are already arrays, with one row per entry.

    Parameters
    ----------
    values
        Measurements without padding.
    bands
        Name of each band.
    wcs
        World coordinates of the pixels; adds ``ra`` and ``dec``.
    unit
        Unit of the image, None if it is unknown.

    Returns
    -------
    astropy.table.QTable
        See `measure`.
    """
    from astropy import units
    from astropy.table import QTable

    center = np.asarray(values.center, dtype=float)
    table = QTable({"id": np.arange(len(center)), "x": center[:, 1], "y": center[:, 0]})
    add_sky(table, wcs)
    flux, error = np.asarray(values.flux), np.asarray(values.flux_err)
    with np.errstate(invalid="ignore"):
        snr = flux / error
    for b, band in enumerate(bands):
        table[f"flux_{band}"] = flux[:, b]
        table[f"flux_err_{band}"] = error[:, b]
        table[f"snr_{band}"] = snr[:, b]
        for name in ("blendedness", "data_coverage", "peak_flux"):
            table[f"{name}_{band}"] = np.asarray(getattr(values, name))[:, b]
    q_yy, q_yx, q_xx = np.asarray(values.moments, dtype=float).T
    trace = q_xx + q_yy
    safe = np.where(trace > 0, trace, 1.0)
    table["size"] = np.sqrt(np.maximum(0.5 * trace, 0.0)) * units.pix
    table["e1"] = np.where(trace > 0, (q_xx - q_yy) / safe, 0.0)
    table["e2"] = np.where(trace > 0, 2 * q_yx / safe, 0.0)
    table["n_components"] = np.asarray(values.n_components, dtype=np.int32)
    table["flags"] = np.asarray(values.flags, dtype=np.int32)
    describe_columns(table, MEASURED_COLUMNS, bands, unit=unit)
    return table


def add_sky(table: "Table", wcs: "WCS | None") -> None:
    """Add the columns ``ra`` and ``dec`` of the positions ``x`` and ``y``, in place; without coordinates, nothing.

    Parameters
    ----------
    table
        The table; ``x`` and ``y`` are 0-based pixels.
    wcs
        Coordinates of the pixels.
    """
    if wcs is None:
        return
    from astropy import units

    angles = wcs.pixel_to_world_values(np.asarray(table["x"]), np.asarray(table["y"]))
    for name, angle in zip(("ra", "dec"), angles, strict=True):
        table[name] = np.asarray(angle, dtype=float) * units.deg


def describe_columns(
    table: "Table", columns: Mapping[str, ColumnInfo], bands: tuple[str, ...] = (), *, unit: str | None = None
) -> None:
    """Give the columns of a table their descriptions and units, in place.

    Columns that are quantities keep their unit. A unit of the image that astropy does not know stands in the
    description instead.

    Parameters
    ----------
    table
        The table; columns that nothing is known of stay as they are.
    columns
        What is known of columns, by name.
    bands
        Names of the bands.
    unit
        Unit of the image, None if it is unknown.

    Examples
    --------
    >>> from astropy.table import Table
    >>> table = Table({"flux_r": [1.0]})
    >>> describe_columns(table, MEASURED_COLUMNS, ("r",), unit="nJy")
    >>> table["flux_r"].description, str(table["flux_r"].unit)
    ('total flux of the model in r', 'nJy')
    """
    from astropy import units
    from astropy.table import Column

    known = _known_unit(unit)
    for name, about in of_bands(columns, bands).items():
        if name not in table.colnames:
            continue
        column: Any = table[name]
        of_image = about.unit == IMAGE_UNIT
        told = f"{about.description}, in {unit}" if of_image and unit and known is None else about.description
        column.info.description = told
        wanted = known if of_image else units.Unit(about.unit) if about.unit else None
        if isinstance(column, Column) and wanted is not None:
            column.unit = wanted


def _known_unit(unit: str | None) -> "UnitBase | None":
    """The unit, if astropy knows it."""
    from astropy import units

    try:
        return units.Unit(unit) if unit else None
    except ValueError:
        return None


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
    return Measurements(bands, bands, bands, bands, bands, np.zeros((0, 2)), np.zeros((0, 3)), none, none)


def _select(values: Measurements, active: np.ndarray) -> Measurements:
    return jax.tree.map(lambda array: np.asarray(array)[active], values)
