"""What became of work units, and the tables that say so."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
from astropy import units
from astropy.table import Column, QTable, Table
from astropy.wcs import WCS
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from ..batch import Deblended
from ..fit import RESULTS
from ..instrument.box import Box
from ..instrument.observation import Observation
from ..io import PathLike
from ..measure.flags import Flag
from ..measure.photometry import Measurements
from ..measure.table import table_of
from .plan import NO_PARENT, OUTSIDE, WorkUnit
from .store import MEASURED, ModelStore, StoredBlend

SKIPPED, FAILED = "skipped: ", "failed: "
"""Beginnings of the reasons why a blend was not fitted."""


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a work unit, without its model.

    Attributes
    ----------
    id, parent, box
        As in `WorkUnit`.
    rows
        Its own rows of the catalog.
    status
        Value of `RESULTS`, -1 if it was not fitted.
    n_steps
        Steps of the optimizer.
    chi2, n_dof
        Weighted sum of squared residuals on its own pixels; their number less that of fluxes and positions.
    reason
        Why it was not fitted, if it was not.
    measurements
        Of its own sources, if it was fitted.
    """

    id: int
    parent: int
    box: Box
    rows: Int[np.ndarray, " source"]
    status: int
    n_steps: int
    chi2: float
    n_dof: int
    reason: str
    measurements: Measurements | None

    @classmethod
    def of(cls, record: StoredBlend) -> "Outcome":
        """What a record says, without its model."""
        return cls(
            record.id,
            record.parent,
            record.box,
            record.rows,
            record.status,
            0 if record.fit is None else int(record.fit.n_steps),
            record.chi2,
            record.n_dof,
            record.reason,
            record.measurements,
        )


def fitted_record(
    unit: WorkUnit, positions: Float[np.ndarray, "source 2"], obs: Observation, result: Deblended, own: Deblended
) -> StoredBlend:
    """Record of a unit that was fitted.

    Parameters
    ----------
    unit
        The unit.
    positions
        Positions of its rows, in pixels of the exposure.
    obs
        What it was fitted to.
    result
        The fit of all of its sources.
    own
        The same of its own sources alone.

    Returns
    -------
    StoredBlend
        The record.
    """
    weights = np.asarray(obs.weights, np.float64)
    if unit.n_own < len(unit.rows):
        weights = weights * _own_pixels(unit, positions)
    residual = np.asarray(obs.images, np.float64) - np.nan_to_num(result.model.astype(np.float64))
    n_components = int(np.sum(own.measurements.n_components))
    return StoredBlend(
        unit.id,
        unit.parent,
        unit.box,
        unit.own,
        fit=own.fit,
        measurements=own.measurements,
        chi2=float(np.sum(weights * residual**2)),
        n_dof=int(np.sum(weights > 0)) - len(own.bands) * n_components - 2 * unit.n_own,
    )


def unfitted_record(unit: WorkUnit, reason: str) -> StoredBlend:
    """Record of a unit that was not fitted, for a reason."""
    return StoredBlend(unit.id, unit.parent, unit.box, unit.own, reason=reason)


def _own_pixels(unit: WorkUnit, positions: Float[np.ndarray, "source 2"]) -> np.ndarray:
    """Pixels of the window that are nearest to one of the unit's own sources."""
    y, x = np.indices(unit.box.shape)
    pixels = np.stack([y + unit.box.start[0], x + unit.box.start[1]], axis=-1)
    nearest = np.asarray(KDTree(positions).query(pixels.reshape(-1, 2))[1])
    return (nearest < unit.n_own).reshape(unit.box.shape)


def stored_outcomes(store: ModelStore) -> Iterator[Outcome]:
    """What became of the units of a store, without reading models.

    Parameters
    ----------
    store
        The store.

    Yields
    ------
    Outcome
        In the order of ids.
    """
    tables, reasons = {name: store.table(name) for name in ("blends", "sources")}, store.reasons()
    columns = {name: np.asarray(tables["sources"][name]) for name in ("row", *MEASURED)}
    blends = {name: np.asarray(tables["blends"][name]) for name in tables["blends"].colnames}
    stops = np.cumsum(blends["n_sources"])
    for number in range(len(stops)):
        one = {name: column[number] for name, column in blends.items()}
        mine = slice(int(stops[number] - one["n_sources"]), int(stops[number]))
        values = {field: columns[name][mine] for name, field in MEASURED.items()}
        yield Outcome(
            id=int(one["id"]),
            parent=int(one["parent"]),
            box=Box((int(one["y0"]), int(one["x0"])), (int(one["height"]), int(one["width"]))),
            rows=columns["row"][mine],
            status=int(one["status"]),
            n_steps=int(one["n_steps"]),
            chi2=float(one["chi2"]),
            n_dof=int(one["n_dof"]),
            reason=reasons.get(int(one["id"]), ""),
            measurements=Measurements(**values) if one["measured"] else None,
        )


def stored_tables(path: PathLike, positions: Float[np.ndarray, "source 2"]) -> tuple[QTable, Table]:
    """Tables of sources and parents of a store, those of `jaxdeblend.deblend_catalog`.

    Parameters
    ----------
    path
        The store.
    positions
        Positions (y, x) in pixels of all rows of the catalog.

    Returns
    -------
    sources, parents : Table
        Rows of which the store knows.
    """
    with ModelStore(path) as store:
        outcomes = list(stored_outcomes(store))
        sources = source_table(positions, store.header.bands, store.header.celestial_wcs(), outcomes)
    return sources, parent_table(outcomes)


