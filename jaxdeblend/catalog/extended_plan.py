"""The plan of a catalog to which sources are added: which units they join, and which are new."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from ..detection import Detection
from ..io import Exposure
from .config import DeblendConfig
from .parents import pixels_of
from .plan import ALONE, NO_PARENT, WorkUnit, make_plan


def extend_plan(
    exposure: Exposure,
    detection: Detection,
    plan: Sequence[WorkUnit],
    positions: Float[np.ndarray, "source 2"],
    config: DeblendConfig | None = None,
    *,
    margin: int | None = None,
) -> tuple[WorkUnit, ...]:
    """Add rows to a plan: to its units where their windows hold them, else in new units.

    A position joins the unit whose window holds it on a pixel that is used there; of several, the one that has the
    nearest source. Pieces of one parent overlap: in the others that hold it, it is a neighbour that is fitted along. A
    unit that is skipped is joined on its footprint only. All other positions are divided into units as by `make_plan`,
    where the pixels of the units that there are belong to these.

    Parameters
    ----------
    exposure, detection
        The exposure, and its footprints.
    plan
        The units that there are.
    positions
        Positions (y, x) in pixels of all rows; those that the plan does not have are at the end.
    config, margin
        As for `make_plan`.

    Returns
    -------
    tuple of WorkUnit
        The same units, those that nothing joins being the same objects, and the new ones. Windows stay as they were.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.catalog.plan import make_plan
    >>> exposure = jd.Exposure(np.zeros((1, 64, 64)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> nothing, centers = jd.detect(exposure.observation()), np.array([[20.0, 20.0], [22.0, 21.0], [50.0, 50.0]])
    >>> plan = extend_plan(exposure, nothing, make_plan(exposure, nothing, centers[:1]), centers)
    >>> [unit.own.tolist() for unit in plan]
    [[0, 1], [2]]
    """
    first = sum(unit.n_own for unit in plan)
    own, along = _joining(exposure, plan, positions, first)
    found = [_joined(unit, own.get(unit.id, []), along.get(unit.id, [])) for unit in plan]
    joined = [row for rows in own.values() for row in rows]
    rest = np.setdiff1d(np.arange(first, len(positions)), np.array(joined, int))
    if len(rest):
        taken = _taken(exposure, plan)
        free = dataclasses.replace(detection, labels=_without(np.asarray(detection.labels), taken))
        parent = max((unit.parent for unit in plan), default=NO_PARENT) + 1
        for unit in make_plan(exposure, free, positions[rest], config, margin=margin):
            found.append(_numbered(unit, len(found), parent, rest, taken))
    return tuple(found)


def _joining(
    exposure: Exposure, plan: Sequence[WorkUnit], positions: Float[np.ndarray, "source 2"], first: int
) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Rows that join each unit, and those that are fitted along in it."""
    own, along = defaultdict(list), defaultdict(list)
    windows = [unit for unit in plan if unit.exclude is not None]
    corners = np.array([(*unit.box.start, *unit.box.stop) for unit in windows], int).reshape(-1, 4)
    pixels, rows = pixels_of(positions[first:], exposure.shape)
    for pixel, row in zip(pixels, first + rows, strict=True):
        near = np.flatnonzero((corners[:, :2] <= pixel).all(axis=1) & (pixel < corners[:, 2:]).all(axis=1))
        holders = [windows[k] for k in near if _holds(windows[k], pixel)]
        if holders:
            distances = [np.hypot(*(positions[unit.own] - positions[row]).T).min() for unit in holders]
            owner = holders[int(np.argmin(distances))]
            own[owner.id].append(int(row))
            for unit in holders:
                if unit is not owner and unit.parent == owner.parent:
                    along[unit.id].append(int(row))
    return own, along


def _holds(unit: WorkUnit, pixel: Int[np.ndarray, "2"]) -> bool:
    """Whether a position on a pixel of its window can be fitted in a unit; or is skipped with it."""
    place = tuple(pixel - unit.box.start)
    if unit.exclude is None or unit.exclude[place]:
        return False
    return not unit.skip or unit.footprint is None or bool(unit.footprint[place])


def _joined(unit: WorkUnit, own: list[int], along: list[int]) -> WorkUnit:
    """A unit with more rows; one that was skipped because its source was alone is not any more."""
    if not own and not along:
        return unit
    rows = np.concatenate([unit.own, np.array(own, int), unit.rows[unit.n_own :], np.array(along, int)])
    return dataclasses.replace(
        unit, rows=rows, n_own=unit.n_own + len(own), skip="" if unit.skip == ALONE else unit.skip
    )


def _taken(exposure: Exposure, plan: Sequence[WorkUnit]) -> Bool[np.ndarray, "y x"]:
    """Pixels of the exposure that are on the footprint of a unit."""
    taken = np.zeros(exposure.shape, bool)
    for unit in plan:
        if unit.footprint is not None:
            taken[unit.box.slices] |= unit.footprint
    return taken


def _without(labels: Int[np.ndarray, "y x"], taken: Bool[np.ndarray, "y x"]) -> Int[np.ndarray, "y x"]:
    """Labels without those of footprints that units have."""
    return np.where(np.isin(labels, np.unique(labels[taken])), 0, labels)


def _numbered(
    unit: WorkUnit, number: int, parent: int, rows: Int[np.ndarray, " source"], taken: Bool[np.ndarray, "y x"]
) -> WorkUnit:
    """A new unit of some rows, with numbers after those that there are, off the pixels of others."""
    unit = dataclasses.replace(unit, id=number, rows=rows[unit.rows])
    if unit.exclude is None or unit.footprint is None:
        return unit
    others = taken[unit.box.slices]
    exclude, footprint = unit.exclude | others, unit.footprint & ~others
    return dataclasses.replace(unit, parent=parent + unit.parent, exclude=exclude, footprint=footprint)
