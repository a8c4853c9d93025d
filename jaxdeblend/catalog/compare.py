"""How well a catalog agrees with the truth of a simulation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from jaxtyping import Float, Int
from scipy.spatial import KDTree


def match_positions(
    found: Float[np.ndarray, "found 2"], truth: Float[np.ndarray, "true 2"], *, radius: float = 2.0
) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    """Match positions one to one, the closest pairs first.

    Parameters
    ----------
    found, truth
        Positions (y, x) in pixels; NaN matches nothing.
    radius
        Largest distance of a pair.

    Returns
    -------
    found : np.ndarray
        Rows of `found` that have a partner, ascending.
    truth : np.ndarray
        Row of the partner of each.

    Examples
    --------
    >>> import numpy as np
    >>> from jaxdeblend.catalog import match_positions
    >>> a, b = match_positions(np.array([[0.0, 0.0], [5.0, 5.0]]), np.array([[5.0, 4.0], [0.0, 9.0]]))
    >>> a.tolist(), b.tolist()
    ([1], [0])
    """
    known = [np.flatnonzero(np.isfinite(points).all(axis=1)) for points in (found, truth)]
    if min(len(rows) for rows in known) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    trees = [KDTree(points[rows]) for points, rows in zip((found, truth), known, strict=True)]
    near = trees[0].sparse_distance_matrix(trees[1], radius, output_type="ndarray")
    taken = np.zeros(len(found), bool), np.zeros(len(truth), bool)
    pairs = []
    for i, j in near[np.argsort(near["v"], kind="stable")][["i", "j"]]:
        a, b = int(known[0][i]), int(known[1][j])
        if not taken[0][a] and not taken[1][b]:
            taken[0][a] = taken[1][b] = True
            pairs.append((a, b))
    matched = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return matched[:, 0], matched[:, 1]


def compare_with_truth(
    table: Table, truth: Table, bands: Sequence[str], *, min_snr: float = 10.0, radius: float = 2.0
) -> dict[str, Any]:
    """Count what was found, and measure the errors of its fluxes.

    Parameters
    ----------
    table
        Catalog with ``x``, ``y`` and ``flux_<b>`` of each band.
    truth
        The same for all sources there are, with ``snr_<b>``.
    bands
        Names of the bands.
    min_snr
        Completeness and flux errors are of true sources above this S/N: in all bands together, and in the
        band.
    radius
        Largest distance in pixels between a source and its true one.

    Returns
    -------
    dict[str, Any]
        ``found``, ``true``, ``matched``: numbers. ``bright``: number of true sources above `min_snr`;
        ``completeness``: share of these that is matched. ``spurious``: number of found sources without a
        true one. ``flux_error``: by band the median |flux / true flux - 1|, NaN without any.

    Examples
    --------
    >>> from astropy.table import Table
    >>> from jaxdeblend.catalog import compare_with_truth
    >>> truth = Table({"x": [5.0, 20.0], "y": [5.0, 9.0], "flux_g": [100.0, 10.0], "snr_g": [50.0, 20.0]})
    >>> found = Table({"x": [5.2], "y": [5.0], "flux_g": [110.0]})
    >>> summary = compare_with_truth(found, truth, ["g"])
    >>> summary["completeness"], round(summary["flux_error"]["g"], 2)
    (0.5, 0.1)
    """
    places = [np.stack([np.asarray(t["y"], float), np.asarray(t["x"], float)], axis=1) for t in (table, truth)]
    rows, partners = match_positions(*places, radius=radius)
    snr = np.stack([np.asarray(truth[f"snr_{band}"], float) for band in bands])
    bright = np.sqrt(np.sum(snr**2, axis=0)) >= min_snr
    errors = {}
    for band, band_snr in zip(bands, snr, strict=True):
        flux, true = np.asarray(table[f"flux_{band}"])[rows], np.asarray(truth[f"flux_{band}"])[partners]
        used = (band_snr[partners] >= min_snr) & np.isfinite(flux)
        errors[band] = float(np.median(np.abs(flux[used] / true[used] - 1))) if used.any() else float("nan")
    return {
        "found": len(table),
        "true": len(truth),
        "matched": len(rows),
        "bright": int(bright.sum()),
        "completeness": float(np.mean(np.isin(np.flatnonzero(bright), partners))) if bright.any() else float("nan"),
        "spurious": len(table) - len(rows),
        "flux_error": errors,
    }
