"""A whole exposure: detect, deblend every footprint, measure, and put it together again."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from astropy import units
from astropy.table import Column, QTable, Table, vstack
from jaxtyping import Float

from ..batch import deblend_batch
from ..detect import Detection, detect
from ..fit import RESULTS, FitResult, render_sources
from ..instrument.box import Box
from ..instrument.observation import Observation
from ..io import Exposure, SourceModel
from ..measure.flags import Flag
from ..measure.photometry import Measurements
from ..measure.table import measure, table_of
from .parents import Parent, find_parents

logger = logging.getLogger(__name__)

NO_PARENT = -1
"""Parent of a row that was not fitted."""

STAMP_LEVEL = 0.01
"""Stamps of sources end where their model is below this many σ of the background in every band."""


@dataclasses.dataclass(frozen=True)
class CatalogResult:
    """What came out of an exposure.

    Attributes
    ----------
    table
        One row per source, as from `jaxdeblend.measure`, in the exposure's pixels, with the column
        ``parent``. Rows of positions that were given are in the order in which they were given.
    model
        Sum of all sources as observed (band, y, x), in image units.
    residual
        Images minus model; NaN where a pixel is unusable.
    sources
        Model of each fitted source as observed, where it is above a hundredth of the background's σ.
    parents
        One row per blend: ``id``, its window ``y0``, ``x0``, ``ny``, ``nx``, ``n_sources``, ``n_steps``,
        ``status``.
    detection
        Peaks and footprints.
    """

    table: QTable
    model: Float[np.ndarray, "band y x"]
    residual: Float[np.ndarray, "band y x"]
    sources: tuple[SourceModel, ...]
    parents: Table
    detection: Detection

    @property
    def n_failed(self) -> int:
        """Number of rows without any flux."""
        fluxes = [np.asarray(self.table[name]) for name in self.table.colnames if name.startswith("flux_")]
        return int(np.sum(~np.any(np.isfinite(fluxes), axis=0))) if len(self.table) else 0


def deblend_catalog(
    exposure: Exposure,
    centers: Float[np.ndarray, "source 2"] | None = None,
    *,
    threshold: float = 5.0,
    margin: int | None = None,
    fit_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CatalogResult:
    """Detect, deblend and measure all sources of an exposure.

    Footprints are found on the whole exposure. Each becomes a parent: a window around it, in which the
    pixels of other footprints are not used, and in which its sources are fitted together.

    Parameters
    ----------
    exposure
        The exposure.
    centers
        Positions (y, x) in pixels, 0-based; by default those of the detected peaks. None gets lost: a
        position off the image (or NaN) comes back as a flagged row without flux.
    threshold
        Significance from which a peak counts as a source, in σ.
    margin
        Pixels by which windows reach beyond footprints; by default the FWHM of the broadest PSF.
    fit_options
        Options of `jaxdeblend.deblend_batch`.
    progress
        Called as progress(number of parents just done, number of all parents).

    Returns
    -------
    CatalogResult
        Table, model, residual and what else was found on the way.

    Raises
    ------
    ValueError
        If the positions are not (source, 2).

    Examples
    --------
    >>> from jaxdeblend.catalog import deblend_catalog
    >>> from jaxdeblend.io import Exposure
    >>> from jaxdeblend.simulate import simulate_field
    >>> field = simulate_field(3, shape=(64, 64), bands=("g", "i"), density=30, star_density=0)
    >>> exposure = Exposure(field.images, field.variance, field.psf, bands=field.bands, mask=field.mask)
    >>> result = deblend_catalog(exposure)
    >>> len(result.table) == len(result.detection.peaks), result.model.shape
    (True, (2, 64, 64))
    """
    whole = exposure.observation()
    detection = detect(whole, threshold=threshold)
    positions = detection.centers if centers is None else _check_centers(centers)
    parents = find_parents(exposure, detection, positions, margin=margin)
    logger.info("%d sources in %d blends", len(positions), len(parents))
    blends = [
        (
            exposure.observation(parent.box, exclude=parent.exclude, kernel=whole.kernel),
            positions[parent.rows] - parent.box.start,
        )
        for parent in parents
    ]
    count = len(parents)
    report = None if progress is None else (lambda done: progress(done, count))
    results = deblend_batch(blends, progress=report, **(fit_options or {}))
    fits = [
        _Fit(parent, obs, result) for parent, (obs, _), result in zip(parents, blends, results, strict=True)
    ]
    model, sources = _assemble(exposure, fits)
    residual = np.where(exposure.mask, np.float32(np.nan), exposure.images - model)
    table = _tabulate(exposure, positions, fits)
    return CatalogResult(table, model, residual, sources, _parent_table(fits), detection)


@dataclasses.dataclass(frozen=True)
class _Fit:
    """A parent, its pixels and its fit."""

    parent: Parent
    obs: Observation
    result: FitResult


def _check_centers(centers: object) -> Float[np.ndarray, "source 2"]:
    positions = np.asarray(centers, float)
    if positions.size == 0:
        return positions.reshape(0, 2)
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"centers: got shape {positions.shape}; give (source, 2), (y, x) in pixels.")
    return positions


def _assemble(exposure: Exposure, fits: list[_Fit]) -> tuple[np.ndarray, tuple[SourceModel, ...]]:
    """Model of the whole exposure, and the stamp of each source in the order of rows."""
    model = np.zeros(exposure.images.shape, np.float32)
    stamps: dict[int, SourceModel] = {}
    for fit in fits:
        box = fit.parent.box
        cubes = np.asarray(render_sources(fit.result.blend, fit.obs))
        window = (slice(None), *box.slices)
        model[window] += np.nan_to_num(cubes).sum(axis=0)
        level = STAMP_LEVEL * np.asarray(fit.obs.background_rms)
        for row, cube in zip(fit.parent.rows, cubes, strict=True):
            stamps[int(row)] = _stamp(int(row), box, cube, level)
    return model, tuple(stamps[row] for row in sorted(stamps))


def _stamp(row: int, box: Box, cube: np.ndarray, level: np.ndarray) -> SourceModel:
    """Cut a source's model down to the window where it is above the level in some band."""
    bright = np.any(cube > level[:, None, None], axis=0)
    ys, xs = np.flatnonzero(np.any(bright, axis=1)), np.flatnonzero(np.any(bright, axis=0))
    if len(ys) == 0:
        return SourceModel(row, Box(box.start, (1, 1)), cube[:, :1, :1])
    tight = Box((int(ys[0]), int(xs[0])), (int(ys[-1] - ys[0]) + 1, int(xs[-1] - xs[0]) + 1))
    return SourceModel(row, tight.shifted_by(*box.start), cube[(slice(None), *tight.slices)].copy())


