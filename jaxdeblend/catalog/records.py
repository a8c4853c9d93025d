"""What became of work units, and the tables that say so."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from astropy.table import QTable, Table
from astropy.wcs import WCS
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from ..batch import Deblended
from ..fitting import RESULTS
from ..instrument.box import Box
from ..instrument.observation import Observation
from ..io import PathLike
from ..measurement.columns import ColumnInfo
from ..measurement.flags import Flag
from ..measurement.photometry import Measurements
from ..measurement.table import describe_columns, table_of
from .columns import BLEND_COLUMNS, PARENT_COLUMNS, SOURCE_COLUMNS
from .plan import NO_PARENT, OUTSIDE, WorkUnit
from .store import MEASURED, ModelStore, StoredBlend, component_type, source_types

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
    n_components
        Number of components of its own sources that are not padding.
    model_types
        What the components of each of its own sources are, see `ModelStore.model_types`.
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
    n_components: int
    model_types: np.ndarray

    @property
    def error(self) -> str:
        """The error with which it failed, if it did."""
        return self.reason.removeprefix(FAILED) if self.reason.startswith(FAILED) else ""

    @property
    def skip_reason(self) -> str:
        """Why it was skipped, if it was."""
        return "" if self.error else self.reason.removeprefix(SKIPPED)

    @classmethod
    def of(cls, record: StoredBlend) -> "Outcome":
        """What a record says, without its model."""
        stacks = () if record.fit is None else record.fit.blend.stacks
        active = [np.asarray(stack.active) for stack in stacks]
        parts = [
            (component_type(stack.component), np.asarray(stack.source)[lit])
            for stack, lit in zip(stacks, active, strict=True)
        ]
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
            sum(int(lit.sum()) for lit in active),
            source_types(len(record.rows), parts),
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
    tables, reasons = {name: store.table(name) for name in ("blends", "sources", "components")}, store.reasons()
    lit = np.asarray(tables["components"]["blend"])[np.asarray(tables["components"]["active"])]
    n_components, model_types = np.bincount(np.searchsorted(store.ids, lit), minlength=len(store)), store.model_types()
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
            n_components=int(n_components[number]),
            model_types=model_types[mine],
        )


def stored_tables(path: PathLike, positions: Float[np.ndarray, "source 2"]) -> tuple[QTable, Table, Table]:
    """Tables of sources, parents and blends of a store, those of `jaxdeblend.deblend_catalog`.

    Parameters
    ----------
    path
        The store.
    positions
        Positions (y, x) in pixels of all rows of the catalog.

    Returns
    -------
    sources, parents, blends : Table
        Rows of which the store knows.
    """
    with ModelStore(path) as store:
        outcomes, header = list(stored_outcomes(store)), store.header
    sources = source_table(positions, header.bands, header.celestial_wcs(), outcomes, unit=header.unit or None)
    return sources, parent_table(outcomes), blend_table(outcomes)


def source_table(
    positions: Float[np.ndarray, "source 2"],
    bands: tuple[str, ...],
    wcs: WCS | None,
    outcomes: Iterable[Outcome],
    *,
    unit: str | None = None,
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
    unit
        Unit of the images, None if it is unknown.

    Returns
    -------
    QTable
        The columns of `jaxdeblend.catalog.columns.SOURCE_COLUMNS`.
    """
    outcomes = list(outcomes)
    center, values = positions.astype(float), _unknown(len(positions), len(bands), outcomes)
    for one in outcomes:
        if one.measurements is None:
            lost = one.reason == SKIPPED + OUTSIDE
            values["flags"][one.rows] = int(Flag.OUTSIDE_IMAGE if lost else Flag.NOT_DEBLENDED)
        else:
            center[one.rows] = np.asarray(one.measurements.center, float) + one.box.start
            for name, column in values.items():
                column[one.rows] = np.asarray(getattr(one.measurements, name))
    table = table_of(Measurements(center=center, **values), bands, wcs=wcs)
    for name in ("size", "e1", "e2"):
        table[name][np.isnan(values["moments"][:, 0])] = np.nan
    of_blends = _of_blends(len(positions), outcomes)
    table.add_column(of_blends.pop("parent"), name="parent", index=1)
    table["peak_x"], table["peak_y"] = positions[:, 1].astype(float), positions[:, 0].astype(float)
    table.add_columns(list(of_blends.values()), names=list(of_blends))
    known = np.zeros(len(positions), bool)
    known[np.concatenate([*(one.rows for one in outcomes), np.zeros(0, int)])] = True
    table = QTable(table[np.flatnonzero(known)])
    describe_columns(table, SOURCE_COLUMNS, bands, unit=unit)
    return table


