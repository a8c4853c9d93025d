"""The plan of a catalog run: which sources are fitted together, where, and which are not fitted at all."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from ..batch import fitting_memory
from ..detection import Detection
from ..detection.hierarchy import groups_on, islands
from ..detection.split import Piece, light_extent, split_parent
from ..fitting.ladder import IMAGE_EDGES, SOURCE_COUNTS, rung
from ..instrument.box import Box
from ..io import Exposure
from .config import DeblendConfig
from .parents import Parent, default_margin, find_parents, grid_box

NO_PARENT = -1
"""Parent of a row that belongs to none."""

OUTSIDE = "outside the image"
"""Why positions off the image are not fitted."""

PSEUDO = "pseudo source"
"""Why positions that are no sources are not fitted."""

ALONE = "process_singles: it is alone"
"""Why sources that are alone in their parent are not fitted, if they shall not be."""


@dataclasses.dataclass(frozen=True, eq=False)
class WorkUnit:
    """Sources that are fitted together, or not fitted for the same reason.

    Attributes
    ----------
    id
        Number of the unit in the plan, and of the blend in a store.
    parent
        Number of the parent; -1 for rows that have none.
    rows
        Rows of the catalog: its own first, then neighbours that are fitted along.
    n_own
        Number of its own.
    box
        Window of the exposure.
    exclude
        True on pixels of the window that belong to others; None if there is nothing to fit.
    skip
        Why it is not fitted; empty if it is.
    exact_spectra
        Whether its spectra are solved for exactly in the end, if the optimizer does so.
    footprint
        True on pixels of the window that belong to its parent and are used; None if it has no parent.
    """

    id: int
    parent: int
    rows: Int[np.ndarray, " source"]
    n_own: int
    box: Box
    exclude: Bool[np.ndarray, "y x"] | None = None
    skip: str = ""
    exact_spectra: bool = True
    footprint: Bool[np.ndarray, "y x"] | None = None

    @property
    def own(self) -> Int[np.ndarray, " own"]:
        """Rows whose fit is kept."""
        return self.rows[: self.n_own]

    @property
    def cost(self) -> int:
        """What units are ordered by, about the time of a fit."""
        return max(self.box.shape) ** 2 * len(self.rows)

    def memory(self, n_bands: int) -> int:
        """Bytes that its fit takes, about; 0 if it is not fitted."""
        edge, n_sources = rung(max(self.box.shape), IMAGE_EDGES), rung(len(self.rows), SOURCE_COUNTS)
        return 0 if self.skip else fitting_memory(edge, n_bands, n_sources)


def make_plan(
    exposure: Exposure,
    detection: Detection,
    positions: Float[np.ndarray, "source 2"],
    config: DeblendConfig | None = None,
    *,
    pseudo: Bool[np.ndarray, " source"] | None = None,
    margin: int | None = None,
) -> tuple[WorkUnit, ...]:
    """Divide the rows of a catalog into work units.

    The same input gives the same plan, whatever computes it. Every row is among the own of one unit.

    Parameters
    ----------
    exposure
        The exposure.
    detection
        Its footprints.
    positions
        Positions (y, x) in pixels, of all rows.
    config
        Limits and budget; None: no limits, and no parent is cut.
    pseudo
        True for rows that are never deblended.
    margin
        Pixels by which windows reach beyond footprints.

    Returns
    -------
    tuple of WorkUnit
        Numbered from 0.

    Raises
    ------
    ValueError
        If the exposure does not have a mask plane that the configuration names.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.detection import detect
    >>> exposure = jd.Exposure(np.zeros((1, 64, 64)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> centers = np.array([[20.0, 20.0], [np.nan, 3.0], [22.0, 21.0]])
    >>> plan = make_plan(exposure, detect(exposure.observation()), centers)
    >>> [(unit.own.tolist(), unit.skip) for unit in plan]
    [([0, 2], ''), ([1], 'outside the image')]
    """
    pseudo = np.zeros(len(positions), bool) if pseudo is None else pseudo
    margin = default_margin(exposure) if margin is None else margin
    real = np.where(pseudo[:, None], np.nan, positions)
    parents = find_parents(exposure, detection, real, margin=margin)
    budget = (
        None if config is None else _Budget(exposure, positions, config, margin, _island(exposure, detection, config))
    )
    units: list[WorkUnit] = []
    for number, parent in enumerate(parents):
        for unit in [_whole(number, parent)] if budget is None else budget.units(number, parent):
            units.append(dataclasses.replace(unit, id=len(units)))
    held = np.concatenate([parent.rows for parent in parents]) if parents else np.zeros(0, int)
    free = np.isin(np.arange(len(positions)), held, invert=True)
    for rows, reason in ((np.flatnonzero(free & pseudo), PSEUDO), (np.flatnonzero(free & ~pseudo), OUTSIDE)):
        if len(rows):
            units.append(WorkUnit(len(units), NO_PARENT, rows, len(rows), exposure.box, skip=reason))
    return tuple(units)


def plan_digest(exposure: Exposure, positions: np.ndarray, errors: np.ndarray, plan: tuple[WorkUnit, ...]) -> str:
    """SHA-256 of what is fitted and how it is cut: equal for runs that may go on with each other's results.

    Parameters
    ----------
    exposure
        The exposure.
    positions, errors
        Positions of all rows, and their errors.
    plan
        The work units.

    Returns
    -------
    str
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    for array in (exposure.images, exposure.mask, positions, errors, *(unit.rows for unit in plan)):
        digest.update(np.ascontiguousarray(array).data)
    digest.update(repr([(unit.parent, unit.n_own, unit.box, unit.skip) for unit in plan]).encode())
    return digest.hexdigest()


def largest_memory(plan: Iterable[WorkUnit], n_bands: int) -> int:
    """Bytes that the largest fit of some units takes, about.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> unit = WorkUnit(0, 0, np.array([4]), 1, jd.Box((0, 0), (60, 50)))
    >>> largest_memory([unit], 5) / 1e6
    5.24288
    """
    return max((unit.memory(n_bands) for unit in plan), default=0)


def peak_significance(
    exposure: Exposure, positions: Float[np.ndarray, "source 2"], fwhm: float
) -> Float[np.ndarray, " source"]:
    """S/N of point sources as bright as the pixel at each position, from all bands, for a Gaussian PSF.

    Parameters
    ----------
    exposure
        The exposure.
    positions
        Positions (y, x) in pixels, on the image.
    fwhm
        FWHM of the PSF in pixels.

    Returns
    -------
    np.ndarray
        S/N of each, for `jaxdeblend.detection.light_extent`.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> exposure = jd.Exposure(np.full((2, 8, 8), 3.0), [1.0, 1.0], jd.GaussianPSF(1.5), bands="gr")
    >>> round(float(peak_significance(exposure, np.array([[4.0, 4.0]]), 3.5)[0]), 2)   # √(2π) · 3 · 3.5 / 2.355
    11.18
    """
    sigma = fwhm / (2 * math.sqrt(2 * math.log(2)))
    pixels = np.clip(np.floor(positions + 0.5).astype(int), 0, np.array(exposure.shape) - 1)
    place = (slice(None), *pixels.T)
    used = ~exposure.mask[place]
    ratio = np.where(used, exposure.images[place], 0.0) ** 2 / np.where(used, exposure.variance[place], 1.0)
    return sigma * math.sqrt(math.pi) * np.sqrt(ratio.sum(axis=0))


def _island(exposure: Exposure, detection: Detection, config: DeblendConfig) -> Int[np.ndarray, "y x"] | None:
    """Pixels of each sub-blend; None if parents are not divided into such."""
    if not config.split_valley:
        return None
    return islands(exposure.observation(), detection, valley=config.split_valley)


def _whole(number: int, parent: Parent) -> WorkUnit:
    n_own = len(parent.rows)
    return WorkUnit(0, number, parent.rows, n_own, parent.box, parent.exclude, footprint=parent.footprint)


@dataclasses.dataclass(frozen=True)
class _Budget:
    """What may be fitted at all, and what in one piece."""

    exposure: Exposure
    positions: Float[np.ndarray, "source 2"]
    config: DeblendConfig
    margin: int
    island: Int[np.ndarray, "y x"] | None

    def __post_init__(self):
        for plane in self.config.mask_limits:
            self.exposure.plane(plane)  # refused at once if there is none

    @functools.cached_property
    def max_sources(self) -> int:
        """Most sources of a piece: so many that the largest window holds no more than the memory."""
        config, n_bands = self.config, len(self.exposure.bands)
        if config.memory is None:
            return config.max_sources_per_piece
        edge = rung(config.max_window, IMAGE_EDGES)
        held = [count for count in SOURCE_COUNTS if fitting_memory(edge, n_bands, count) <= config.memory]
        return min(config.max_sources_per_piece, max(held, default=1))

    @functools.cached_property
    def fwhm(self) -> float:
        """FWHM of the broadest PSF."""
        return self.exposure.widest_fwhm()

    def units(self, number: int, parent: Parent) -> list[WorkUnit]:
        """Units of a parent, still without numbers."""
        return [
            dataclasses.replace(unit, exact_spectra=self.config.solves_spectra(len(unit.rows), unit.box.shape))
            for unit in self._divided(number, parent)
        ]

    def _divided(self, number: int, parent: Parent) -> list[WorkUnit]:
        whole, config = _whole(number, parent), self.config
        if reason := self._reason(parent):
            return [dataclasses.replace(whole, skip=reason)]
        places = self.positions[parent.rows]
        group = None if self.island is None else groups_on(self.island, places)
        fits = len(parent.rows) <= self.max_sources and max(parent.box.shape) <= config.max_window
        if fits and (group is None or not group.any()):
            return [whole]
        pieces = split_parent(
            places,
            self.exposure.shape,
            extent=light_extent(peak_significance(self.exposure, places, self.fwhm), self.fwhm),
            margin=min(self.margin, (config.max_window - 1) // 4),
            max_sources=self.max_sources,
            max_window=config.max_window,
            groups=group,
            reach=None if group is None else self._reach(parent, group),
        )
        return [self._cut(number, parent, piece) for piece in pieces]

    def _reach(self, parent: Parent, group: Int[np.ndarray, " source"]) -> Int[np.ndarray, "source 4"]:
        """First and last pixels on the island of a source that are nearest to it of all on that."""
        assert self.island is not None
        places = self.positions[parent.rows]
        own = np.floor(places + 0.5).astype(int)
        reach = np.concatenate([own, own], axis=1)
        pixels = np.argwhere(parent.footprint) + parent.box.start
        island = self.island[tuple(pixels.T)]
        for number in np.unique(group):
            mine = np.flatnonzero(group == number)
            home = self.island[tuple(own[mine[0]])]
            here = pixels[(island == home) & (home >= 0)]
            nearest = mine[np.asarray(KDTree(places[mine]).query(here)[1], int)]
            np.minimum.at(reach[:, :2], nearest, here)
            np.maximum.at(reach[:, 2:], nearest, here)
        return reach

    def _cut(self, number: int, parent: Parent, piece: Piece) -> WorkUnit:
        """A piece of a parent, on the pixels that it shares with the parent's window."""
        inner = piece.box.overlap(parent.box)
        box = grid_box(inner, self.exposure.shape)
        exclude, footprint = np.ones(box.shape, bool), np.zeros(box.shape, bool)
        of_piece, of_parent, own = (inner.within(outer) for outer in (piece.box, parent.box, box))
        exclude[own] = piece.exclude[of_piece] | parent.exclude[of_parent]
        footprint[own] = parent.footprint[of_parent] & ~exclude[own]
        return WorkUnit(0, number, parent.rows[piece.rows], len(piece.own), box, exclude, footprint=footprint)

    def _reason(self, parent: Parent) -> str:
        """Why a parent is not fitted; empty if it is."""
        config, n = self.config, len(parent.rows)
        height, width = Box.of_mask(parent.footprint).shape
        sizes = {
            "max_footprint_area": height * width,
            "max_area_times_peaks": height * width * n,
            "max_footprint_size": max(height, width),
            "max_number_of_peaks": n,
        }
        for name, size in sizes.items():
            if 0 < getattr(config, name) < size:
                return f"{name}: {size} > {getattr(config, name)}"
        if (ratio := _axis_ratio(parent.footprint)) < config.min_footprint_axis_ratio:
            return f"min_footprint_axis_ratio: {ratio:.3f} < {config.min_footprint_axis_ratio:g}"
        for plane, largest in config.mask_limits.items():
            bits = np.any(self.exposure.plane(plane)[(slice(None), *parent.box.slices)], axis=0)
            if (share := float(np.mean(bits[parent.footprint]))) > largest:
                return f"mask_limits: {share:.3f} > {largest:g} of {plane}"
        return ALONE if n == 1 and not config.process_singles else ""


def _axis_ratio(footprint: Bool[np.ndarray, "y x"]) -> float:
    """Ratio of the axes of the ellipse with a footprint's second moments; a pixel has those of a square."""
    pixels = np.stack(np.nonzero(footprint)).astype(float)
    moments = np.cov(pixels, bias=True) + np.eye(2) / 12
    smallest, largest = np.linalg.eigvalsh(moments)
    return float(np.sqrt(smallest / largest))
