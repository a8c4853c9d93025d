"""Peaks of a map: hills and their prominence, sub-pixel positions, separation."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree


def hills(
    image: Float[np.ndarray, "y x"], mask: Bool[np.ndarray, "y x"], *, prominence: float = 0.0
) -> Int[np.ndarray, "y x"]:
    """Divide a map into the hills of its prominent peaks.

    Each pixel belongs to the peak to which steepest ascent through its eight neighbours leads; equal values
    are ordered by index. The prominence of a peak is its height above the highest pass to a higher one.
    Hills whose prominence is not above the limit join the higher one across that pass, so that a plateau has
    one peak; the highest peak of a connected region always stays. (This is the 0-dimensional persistence of
    the map.)

    Parameters
    ----------
    image
        The map.
    mask
        True on the pixels that take part.
    prominence
        Hills of at most this prominence are joined, in units of the map; 0 joins plateaus only.

    Returns
    -------
    Int[np.ndarray, "y x"]
        For each pixel the flat index y · width + x of its peak, -1 outside the mask.

    Notes
    -----
    Source: H. Edelsbrunner, D. Letscher & A. Zomorodian (2002), Discrete Comput. Geom. 28, 511.

    Examples
    --------
    >>> import numpy as np
    >>> row = np.array([[1.0, 5.0, 2.0, 3.0, 0.0]])
    >>> hills(row, row > 0).tolist(), hills(row, row > 0, prominence=2.0).tolist()
    ([[1, 1, 1, 3, -1]], [[1, 1, 1, 1, -1]])
    """
    height, width = image.shape
    padded = np.pad(np.where(mask, image, -np.inf), 1, constant_values=-np.inf)
    values = padded.ravel()
    pixels = np.flatnonzero(np.pad(mask, 1))
    rank = np.full(values.size, -1, dtype=np.intp)
    rank[pixels] = np.arange(pixels.size)
    summit = _climb(values, pixels, rank, width + 2)
    summit = _join(values[pixels], summit, _passes(values, pixels, rank, summit, width + 2), prominence)
    label = np.full((height, width), -1, dtype=np.intp)
    peak = pixels[summit]
    label[mask] = (peak // (width + 2) - 1) * width + peak % (width + 2) - 1
    return label


def _climb(values: np.ndarray, pixels: np.ndarray, rank: np.ndarray, stride: int) -> np.ndarray:
    """Index (in `pixels`) of the summit that steepest ascent leads to from each pixel."""
    best, best_value = pixels.copy(), values[pixels]
    for offset in (-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1):
        other = pixels + offset
        value = values[other]
        higher = (value > best_value) | ((value == best_value) & (other > best))
        best, best_value = np.where(higher, other, best), np.where(higher, value, best_value)
    target = rank[best]
    while not np.array_equal(further := target[target], target):
        target = further
    return target


def _passes(
    values: np.ndarray, pixels: np.ndarray, rank: np.ndarray, summit: np.ndarray, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Highest pass between each two adjoining hills, as (hill, hill, height), highest first."""
    pairs, heights = [], []
    for offset in (1, stride - 1, stride, stride + 1):
        other = rank[pixels + offset]
        here = np.flatnonzero(other >= 0)
        here = here[summit[here] != summit[other[here]]]
        ends = np.stack([summit[here], summit[other[here]]])
        pairs.append(np.sort(ends, axis=0))
        heights.append(np.minimum(values[pixels[here]], values[pixels[other[here]]]))
    (first, second), height = np.concatenate(pairs, axis=1), np.concatenate(heights)
    order = np.lexsort((second, first, -height))
    first, second, height = first[order], second[order], height[order]
    _, highest = np.unique(np.stack([first, second]), axis=1, return_index=True)
    highest.sort()
    return first[highest], second[highest], height[highest]


def _join(
    values: np.ndarray,
    summit: np.ndarray,
    passes: tuple[np.ndarray, np.ndarray, np.ndarray],
    prominence: float,
) -> np.ndarray:
    """Sink the water: at each pass the lower of two islands ends, joining the higher unless prominent."""
    island: dict[int, int] = {}
    joined = np.arange(summit.size)

    def top(peak: int) -> int:
        while (higher := island.get(peak, peak)) != peak:
            island[peak] = island.get(higher, higher)
            peak = higher
        return peak

    for first, second, height in zip(*(column.tolist() for column in passes), strict=True):
        low, high = sorted((top(first), top(second)), key=lambda peak: (values[peak], peak))
        if low == high:
            continue
        island[low] = high
        if values[low] - height <= prominence:
            joined[low] = high
    while not np.array_equal(further := joined[joined], joined):
        joined = further
    return joined[summit]