def _of_blends(n: int, outcomes: list[Outcome]) -> dict[str, np.ndarray]:
    """Columns of sources that tell of their blend and their parent."""
    members = Counter[int]()
    for one in outcomes:
        members[one.parent] += len(one.rows)
    members[NO_PARENT] = 0
    columns = {
        **{name: np.full(n, NO_PARENT) for name in ("parent", "blend")},
        **{name: np.zeros(n, np.int64) for name in ("blend_n_sources", "parent_n_sources")},
        "is_isolated": np.zeros(n, bool),
        "blend_chi2": np.full(n, np.nan),
        "blend_n_dof": np.zeros(n, np.int64),
        **{name: np.full(n, "", dtype=object) for name in ("model_type", "skip_reason")},
    }
    for one in outcomes:
        told = (one.parent, one.id, len(one.rows), members[one.parent], members[one.parent] == 1)
        told = (*told, one.chi2, one.n_dof, one.model_types, one.reason)
        for column, value in zip(columns.values(), told, strict=True):
            column[one.rows] = value
    return {name: column.astype(str) if column.dtype == object else column for name, column in columns.items()}


def _unknown(n: int, n_bands: int, outcomes: list[Outcome]) -> dict[str, np.ndarray]:
    """Measurements of rows of which nothing is known."""
    measured = (one.measurements for one in outcomes if one.measurements is not None)
    dtype = next((np.asarray(values.flux).dtype for values in measured), np.dtype(np.float32))
    per_band = ("flux", "flux_err", "blendedness", "data_coverage", "peak_flux")
    shapes = {**dict.fromkeys(per_band, (n, n_bands)), "moments": (n, 3)}
    values = {name: np.full(shape, np.nan, dtype) for name, shape in shapes.items()}
    return values | {name: np.zeros(n, np.int32) for name in ("n_components", "flags")}


def blend_table(outcomes: Iterable[Outcome]) -> Table:
    """One row per work unit, in the order of their numbers, with those that were not fitted.

    Parameters
    ----------
    outcomes
        What became of the units.

    Returns
    -------
    Table
        The columns of `jaxdeblend.catalog.columns.BLEND_COLUMNS`.
    """
    return _tabulated([_blend_row(one) for one in sorted(outcomes, key=lambda one: one.id)], BLEND_COLUMNS)


def parent_table(outcomes: Iterable[Outcome]) -> Table:
    """One row per parent: the sum of its blends.

    Parameters
    ----------
    outcomes
        What became of the units.

    Returns
    -------
    Table
        The columns of `jaxdeblend.catalog.columns.PARENT_COLUMNS`.
    """
    known = sorted((one for one in outcomes if one.parent != NO_PARENT), key=lambda one: (one.parent, one.id))
    groups = [list(group) for _, group in itertools.groupby(known, key=lambda one: one.parent)]
    return _tabulated([_parent_row(group) for group in groups], PARENT_COLUMNS)


def _tabulated(rows: list[dict[str, object]], columns: Mapping[str, ColumnInfo]) -> Table:
    table = Table({name: np.array([row[name] for row in rows], about.dtype) for name, about in columns.items()})
    describe_columns(table, columns)
    return table


def _blend_row(one: Outcome) -> dict[str, object]:
    return {
        "id": one.id,
        "parent": one.parent,
        **dict(zip(("y0", "x0", "ny", "nx"), (*one.box.start, *one.box.shape), strict=True)),
        "n_sources": len(one.rows),
        "n_components": one.n_components,
        "n_steps": one.n_steps,
        "status": _status([one]),
        "converged": one.status == RESULTS.CONVERGED,
        "chi2": one.chi2,
        "n_dof": one.n_dof,
        **_state([one]),
    }


def _status(group: list[Outcome]) -> str:
    """The worst status of some blends."""
    if any(one.reason for one in group):
        return "failed" if any(one.error for one in group) else "skipped"
    return RESULTS(max(one.status for one in group)).name.lower()


def _state(group: list[Outcome]) -> dict[str, object]:
    """Whether and why some blends were not fitted; of several reasons the first."""
    skips = [one.skip_reason for one in group if one.skip_reason]
    errors = [one.error for one in group if one.error]
    return {
        "skipped": bool(skips),
        "skip_reason": skips[0] if skips else "",
        "failed": bool(errors),
        "error": errors[0] if errors else "",
    }


def _parent_row(group: list[Outcome]) -> dict[str, object]:
    """A parent of one or several pieces: the sum of their parts, and the worst of their states."""
    window = Box.union(outcome.box for outcome in group)
    fitted = [one for one in group if not one.reason]
    return {
        "id": group[0].parent,
        **dict(zip(("y0", "x0"), window.start, strict=True)),
        **dict(zip(("ny", "nx"), window.shape, strict=True)),
        "n_sources": sum(len(one.rows) for one in group),
        "n_steps": max(one.n_steps for one in group),
        "status": _status(group),
        "n_pieces": len(group),
        "converged": all(one.status == RESULTS.CONVERGED for one in group),
        "chi2": math.fsum(one.chi2 for one in fitted) if fitted else math.nan,
        "n_dof": sum(one.n_dof for one in fitted),
        "n_components": sum(one.n_components for one in group),
        "n_skipped": sum(bool(one.skip_reason) for one in group),
        "n_failed": sum(bool(one.error) for one in group),
        **_state(group),
    }
