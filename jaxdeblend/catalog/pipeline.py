"""A whole exposure: detect, deblend every footprint, measure, and put it together again."""

import dataclasses
import logging
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from astropy import units
from astropy.table import Column, QTable, Table, vstack
from jaxtyping import Float

from ..batch import Deblended, deblend_batch
from ..detect import Detection, detect
from ..fit import RESULTS, Initialization, ProximalAdam
from ..instrument.box import Box
from ..instrument.observation import Observation
from ..io import Exposure, SourceModel
from ..measure.flags import Flag
from ..measure.photometry import Measurements
from ..measure.table import table_of
from .parents import Parent, find_parents

logger = logging.getLogger(__name__)

NO_PARENT = -1
"""Parent of a row that was not fitted."""

GIVEN_ERROR = 0.1
"""1σ error per axis in pixels of positions that come without one."""

BORDER = 1e-3
"""Positions keep this distance from the border of the image, in pixels."""

STAMP_LEVEL = 0.01
"""Stamps of sources end where their model is within this many σ of the background from zero in every band."""


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

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> dark = jd.Exposure(np.zeros((1, 32, 40)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> result = jd.deblend_catalog(dark)
    >>> len(result.table), result.model.shape, result.n_failed
    (0, (1, 32, 40), 0)
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
    centers: object | None = None,
    *,
    center_error: object | None = None,
    threshold: float = 5.0,
    margin: int | None = None,
    options: Initialization | None = None,
    optimizer: ProximalAdam | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CatalogResult:
    """Detect, deblend and measure all sources of an exposure.

    Footprints are found on the whole exposure. Each becomes a parent: a window around it, in which the
    pixels of other footprints are not used, and in which its sources are fitted together. Where the PSF varies over
    the exposure, sources are detected with that at the centre of the exposure, and each parent is fitted with that at
    the centre of its window.

    Parameters
    ----------
    exposure
        The exposure.
    centers
        Positions (y, x) in pixels, 0-based; by default those of the detected peaks. None gets lost: a
        position off the image (or NaN) comes back as a flagged row without flux.
    center_error
        1σ error per axis of the positions in pixels, one number or one per source; by default 0.1 for given
        positions, and its own for each detected peak.
    threshold
        Significance from which a peak counts as a source, in σ.
    margin
        Pixels by which windows reach beyond footprints; by default the FWHM of the broadest PSF.
    options
        Constraints, priors and numbers of components of the fit.
    optimizer
        Settings of the optimizer.
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
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> psf = jd.GaussianPSF(1.5)
    >>> image = np.pad(100 * np.asarray(psf.stamp(15)), ((0, 0), (5, 12), (10, 7)))
    >>> exposure = jd.Exposure(image, [0.01], psf, bands=["r"])
    >>> result = jd.deblend_catalog(exposure)
    >>> result.table["y"].value.round(1).tolist(), result.table["x"].value.round(1).tolist()
    ([12.0], [17.0])
    """
    whole = exposure.observation()
    detection = detect(whole, threshold=threshold)
    positions, errors = _positions(detection, centers, center_error)
    parents = find_parents(exposure, detection, positions, margin=margin)
    logger.info("%d sources in %d blends", len(positions), len(parents))
    observations = [exposure.observation(parent.box, exclude=parent.exclude) for parent in parents]
    results = deblend_batch(
        [(obs, _inside(parent, positions)) for obs, parent in zip(observations, parents, strict=True)],
        center_error=[errors[parent.rows] for parent in parents],
        options=options,
        optimizer=optimizer,
        progress=None if progress is None else (lambda done: progress(done, len(parents))),
    )
    fits = [_Fit(parent, result) for parent, result in zip(parents, results, strict=True)]
    model = _whole_model(exposure, fits)
    return CatalogResult(
        table=_tabulate(exposure, positions, fits),
        model=model,
        residual=np.where(exposure.mask, np.float32(np.nan), exposure.images - model),
        sources=_source_models(whole, fits),
        parents=_parent_table(fits),
        detection=detection,
    )


@dataclasses.dataclass(frozen=True)
class _Fit:
    """A parent and its fit."""

    parent: Parent
    result: Deblended


def _positions(
    detection: Detection, centers: object | None, center_error: object | None
) -> tuple[Float[np.ndarray, "source 2"], Float[np.ndarray, " source"]]:
    """Positions and their errors, as given or as detected."""
    positions = detection.centers if centers is None else np.asarray(centers, float)
    if positions.size == 0:
        positions = np.zeros((0, 2))
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"centers: got shape {positions.shape}; give (source, 2), (y, x) in pixels.")
    if center_error is None:
        errors = np.asarray(detection.peaks["error"], float) if centers is None else np.float64(GIVEN_ERROR)
    else:
        errors = np.asarray(center_error, float)
    if np.ndim(errors) and np.shape(errors) != (len(positions),):
        raise ValueError(
            f"center_error: got shape {np.shape(errors)} for {len(positions)} sources; give one number, or one "
            "per source."
        )
    return positions, np.broadcast_to(errors, len(positions))


def _inside(parent: Parent, positions: np.ndarray) -> np.ndarray:
    """Positions in the pixels of the parent's window; rounding must not push those at the very border off it."""
    local = positions[parent.rows] - parent.box.start
    return np.clip(local, -0.5 + BORDER, np.array(parent.box.shape) - 0.5 - BORDER)


def _whole_model(exposure: Exposure, fits: list[_Fit]) -> np.ndarray:
    """Model of the whole exposure."""
    model = np.zeros(exposure.images.shape, np.float32)
    for fit in fits:
        model[(slice(None), *fit.parent.box.slices)] += np.nan_to_num(fit.result.model)
    return model


def _source_models(whole: Observation, fits: list[_Fit]) -> tuple[SourceModel, ...]:
    """Model of each fitted source, in the order of rows."""
    level = STAMP_LEVEL * np.asarray(whole.background_rms)
    found = {
        int(row): _source_model(int(row), fit.parent.box, cube, level)
        for fit in fits
        for row, cube in zip(fit.parent.rows, np.nan_to_num(fit.result.source_models), strict=True)
    }
    return tuple(found[row] for row in sorted(found))


def _source_model(row: int, box: Box, cube: np.ndarray, level: np.ndarray) -> SourceModel:
    """Cut a source's model down to the window where it is above the level in some band."""
    bright = np.any(np.abs(cube) > level[:, None, None], axis=0)
    ys, xs = np.flatnonzero(np.any(bright, axis=1)), np.flatnonzero(np.any(bright, axis=0))
    if len(ys) == 0:
        return SourceModel(row, Box(box.start, (1, 1)), cube[:, :1, :1].astype(np.float32))
    tight = Box((int(ys[0]), int(xs[0])), (int(ys[-1] - ys[0]) + 1, int(xs[-1] - xs[0]) + 1))
    image = cube[(slice(None), *tight.slices)].astype(np.float32)
    return SourceModel(row, tight.shifted_by(*box.start), image)


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
    table = fit.result.table()
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
