"""The mask plane of what was not deblended."""

import numpy as np
from jaxtyping import Int

from ..detection import Detection
from ..io import Exposure
from .plan import NO_PARENT
from .records import stored_outcomes
from .store import ModelStore
from .stored_models import check_windows

PLANE = "NOT_DEBLENDED"
"""Name of the mask plane, that of the LSST pipelines."""


def mask_not_deblended(store: ModelStore, exposure: Exposure, *, detection: Detection | None = None) -> Exposure:
    """Mark where blends were skipped, or failed: the exposure with the mask plane NOT_DEBLENDED.

    Marked is the window of such a blend. With the footprints, what belongs to those of parents that were deblended is
    left out. Rows that have no parent, off the image for instance, mark nothing. The pixels stay usable.

    Parameters
    ----------
    store
        The store that `deblend_catalog` made of the exposure.
    exposure
        The exposure.
    detection
        Its footprints, ``result.detection``.

    Returns
    -------
    Exposure
        The same exposure with one plane more.

    Raises
    ------
    ValueError
        If the exposure is not that of the store.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> with jd.StoreWriter.create(path, jd.StoreHeader(bands=("r",))) as writer:
    ...     writer.append(jd.StoredBlend(7, 3, jd.Box((40, 52), (10, 20)), np.array([12]), reason="skipped: too large"))
    >>> exposure = jd.Exposure(np.zeros((1, 64, 80)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> marked = jd.mask_not_deblended(jd.ModelStore(path), exposure)
    >>> int(marked.plane("NOT_DEBLENDED").sum()), int(marked.mask.sum())
    (200, 0)
    """
    if detection is not None and detection.labels.shape != exposure.shape:
        raise ValueError(
            f"detection: got labels of shape {detection.labels.shape} for the exposure of shape {exposure.shape}; give "
            "the footprints of the same exposure."
        )
    outcomes = list(stored_outcomes(store))
    check_windows(outcomes, exposure.box)
    labels = np.zeros(exposure.shape, np.int32) if detection is None else np.asarray(detection.labels)
    owner = _owners(store, labels)
    marked = np.zeros(exposure.shape, bool)
    for one in outcomes:
        if one.reason and one.parent != NO_PARENT:
            of = owner[labels[one.box.slices]]
            marked[one.box.slices] |= (of == NO_PARENT) | (of == one.parent)
    return exposure.with_plane(PLANE, marked)


def _owners(store: ModelStore, labels: Int[np.ndarray, "y x"]) -> Int[np.ndarray, " label"]:
    """Number of the deblended parent that each footprint belongs to; -1: none."""
    blends, sources = store.table("blends"), store.table("sources")
    place = np.searchsorted(store.ids, np.asarray(sources["blend"]))
    fitted = np.isin(store.ids, list(store.reasons()), invert=True)[place]
    start = np.stack([np.asarray(blends[name]) for name in ("y0", "x0")], axis=1)[place]
    pixels = np.floor(np.asarray(sources["detected"])[fitted] + start[fitted] + 0.5).astype(int)
    pixels = np.clip(pixels, 0, np.array(labels.shape) - 1)
    owner = np.full(labels.max(initial=0) + 1, NO_PARENT)
    owner[labels[tuple(pixels.T)]] = np.asarray(blends["parent"])[place][fitted]
    owner[0] = NO_PARENT
    return owner