def refine(
    image: Float[np.ndarray, "y x"], peaks: Int[np.ndarray, "peak 2"], *, noise_curvature: float
) -> tuple[Float[np.ndarray, "peak 2"], Float[np.ndarray, " peak"]]:
    r"""Sub-pixel positions of peaks and their errors.

    The quadratic through ln S in the 3 × 3 neighbourhood, S being the map in σ, has its maximum at

    .. math:: d = -H^{-1} g,

    with the central differences g and H. For a Gaussian profile this has no bias; the maximum of χ² is the
    maximum-likelihood position of a point source, whichever its spectrum. The error per axis propagates
    the noise of the slope, σ_g² = c_ρ / S² with c_ρ = -∂² ln ρ of the noise autocorrelation, through the
    curvature c = -∂² ln S of the peak,

    .. math:: σ = \sqrt{c_ρ} / (S c),

    which for a star (c = c_ρ) is the Cramér–Rao bound, √2 σ_PSF / S for a Gaussian PSF.

    Parameters
    ----------
    image
        Map in σ, with at least one pixel around each peak.
    peaks
        Pixels (y, x) of the peaks.
    noise_curvature
        c_ρ in pixels⁻².

    Returns
    -------
    position
        (y, x) in pixels of the map, within 0.75 px of the peaks' pixels.
    error
        1σ per axis in pixels.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:9, :9]
    >>> bump = 10 * np.exp(-((y - 4.2) ** 2 + (x - 3.9) ** 2) / 4)   # a star's match with σ = 1, 10σ
    >>> position, error = refine(bump, np.array([[4, 4]]), noise_curvature=0.5)
    >>> position.round(3).tolist(), error.round(3).tolist()
    ([[4.2, 3.9]], [0.143])
    """
    y, x = peaks.T
    summit = image[y, x]
    # Far below the peak only the sign of the slope matters, and a logarithm must exist.
    near = {
        (dy, dx): np.log(np.maximum(image[y + dy, x + dx], 0.01 * summit)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    }
    slope = np.stack([near[1, 0] - near[-1, 0], near[0, 1] - near[0, -1]], axis=-1) / 2
    bend_y = np.maximum(2 * near[0, 0] - near[1, 0] - near[-1, 0], 1e-3)
    bend_x = np.maximum(2 * near[0, 0] - near[0, 1] - near[0, -1], 1e-3)
    twist = (near[1, -1] + near[-1, 1] - near[1, 1] - near[-1, -1]) / 4
    limit = 0.9 * np.sqrt(bend_y * bend_x)
    # Where the profile has ended in a corner, that corner tells nothing of the peak's orientation.
    corners = np.stack([image[y + dy, x + dx] for dy in (-1, 1) for dx in (-1, 1)])
    twist = np.where((corners > 0.1 * summit).all(axis=0), np.clip(twist, -limit, limit), 0.0)
    determinant = bend_y * bend_x - twist**2
    step_y = (bend_x * slope[:, 0] - twist * slope[:, 1]) / determinant
    step_x = (bend_y * slope[:, 1] - twist * slope[:, 0]) / determinant
    position = peaks + np.clip(np.stack([step_y, step_x], axis=-1), -0.75, 0.75)
    # A peak cannot be narrower than the noise's own correlation but by chance.
    curvature = np.minimum((bend_y + bend_x) / 2, noise_curvature)
    return position, np.sqrt(noise_curvature) / (summit * curvature)


def separate(
    position: Float[np.ndarray, "peak 2"], height: Float[np.ndarray, " peak"], *, distance: float
) -> Bool[np.ndarray, " peak"]:
    """Choose peaks, highest first, that are no closer to each other than a distance.

    Parameters
    ----------
    position
        (y, x) in pixels.
    height
        What decides between two peaks; the first of equals stays.
    distance
        Least separation in pixels.

    Returns
    -------
    Bool[np.ndarray, " peak"]
        True for the peaks that stay.

    Examples
    --------
    >>> import numpy as np
    >>> row = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> separate(row, np.array([3.0, 2.0, 1.0]), distance=1.5).tolist()
    [True, False, True]
    """
    order = np.argsort(-height, kind="stable")
    keep = np.ones(len(height), dtype=bool)
    if len(height) < 2 or distance <= 0:
        return keep
    pairs = KDTree(position[order]).query_pairs(distance, output_type="ndarray")
    pairs = np.sort(pairs, axis=1)
    # Both ends sorted by rank: when a pair's turn comes, all that could remove its higher end are done.
    for high, low in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if keep[high]:
            keep[low] = False
    chosen = np.empty_like(keep)
    chosen[order] = keep
    return chosen