def _tabulate(exposure: Exposure, positions: np.ndarray, fits: list[_Fit]) -> QTable:
    """One row per position, in order."""
    rows = np.concatenate([fit.parent.rows for fit in fits]) if fits else np.zeros(0, np.int64)
    lost = np.setdiff1d(np.arange(len(positions)), rows)
    tables = [_measured(number, fit) for number, fit in enumerate(fits)]
    table = vstack([*tables, _lost(exposure.bands, positions[lost])], metadata_conflicts="silent")
    table = table[np.argsort(np.concatenate([rows, lost]), kind="stable")]
    table["id"] = np.arange(len(positions))
    if exposure.wcs is not None:
        sky = exposure.wcs.pixel_to_world_values(np.asarray(table["x"]), np.asarray(table["y"]))
        angles = [np.asarray(angle, float) * units.deg for angle in sky]
        table.add_columns(angles, names=["ra", "dec"], indexes=[table.index_column("y") + 1] * 2)
    return table


def _measured(number: int, fit: _Fit) -> QTable:
    """Measurements of a parent's sources, in the pixels of the exposure."""
    table = measure(fit.result.blend, fit.obs, status=int(fit.result.status))
    for name, offset in zip(("y", "x"), fit.parent.box.start, strict=True):
        table[name] = Column(np.asarray(table[name]) + offset, unit=units.pix)
    table.add_column(np.full(len(table), number), name="parent", index=1)
    return table


def _lost(bands: tuple[str, ...], positions: np.ndarray) -> QTable:
    """Rows of positions that are not on the image: NaN, and flagged."""
    count = len(positions)
    unknown = jnp.full((count, len(bands)), jnp.nan)
    moments = jnp.full((count, 3), jnp.nan)
    nothing = jnp.zeros(count, int)
    center = jnp.asarray(positions, unknown.dtype)
    flags = nothing + int(Flag.OUTSIDE_IMAGE)
    table = table_of(Measurements(unknown, unknown, unknown, center, moments, nothing, flags), bands)
    for name in ("size", "e1", "e2"):
        table[name][:] = np.nan
    for name, values in zip(("y", "x"), positions.T, strict=True):  # as precise as they were given
        table[name] = Column(values, unit=units.pix)
    table.add_column(np.full(count, NO_PARENT), name="parent", index=1)
    return table


def _parent_table(fits: list[_Fit]) -> Table:
    boxes = [fit.parent.box for fit in fits]
    columns = {
        "id": range(len(fits)),
        "y0": [box.start[0] for box in boxes],
        "x0": [box.start[1] for box in boxes],
        "ny": [box.shape[0] for box in boxes],
        "nx": [box.shape[1] for box in boxes],
        "n_sources": [len(fit.parent.rows) for fit in fits],
        "n_steps": [int(fit.result.n_steps) for fit in fits],
    }
    table = Table({name: np.array(list(values), dtype=np.int64) for name, values in columns.items()})
    table["status"] = np.array([RESULTS(int(fit.result.status)).name.lower() for fit in fits], dtype="U16")
    return table
