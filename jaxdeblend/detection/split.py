"""Large parents cut into pieces that fit a budget, each with the neighbours whose light reaches into it."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from ..instrument.box import Box

SLACK = 1.25
"""Where a peak has more neighbours than the budget allows, pieces may be this much larger than it needs."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """Peaks of a parent that are fitted together.

    Attributes
    ----------
    own
        Rows of the peaks whose fit is kept, ascending.
    neighbours
        Rows of the peaks that are fitted along because their light overlaps with that of these, ascending; their fit is
        kept in the pieces that own them.
    box
        Window of the image on which they are fitted.
    exclude
        True on the pixels of the window that are nearest to a peak of the parent that is neither: not to be used.

    Examples
    --------
    >>> import numpy as np
    >>> row = np.array([[20.0, 20.0], [20.0, 26.0], [20.0, 60.0]])
    >>> first, second = split_parent(row, (40, 80), extent=5.0, margin=4, max_sources=10, max_window=80)
    >>> first.own.tolist(), first.neighbours.tolist(), first.box
    ([0, 1], [], Box(start=(11, 11), shape=(19, 25)))
    """

    own: Int[np.ndarray, " own"]
    neighbours: Int[np.ndarray, " neighbour"]
    box: Box
    exclude: Bool[np.ndarray, "y x"]

    @property
    def rows(self) -> Int[np.ndarray, " source"]:
        """Rows of all its peaks, its own first."""
        return np.concatenate([self.own, self.neighbours])


def split_parent(
    centers: Float[np.ndarray, "peak 2"],
    shape: tuple[int, int],
    *,
    extent: object,
    margin: int,
    max_sources: int,
    max_window: int,
    groups: object | None = None,
    reach: object | None = None,
) -> tuple[Piece, ...]:
    """Cut a parent into pieces that can be fitted one by one within a budget.

    The *extent* of a peak is the radius to which its light matters; peaks overlap if they are no further apart than the
    sum of their extents. Peaks that do not overlap, directly or through others, make independent pieces; so do given
    groups. Of these, one that exceeds the budget is cut in two across its longer side, at the widest gap of the middle
    half, and so on.

    Each peak is owned by one piece. A piece is fitted with all peaks that overlap with one of its own; those that other
    pieces own are its neighbours.

    Parameters
    ----------
    centers
        Positions (y, x) in pixels of the image.
    shape
        Shape (y, x) of the image.
    extent
        Radius in pixels to which the light of a peak matters, one number or one per peak (`light_extent`). What does
        not fit the largest window is cut to a quarter of its edge.
    margin
        Pixels by which a window reaches beyond the extents of its own peaks.
    max_sources
        Number of peaks, neighbours included, that a piece may have. More are accepted only where a peak by itself
        overlaps with more.
    max_window
        Longest edge in pixels that a window may have.
    groups
        Number of the group of each peak that a piece is made of, as from `sub_blends`; by default those that overlap.
    reach
        First row, first column, last row and last column (peak, 4) of what the window of each peak holds at least: for
        galaxies, whose light is seen further out than it matters to others. It is cut as extents are.

    Returns
    -------
    tuple[Piece, ...]
        Pieces in the order of their first peaks.

    Raises
    ------
    ValueError
        If a position is not on the image, or an option is out of its range.

    Notes
    -----
    Cut out with `exclude`, a piece without neighbours keeps the light that reaches it from beyond; with too small an
    extent, fluxes come out too high.

    Examples
    --------
    >>> import numpy as np
    >>> grid = np.stack(np.mgrid[5:100:5, 5:100:5], axis=-1).reshape(-1, 2).astype(float)   # 361 peaks
    >>> pieces = split_parent(grid, (105, 105), extent=4.0, margin=4, max_sources=80, max_window=64)
    >>> len(pieces), max(len(piece.rows) for piece in pieces), sum(len(piece.own) for piece in pieces)
    (8, 77, 361)
    """
    _check(centers, shape, margin, max_sources, max_window)
    half = (max_window - 1) // 2
    largest = float(min(half - margin, half / 2))
    extents = _extents(extent, len(centers), largest)
    if len(centers) == 0:
        return ()
    tree = KDTree(centers)
    links = _links(tree, extents)
    frame = _Frame(centers, _reach(centers, extents, reach, largest), links, shape, margin)
    group = connected_components(links, directed=False)[1] if groups is None else np.asarray(groups)
    if group.shape != (len(centers),):
        raise ValueError(f"groups: got shape {group.shape} for {len(centers)} peaks; give one number per peak.")
    owned = [rows for start in _parts(group) for rows in _cut(frame, start, max_sources, max_window)]
    return tuple(_piece(frame, tree, own) for own in sorted(owned, key=lambda rows: rows[0]))


def light_extent(
    significance: Float[np.ndarray, " peak"], fwhm: float, *, level: float = 1.0, beta: float = 2.5
) -> Float[np.ndarray, " peak"]:
    r"""Distance at which a peak's significance has fallen to a level, for wings like those of a Moffat profile.

    .. math:: r = α \sqrt{(S / l)^{1/β} - 1}, \qquad α = \mathrm{FWHM} / (2 \sqrt{2^{1/β} - 1}).

    Parameters
    ----------
    significance
        Significance S of the peaks in σ.
    fwhm
        FWHM of the broadest PSF in pixels.
    level
        Level l in σ. At 1, the light of a source that is left out biases the flux of a star at that distance by
        1 σ.
    beta
        Steepness β of the wings. Galaxies have more extended wings than stars; 2.5 is between those of stars and those
        of typical faint galaxies.

    Returns
    -------
    Float[np.ndarray, " peak"]
        Distances in pixels, at least the FWHM.

    Raises
    ------
    ValueError
        If level or β are not positive.

    Examples
    --------
    >>> import numpy as np
    >>> light_extent(np.array([5.0, 100.0, 1e4]), 3.5).round(1).tolist()
    [3.5, 7.1, 19.3]
    """
    if not (0 < level < math.inf and 0 < beta < math.inf):
        raise ValueError(f"level, beta: got {level} and {beta}; give positive numbers.")
    scale = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    ratio = np.maximum(np.asarray(significance, float) / level, 1.0)
    return np.maximum(scale * np.sqrt(ratio ** (1 / beta) - 1), fwhm)


@dataclasses.dataclass(frozen=True)
class _Frame:
    """What all pieces of a parent share; row i of the links holds the peaks that overlap with peak i, itself too."""

    centers: Float[np.ndarray, "peak 2"]
    reach: Int[np.ndarray, "peak 4"]
    links: csr_array
    shape: tuple[int, int]
    margin: int

    def members(self, own: Int[np.ndarray, " own"]) -> Int[np.ndarray, " source"]:
        """All peaks with which these are fitted, ascending."""
        return np.unique(self.links[own].indices)

    def box(self, own: Int[np.ndarray, " own"], members: Int[np.ndarray, " source"]) -> Box:
        """Window with all that is within reach of the own peaks, a margin, and all members."""
        pixel = np.floor(self.centers[members] + 0.5).astype(int)
        first = np.minimum(self.reach[own, :2].min(axis=0) - self.margin, pixel.min(axis=0))
        last = np.maximum(self.reach[own, 2:].max(axis=0) + self.margin, pixel.max(axis=0))
        y, x = first.tolist()
        height, width = (last - first + 1).tolist()
        return Box((y, x), (height, width)).overlap(Box((0, 0), self.shape))


def _extents(extent: object, count: int, largest: float) -> Float[np.ndarray, " peak"]:
    given = np.asarray(extent, float)
    if given.shape not in ((), (count,)) or not (given >= 0).all():
        raise ValueError(
            f"extent: got {extent} for {count} peaks; give a number of pixels that is not negative, or one per peak."
        )
    return np.minimum(np.broadcast_to(given, count), largest)


def _reach(
    centers: Float[np.ndarray, "peak 2"], extents: Float[np.ndarray, " peak"], reach: object | None, largest: float
) -> Int[np.ndarray, "peak 4"]:
    """First and last pixels within the extents, or within reach but no further than the largest extent."""
    pixel, wide = np.floor(centers + 0.5).astype(int), np.ceil(extents).astype(int)[:, None]
    first, last = pixel - wide, pixel + wide
    if reach is not None:
        given, most = np.asarray(reach), math.floor(largest)
        if given.shape != (len(centers), 4):
            raise ValueError(f"reach: got shape {given.shape} for {len(centers)} peaks; give (peak, 4).")
        first = np.minimum(first, np.maximum(given[:, :2], pixel - most))
        last = np.maximum(last, np.minimum(given[:, 2:], pixel + most))
    return np.concatenate([first, last], axis=1)


def _check(
    centers: Float[np.ndarray, "peak 2"], shape: tuple[int, int], margin: int, max_sources: int, max_window: int
) -> None:
    if not Box((0, 0), shape).contains(centers).all():
        raise ValueError(f"centers: got positions that are not on the image of shape {shape}; leave these out.")
    if not max_sources >= 1:
        raise ValueError(f"max_sources: got {max_sources}; give at least 1.")
    if not 0 <= margin <= (max_window - 1) // 2:
        raise ValueError(
            f"margin: got {margin} for windows of up to {max_window} pixels; give a margin that fits on both sides."
        )


def _links(tree: KDTree, extent: Float[np.ndarray, " peak"]) -> csr_array:
    """Which peaks overlap, each with itself, too."""
    # Of two that overlap, the larger one finds the other within twice its extent.
    near = [np.asarray(others, int) for others in tree.query_ball_point(tree.data, 2 * extent)]
    rows, columns = np.repeat(np.arange(len(near)), [len(others) for others in near]), np.concatenate(near)
    distance = np.hypot(*(tree.data[rows] - tree.data[columns]).T)
    linked = distance <= extent[rows] + extent[columns]
    rows, columns = rows[linked], columns[linked]
    pairs = (np.concatenate([rows, columns]), np.concatenate([columns, rows]))
    return coo_array((np.ones(len(pairs[0]), bool), pairs), shape=(len(extent),) * 2).tocsr()


def _parts(group: Int[np.ndarray, " peak"]) -> list[Int[np.ndarray, " _"]]:
    """Rows of each group, ascending."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _cut(frame: _Frame, own: Int[np.ndarray, " own"], max_sources: int, max_window: int) -> list[Int[np.ndarray, " _"]]:
    """Cut peaks in two until each part fits the budget."""
    done, todo = [], [own]
    while todo:
        rows = todo.pop()
        members = frame.members(rows)
        fewest = int(np.diff(frame.links.indptr)[rows].min())
        allowed = max_sources if fewest <= max_sources else math.floor(SLACK * fewest)
        if len(rows) == 1 or (len(members) <= allowed and max(frame.box(rows, members).shape) <= max_window):
            done.append(rows)
        else:
            todo.extend(_halves(frame.centers, rows))
    return done


