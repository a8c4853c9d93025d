"""What a store holds of one blend, and its way into columns and back."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Int

from ...fitting import FitResult
from ...instrument.box import Box
from ...measurement.flags import FOUND_BEFORE_FIT
from ...measurement.photometry import Measurements
from ...model.blend import Blend, FitRecord, Stack
from ...model.prior import CenterPrior
from .kinds import Kinds, lossless
from .layout import NOT_FITTED, TABLES, Rows, StoreHeader

MEASURED = {
    "flux": "flux",
    "flux_err": "flux_err",
    "blendedness": "blendedness",
    "data_coverage": "data_coverage",
    "peak_flux": "peak_flux",
    "position": "center",
    "moments": "moments",
    "n_components": "n_components",
    "flags": "flags",
}
"""Columns of the table of sources, and the fields of `Measurements` that they hold."""


@dataclasses.dataclass(frozen=True, eq=False)
class StoredBlend:
    """One finished blend.

    Parameters
    ----------
    id
        Number of the blend.
    parent
        Number of its parent.
    box
        Its window, in pixels of the exposure.
    rows
        Row of the catalog of each of its sources.
    fit
        The fit, in pixels of the window; None if there was none.
    measurements
        What was measured on it, None if nothing was.
    source_ids
        Numbers of the sources; by default their rows.
    reason
        Why it was not fitted, if it was not.
    chi2
        Weighted sum of squared residuals, NaN if unknown.
    n_dof
        Number of pixel values in it, less that of fluxes and positions.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> star = jd.Blend.of([jd.PointSource((8.3, 7.6), [5.0])], frame=(16, 16))
    >>> fit = jd.FitResult(star, loss=np.array([2.5]), n_steps=np.array(1), status=np.array(0))
    >>> box = jd.Box((40, 52), (16, 16))
    >>> stored = jd.StoredBlend(7, 3, box, np.array([12]), fit)
    >>> lost = jd.StoredBlend(8, 3, box, np.array([13, 14]), reason="no memory")
    >>> stored.status == jd.RESULTS.CONVERGED, lost.status
    (True, -1)
    """

    id: int
    parent: int
    box: Box
    rows: Int[np.ndarray, " source"]
    fit: FitResult | None = None
    measurements: Measurements | None = None
    source_ids: Int[np.ndarray, " id"] | None = None
    reason: str = ""
    chi2: float = math.nan
    n_dof: int = 0

    @property
    def status(self) -> int:
        """Value of `RESULTS`; -1 if it was not fitted."""
        return NOT_FITTED if self.fit is None else int(self.fit.status)

    @property
    def blend(self) -> Blend:
        """The fitted blend.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.fit is None:
            raise ValueError(f"blend {self.id} has no model: it was not fitted ({self.reason}).")
        return self.fit.blend


def encoded(record: StoredBlend, kinds: Kinds) -> Rows:
    """Write a blend into columns.

    Parameters
    ----------
    record
        The blend.
    kinds
        Kinds of components of the store; new ones are added.

    Returns
    -------
    Rows
        Columns of one blend.

    Raises
    ------
    ValueError
        If the parts do not fit together or to the bands, or a component cannot be stored.
    """
    header = kinds.header
    _check(record, header)
    found = _component_rows(record.fit, kinds) | _source_rows(record, header)
    fit = record.fit
    n_steps = 0 if fit is None else int(fit.n_steps)
    found["losses/value"] = np.asarray([] if fit is None else fit.loss)[:n_steps]
    found["letters/value"] = np.frombuffer(record.reason.encode(), np.uint8)
    counts = {
        table: len(found[f"{table}/{next(iter(columns))}"]) for table, columns in TABLES.items() if table != "blends"
    }
    window = dict(zip(("y0", "x0", "height", "width"), (*record.box.start, *record.box.shape), strict=True))
    numbers = {"id": record.id, "parent": record.parent, "status": record.status, "n_steps": n_steps} | window
    numbers |= {"measured": record.measurements is not None, "chi2": record.chi2, "n_dof": record.n_dof}
    numbers |= {f"n_{table}": count for table, count in counts.items()}
    found |= {f"blends/{name}": np.array([value]) for name, value in numbers.items()}
    return {name: np.array(lossless(found[name], dtype, name)) for name, dtype in header.dtypes.items()}


