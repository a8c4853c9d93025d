"""How much of each source of a store lies under the light of others."""

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from jaxtyping import Float

from ..measurement.table import describe_columns
from .columns import OVERLAP_COLUMNS
from .footprints import ROUNDING, THRESHOLD, noise_of
from .plan import NO_PARENT
from .store import ModelStore
from .stored_models import AnyExposure, StoredModels

COLUMNS = ("max_overlap", "flux_overlap", "flux_overlap_fraction")
"""Columns of each band."""


def overlap_metrics(
    store: ModelStore,
    exposure: AnyExposure,
    *,
    bands: Sequence[str] | None = None,
    threshold: float = THRESHOLD,
) -> Table:
    """Measure by how much the models of other sources of the same parent overlap with that of each.

    With the model m_k of a source as observed, and N_k = Σ_{j≠k} m_j that of all others of its parent on the footprint
    of the source in any band,

        max_overlap = max N_k,   flux_overlap = Σ N_k,   flux_overlap_fraction = Σ N_k / Σ m_k.

    These are ``deblend_maxOverlap``, ``deblend_fluxOverlap`` and ``deblend_fluxOverlapFraction`` of the LSST pipelines,
    which compute them before the convolution with the PSF; ``deblend_blendedness`` is in the catalog already, as
    ``blendedness_<band>``.

    Parameters
    ----------
    store
        The store that `deblend_catalog` made of the exposure.
    exposure
        The exposure.
    bands
        Names of the bands; None: all of the exposure.
    threshold
        Footprints end where models are below so many σ of the background.

    Returns
    -------
    Table
        One row for each of the catalog, in its order: ``id``, ``parent``, ``blend``, and the three columns for each
        band, ``max_overlap_<band>`` and so on, in image units. NaN where a source was not fitted, and the fraction of a
        dark one.

    Raises
    ------
    ValueError
        If the exposure is not that of the store, or has no such band.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> stars = [jd.PointSource((8.0, 8.0), [50.0]), jd.PointSource((8.0, 8.0), [100.0])]
    >>> fit = jd.FitResult(
    ...     jd.Blend.of(stars, frame=(16, 16)), loss=np.array([2.5]), n_steps=np.array(1), status=np.array(0)
    ... )
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> with jd.StoreWriter.create(path, jd.StoreHeader(bands=("r",))) as writer:
    ...     writer.append(jd.StoredBlend(7, 3, jd.Box((40, 52), (16, 16)), np.array([0, 1]), fit))
    >>> exposure = jd.Exposure(np.zeros((1, 64, 80)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> jd.overlap_metrics(jd.ModelStore(path), exposure)["flux_overlap_fraction_r"].round(1).tolist()
    [2.0, 0.5]
    """
    models = StoredModels(store, exposure, bands)
    found = [row for parent in models.blends_of for row in _rows(models, parent, threshold)]
    rows = np.concatenate([*models.rows.values(), np.zeros(0, int)])
    numbers = {name: np.array([row[name] for row in found], int) for name in ("id", "parent", "blend")}
    values = np.array([row["values"] for row in found], np.float32).reshape(len(rows), len(COLUMNS), len(models.bands))
    order = np.argsort(numbers["id"])
    table = Table({name: column[order] for name, column in numbers.items()})
    for b, band in enumerate(models.bands):
        for k, name in enumerate(COLUMNS):
            table[f"{name}_{band}"] = values[order, k, b]
    describe_columns(table, OVERLAP_COLUMNS, models.bands, unit=exposure.unit)
    return table


def _rows(models: StoredModels, parent: int, threshold: float) -> list[dict]:
    """What is known of each source of a parent."""
    box = models.window(parent)
    found = []
    for number in models.blends_of[parent]:
        values = np.full((len(models.rows[number]), len(COLUMNS), len(models.bands)), np.nan)
        if number not in models.reasons and parent != NO_PARENT:
            level = threshold * noise_of(models, box)
            total = models.model(parent)[(..., *models.boxes[number].within(box))]
            for places, images in models.separate(models.store.record(number)):
                for place, image in zip(places, images, strict=True):
                    values[place] = _overlap(image.astype(np.float64), total, level)
        rows = zip(models.rows[number].tolist(), values, strict=True)
        found += [{"id": row, "parent": parent, "blend": number, "values": one} for row, one in rows]
    return found


def _overlap(
    model: Float[np.ndarray, "band y x"], total: Float[np.ndarray, "band y x"], level: Float[np.ndarray, " band"]
) -> Float[np.ndarray, "metric band"]:
    """The three metrics of one source."""
    level = np.maximum(level, ROUNDING * model.max(axis=(1, 2)))
    spans = np.any(model > level[:, None, None], axis=0)
    others = np.where(spans, total - model, 0)
    largest, flux, own = others.max(axis=(1, 2)), others.sum(axis=(1, 2)), model.sum(axis=(1, 2))
    return np.stack([largest, flux, np.where(own > 0, flux / np.where(own > 0, own, 1), np.nan)])