def _halves(
    centers: Float[np.ndarray, "peak 2"], rows: Int[np.ndarray, " own"]
) -> tuple[Int[np.ndarray, " first"], Int[np.ndarray, " second"]]:
    """Two parts of some peaks, parted across the longer side at the widest gap of the middle half."""
    place = centers[rows]
    along = place[:, np.argmax(np.ptp(place, axis=0))]
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    middle = (len(rows) - 1) / 2
    allowed = np.flatnonzero(np.abs(np.arange(len(gaps)) + 0.5 - middle) <= max(0.5, len(rows) / 4))
    best = allowed[np.lexsort((np.abs(allowed + 0.5 - middle), -gaps[allowed]))[0]]
    return np.sort(rows[order[: best + 1]]), np.sort(rows[order[best + 1 :]])


def _piece(frame: _Frame, tree: KDTree, own: Int[np.ndarray, " own"]) -> Piece:
    members = frame.members(own)
    box = frame.box(own, members)
    exclude = np.zeros(box.shape, bool)
    if len(members) < len(frame.centers):
        pixels = np.moveaxis(np.mgrid[box.slices], 0, -1).reshape(-1, 2)
        exclude = ~np.isin(np.asarray(tree.query(pixels)[1]), members).reshape(box.shape)
    return Piece(own, np.setdiff1d(members, own), box, exclude)