def decoded(rows: Rows, kinds: Kinds) -> StoredBlend:
    """Read a blend from its columns.

    Parameters
    ----------
    rows
        Columns of one blend.
    kinds
        Kinds of components of the store.

    Returns
    -------
    StoredBlend
        The blend; all arrays are on the host.
    """
    one = {name: rows[f"blends/{name}"][0] for name in TABLES["blends"]}
    _check_stored(rows, one)
    fit = None
    if one["status"] != NOT_FITTED:
        number = {name: np.array(one[name], _integer()) for name in ("n_steps", "status")}
        found = rows["sources/flags"] & np.array(FOUND_BEFORE_FIT.value, rows["sources/flags"].dtype)
        blend = _blend(rows, kinds, FitRecord(number["status"], flags=found))
        fit = FitResult(blend, rows["losses/value"], number["n_steps"], number["status"])
    measured = {field: rows[f"sources/{name}"] for name, field in MEASURED.items()}
    return StoredBlend(
        id=int(one["id"]),
        parent=int(one["parent"]),
        box=Box((int(one["y0"]), int(one["x0"])), (int(one["height"]), int(one["width"]))),
        rows=rows["sources/row"],
        fit=fit,
        measurements=Measurements(**measured) if one["measured"] else None,
        source_ids=rows["sources/id"],
        reason=rows["letters/value"].tobytes().decode(),
        chi2=float(one["chi2"]),
        n_dof=int(one["n_dof"]),
    )


def _check_stored(rows: Rows, one: dict[str, np.generic]) -> None:
    """Refuse numbers that no blend can have."""
    source, n_sources = rows["components/source"], len(rows["sources/id"])
    if len(source) and not (0 <= source.min() and source.max() < n_sources):
        raise ValueError(f"damaged: a component of blend {one['id']} is of none of its {n_sources} sources")
    if min(int(one["height"]), int(one["width"])) < 0 or int(one["n_steps"]) < 0:
        raise ValueError(f"damaged: blend {one['id']} has a window or steps of a negative number")
    if rows["stacks/n_components"].sum() != len(source) or np.any(rows["stacks/n_components"] < 0):
        raise ValueError(f"damaged: the stacks of blend {one['id']} do not have its {len(source)} components")
    if (one["status"] == NOT_FITTED) != bool(len(rows["letters/value"])):
        raise ValueError(f"damaged: blend {one['id']} is said to be fitted, and not to be")


def _check(record: StoredBlend, header: StoreHeader) -> None:
    """What belongs together must have the same shape."""
    n, n_bands = len(record.rows), len(header.bands)
    if record.source_ids is not None and len(record.source_ids) != n:
        raise ValueError(f"source_ids: got {len(record.source_ids)} for {n} rows of blend {record.id}; give one each.")
    if (record.fit is None) != bool(record.reason):
        raise ValueError(f"reason: got {record.reason!r}; give one if, and only if, blend {record.id} was not fitted.")
    if record.fit is not None and record.fit.blend.frame != record.box.shape:
        raise ValueError(f"box: got {record.box} for blend {record.id} of the frame {record.fit.blend.frame}.")
    if record.fit is not None and len(record.fit.blend.centers) != n:
        raise ValueError(f"rows: got {n} for the {len(record.fit.blend.centers)} sources of blend {record.id}.")
    if record.measurements is not None and record.measurements.flux.shape != (n, n_bands):
        raise ValueError(
            f"measurements: got fluxes of shape {record.measurements.flux.shape} for the {n} sources of blend "
            f"{record.id} in the bands {header.bands}; give (source, band)."
        )