def source_table(
    positions: Float[np.ndarray, "source 2"], bands: tuple[str, ...], wcs: WCS | None, outcomes: Iterable[Outcome]
) -> QTable:
    """One row per position of which the outcome is known, in order.

    Parameters
    ----------
    positions
        Positions (y, x) in pixels of all rows of the catalog.
    bands
        Names of the bands.
    wcs
        Celestial coordinates; adds ``ra`` and ``dec``.
    outcomes
        What became of the units.

    Returns
    -------
    QTable
        See `jaxdeblend.deblend_catalog`.
    """
    outcomes = list(outcomes)
    center, values = positions.astype(float), _unknown(len(positions), len(bands), outcomes)
    parent, blend = np.full((2, len(positions)), NO_PARENT)
    reason = np.full(len(positions), "", dtype=object)
    known = np.zeros(len(positions), bool)
    for one in outcomes:
        parent[one.rows], blend[one.rows], reason[one.rows], known[one.rows] = one.parent, one.id, one.reason, True
        if one.measurements is None:
            lost = one.reason == SKIPPED + OUTSIDE
            values["flags"][one.rows] = int(Flag.OUTSIDE_IMAGE if lost else Flag.NOT_DEBLENDED)
        else:
            center[one.rows] = np.asarray(one.measurements.center, float) + one.box.start
            for name, column in values.items():
                column[one.rows] = np.asarray(getattr(one.measurements, name))
    table = table_of(Measurements(center=center, **values), bands)
    for name in ("size", "e1", "e2"):
        table[name][np.isnan(values["moments"][:, 0])] = np.nan
    table.add_column(parent, name="parent", index=1)
    if wcs is not None:
        sky = wcs.pixel_to_world_values(center[:, 1], center[:, 0])
        angles = [np.asarray(angle, float) * units.deg for angle in sky]
        table.add_columns(angles, names=["ra", "dec"], indexes=[table.index_column("y") + 1] * 2)
    table["blend"] = Column(blend, description="work unit in which it was fitted")
    table["skip_reason"] = Column(reason.astype(str), description="why it was not fitted; empty if it was")
    return QTable(table[np.flatnonzero(known)])


def _unknown(n: int, n_bands: int, outcomes: list[Outcome]) -> dict[str, np.ndarray]:
    """Measurements of rows of which nothing is known."""
    measured = (one.measurements for one in outcomes if one.measurements is not None)
    dtype = next((np.asarray(values.flux).dtype for values in measured), np.dtype(np.float32))
    shapes = {"flux": (n, n_bands), "flux_err": (n, n_bands), "blendedness": (n, n_bands), "moments": (n, 3)}
    values = {name: np.full(shape, np.nan, dtype) for name, shape in shapes.items()}
    return values | {name: np.zeros(n, np.int32) for name in ("n_components", "flags")}


def parent_table(outcomes: Iterable[Outcome]) -> Table:
    """One row per parent.

    Parameters
    ----------
    outcomes
        What became of the units.

    Returns
    -------
    Table
        See `jaxdeblend.deblend_catalog`.
    """
    known = sorted((one for one in outcomes if one.parent != NO_PARENT), key=lambda one: (one.parent, one.id))
    groups = [list(group) for _, group in itertools.groupby(known, key=lambda one: one.parent)]
    rows = [_parent_row(group) for group in groups]
    return Table({name: np.array([row[name] for row in rows], kind) for name, kind in _PARENT.items()})


_PARENT = {
    **dict.fromkeys(("id", "y0", "x0", "ny", "nx", "n_sources", "n_steps"), np.int64),
    "status": "U16",
    "n_pieces": np.int64,
    "converged": bool,
    "chi2": np.float64,
    "n_dof": np.int64,
    "skipped": bool,
    "skip_reason": str,
    "failed": bool,
    "error": str,
}
"""Columns of the table of parents, and their types."""


def _parent_row(group: list[Outcome]) -> dict[str, object]:
    """A parent of one or several pieces: the sum of their parts, and the worst of their states."""
    start = [min(one.box.start[axis] for one in group) for axis in (0, 1)]
    stop = [max(one.box.stop[axis] for one in group) for axis in (0, 1)]
    skipped = [one.reason.removeprefix(SKIPPED) for one in group if one.reason.startswith(SKIPPED)]
    failed = [one.reason.removeprefix(FAILED) for one in group if one.reason.startswith(FAILED)]
    fitted = [one for one in group if not one.reason]
    worst = max((one.status for one in fitted), default=0)
    return {
        "id": group[0].parent,
        **dict(zip(("y0", "x0"), start, strict=True)),
        **{name: stop[axis] - start[axis] for axis, name in enumerate(("ny", "nx"))},
        "n_sources": sum(len(one.rows) for one in group),
        "n_steps": max(one.n_steps for one in group),
        "status": "failed" if failed else "skipped" if skipped else RESULTS(worst).name.lower(),
        "n_pieces": len(group),
        "converged": len(fitted) == len(group) and worst == RESULTS.CONVERGED,
        "chi2": math.fsum(one.chi2 for one in fitted) if fitted else math.nan,
        "n_dof": sum(one.n_dof for one in fitted),
        "skipped": bool(skipped),
        "skip_reason": skipped[0] if skipped else "",
        "failed": bool(failed),
        "error": failed[0] if failed else "",
    }