def _source_rows(record: StoredBlend, header: StoreHeader) -> Rows:
    n = len(record.rows)
    found = {
        f"sources/{name}": np.full((n, *column.shape(header)), np.nan if column.dtype == "float" else 0)
        for name, column in TABLES["sources"].items()
    }
    found["sources/row"] = record.rows
    found["sources/id"] = record.rows if record.source_ids is None else record.source_ids
    if record.fit is not None:
        blend = record.fit.blend
        prior = {"detected": blend.center_prior.mean, "center_error": blend.center_prior.sigma}
        own = {"active": blend.active, "center": blend.centers} | prior
        found |= {f"sources/{name}": np.asarray(values) for name, values in own.items()}
    if record.measurements is not None:
        found |= {
            f"sources/{name}": np.asarray(getattr(record.measurements, field)) for name, field in MEASURED.items()
        }
    return found


def _component_rows(fit: FitResult | None, kinds: Kinds) -> Rows:
    """Columns of stacks, components, pixels and parameters."""
    stacks = () if fit is None else fit.blend.stacks
    found: dict[str, list[np.ndarray]] = {
        f"{table}/{name}": [column.empty(kinds.header)]
        for table in ("stacks", "components", "pixels", "parameters")
        for name, column in TABLES[table].items()
    }
    first = {"pixels": 0, "parameters": 0}
    for stack in stacks:
        number, numbers = kinds.encoded(stack)
        count = len(stack.source)
        found["stacks/kind"].append(np.array([number], np.int32))
        found["stacks/n_components"].append(np.array([count], np.int32))
        found["components/source"].append(np.asarray(stack.source, np.int32))
        found["components/kind"].append(np.full(count, number, np.int32))
        found["components/active"].append(np.asarray(stack.active))
        found["components/spectrum"].append(_spectrum(numbers["spectrum"], kinds.header))
        for table, one in (("pixels", "first_pixel"), ("parameters", "first_parameter")):
            size = numbers[table].shape[1]
            found[f"components/{one}"].append(first[table] + size * np.arange(count))
            found[f"{table}/value"].append(numbers[table].ravel())
            first[table] += size * count
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _spectrum(values: np.ndarray, header: StoreHeader) -> np.ndarray:
    """One number per band, NaN for components without any."""
    return values if values.shape[1] else np.full((len(values), len(header.bands)), np.nan, header.dtype)


def _blend(rows: Rows, kinds: Kinds, record: FitRecord) -> Blend:
    prior = CenterPrior(rows["sources/detected"], rows["sources/center_error"])
    frame = (int(rows["blends/height"][0]), int(rows["blends/width"][0]))
    return Blend(
        centers=rows["sources/center"],
        center_prior=prior,
        stacks=tuple(_stacks(rows, kinds)),
        active=rows["sources/active"],
        frame=frame,
        record=record,
    )


def _stacks(rows: Rows, kinds: Kinds) -> Iterator[Stack]:
    used = {"components": 0, "pixels": 0, "parameters": 0}
    source = rows["components/source"].astype(_integer())
    for number, count in zip(rows["stacks/kind"], rows["stacks/n_components"], strict=True):
        kind = kinds[int(number)]
        mine = slice(used["components"], used["components"] + count)
        used["components"] = mine.stop
        numbers = {"spectrum": rows["components/spectrum"][mine]}
        for table in ("pixels", "parameters"):
            start, size = used[table], kind.sizes[table]
            used[table] = stop = start + size * count
            numbers[table] = rows[f"{table}/value"][start:stop].reshape(count, size)
        yield Stack(kinds.decoded(int(number), numbers), source[mine], rows["components/active"][mine])


def _integer() -> np.dtype:
    """JAX's default integer type."""
    return jax.dtypes.canonicalize_dtype(int)
