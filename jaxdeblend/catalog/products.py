"""Images that are made from a store of models: scenes, residuals, and one source without its neighbours."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from astropy.wcs import WCS
from jaxtyping import Bool, Float

from ..instrument.box import Box
from ..io.exposure import check_window, moved_wcs
from .footprints import THRESHOLD, Division, footprint_of, noise_of
from .store import ModelStore
from .stored_models import AnyExposure, StoredModels

MARGIN = 4
"""Pixels by which a cutout reaches beyond the footprint of its source."""


def render_image(
    store: ModelStore,
    exposure: AnyExposure,
    ids: Iterable[int | np.integer] | None = None,
    *,
    bands: Sequence[str] | None = None,
    box: Box | None = None,
) -> Float[np.ndarray, "band y x"]:
    """Image of the sources of a store as observed, with the PSF of the exposure at each blend.

    Blends are read and rendered one after the other: besides the image, one blend is in memory.

    Parameters
    ----------
    store
        The store that `deblend_catalog` made of the exposure.
    exposure
        The exposure; only its PSF is used.
    ids
        Rows of the catalog; None: all. Those that were not fitted are dark.
    bands
        Names of the bands; None: all of the exposure.
    box
        Window of the exposure; None: all of it.

    Returns
    -------
    Float[np.ndarray, "band y x"]
        Model in image units.

    Raises
    ------
    ValueError
        If the exposure is not that of the store, or there is no such row, band or window.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> star = jd.Blend.of([jd.PointSource((8.3, 7.6), [50.0])], frame=(16, 16))
    >>> fit = jd.FitResult(star, loss=np.array([2.5]), n_steps=np.array(1), status=np.array(0))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> with jd.StoreWriter.create(path, jd.StoreHeader(bands=("r",))) as writer:
    ...     writer.append(jd.StoredBlend(7, 3, jd.Box((40, 52), (16, 16)), np.array([12]), fit))
    >>> exposure = jd.Exposure(np.zeros((1, 64, 80)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> with jd.ModelStore(path) as store:
    ...     model = jd.render_image(store, exposure, [12])
    >>> model.shape, round(float(model.sum()))
    ((1, 64, 80), 50)
    """
    return _image(StoredModels(store, exposure, bands), ids, _window(exposure, box))


def residual_image(
    store: ModelStore, exposure: AnyExposure, *, bands: Sequence[str] | None = None, box: Box | None = None
) -> Float[np.ndarray, "band y x"]:
    """Images less the model of all sources; NaN where a pixel is unusable.

    Parameters
    ----------
    store, exposure, bands, box
        As for `render_image`.

    Returns
    -------
    Float[np.ndarray, "band y x"]
        Residual in image units.

    Raises
    ------
    ValueError
        As `render_image` does.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> star = jd.Blend.of([jd.PointSource((8.3, 7.6), [50.0])], frame=(16, 16))
    >>> fit = jd.FitResult(star, loss=np.array([2.5]), n_steps=np.array(1), status=np.array(0))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> with jd.StoreWriter.create(path, jd.StoreHeader(bands=("r",))) as writer:
    ...     writer.append(jd.StoredBlend(7, 3, jd.Box((40, 52), (16, 16)), np.array([12]), fit))
    >>> exposure = jd.Exposure(np.zeros((1, 64, 80)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> with jd.ModelStore(path) as store:
    ...     residual = jd.residual_image(store, exposure)
    >>> round(float(residual.sum()))
    -50
    """
    models, box = StoredModels(store, exposure, bands), _window(exposure, box)
    images, mask = _pixels(models, box)
    return np.where(mask, np.float32(np.nan), images - _image(models, None, box))


@dataclasses.dataclass(frozen=True, eq=False)
class Cutout:
    """One source, cut out of an exposure.

    Attributes
    ----------
    id
        Row of the catalog.
    box
        Window of the exposure.
    bands
        Names of the bands.
    image
        The images.
    mask
        True where a pixel is unusable.
    model
        Model of the source as observed.
    others
        Model of all other sources as observed.
    apportioned
        The source's part of the images, as `update_footprints` divides them.
    wcs
        Celestial coordinates of the window's pixels, None if unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> one = np.ones((1, 2, 2), np.float32)
    >>> cut = jd.Cutout(5, jd.Box((3, 4), (2, 2)), ("r",), 3 * one, one > 1, one, 0.5 * one, 2.5 * one, None)
    >>> cut.cleaned[0, 0].tolist(), cut.residual[0, 0].tolist()
    ([2.5, 2.5], [1.5, 1.5])
    """

    id: int
    box: Box
    bands: tuple[str, ...]
    image: Float[np.ndarray, "band y x"]
    mask: Bool[np.ndarray, "band y x"]
    model: Float[np.ndarray, "band y x"]
    others: Float[np.ndarray, "band y x"]
    apportioned: Float[np.ndarray, "band y x"]
    wcs: WCS | None

    @property
    def cleaned(self) -> Float[np.ndarray, "band y x"]:
        """The images less the model of all other sources: the neighbours are subtracted."""
        return self.image - self.others

    @property
    def residual(self) -> Float[np.ndarray, "band y x"]:
        """The images less the model of all sources; NaN where a pixel is unusable."""
        return np.where(self.mask, np.float32(np.nan), self.image - self.others - self.model)


def cutout(
    store: ModelStore,
    exposure: AnyExposure,
    id: int | np.integer,  # noqa: A002 (the name of the column)
    *,
    bands: Sequence[str] | None = None,
    box: Box | None = None,
    threshold: float = THRESHOLD,
) -> Cutout:
    """Cut out one source: image, model, its part of the image, and what remains without its neighbours.

    Parameters
    ----------
    store
        The store that `deblend_catalog` made of the exposure.
    exposure
        The exposure.
    id
        Row of the catalog.
    bands
        Names of the bands; None: all of the exposure.
    box
        Window of the exposure; None: that of the source's footprints in all bands, and four pixels more on each side.
    threshold
        Footprints end where models are below so many σ of the background.

    Returns
    -------
    Cutout
        Images of the window.

    Raises
    ------
    ValueError
        If the source was not fitted, or there is no such row, band or window.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> star = jd.Blend.of([jd.PointSource((8.3, 7.6), [50.0])], frame=(16, 16))
    >>> fit = jd.FitResult(star, loss=np.array([2.5]), n_steps=np.array(1), status=np.array(0))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> with jd.StoreWriter.create(path, jd.StoreHeader(bands=("r",))) as writer:
    ...     writer.append(jd.StoredBlend(7, 3, jd.Box((40, 52), (16, 16)), np.array([12]), fit))
    >>> exposure = jd.Exposure(np.zeros((1, 64, 80)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> with jd.ModelStore(path) as store:
    ...     star = jd.cutout(store, exposure, 12, box=jd.Box((38, 50), (20, 20)))
    >>> round(float(star.model.sum())), float(star.others.sum())
    (50, 0.0)
    """
    models = StoredModels(store, exposure, bands)
    row = int(id)
    blend, place = models.find(row)
    if blend in models.reasons:
        raise ValueError(f"id: source {row} has no model, for it was not fitted ({models.reasons[blend]}).")
    box = _footprint_window(models, blend, place, threshold) if box is None else _window(exposure, box)
    model = _image(models, [row], box)
    divided = [_part_of_image(models.of_band(band), blend, row, box, threshold) for band in models.bands]
    images, mask = _pixels(models, box)
    return Cutout(
        id=row,
        box=box,
        bands=models.bands,
        image=images,
        mask=mask,
        model=model,
        others=_image(models, None, box) - model,
        apportioned=np.stack(divided),
        wcs=moved_wcs(exposure.wcs, box),
    )


def _window(exposure: AnyExposure, box: Box | None) -> Box:
    if box is None:
        return exposure.box
    check_window(box, exposure.shape)
    return box


def _pixels(models: StoredModels, box: Box) -> tuple[Float[np.ndarray, "band y x"], Bool[np.ndarray, "band y x"]]:
    """Images of a window and its unusable pixels."""
    window = models.exposure.window(box)
    return window.images[models.in_exposure], window.mask[models.in_exposure]


def _image(models: StoredModels, ids: Iterable[int | np.integer] | None, box: Box) -> Float[np.ndarray, "band y x"]:
    """Model of rows of the catalog, or of all, on a window."""
    wanted = None if ids is None else np.unique(np.fromiter(ids, int))
    if wanted is not None:
        known = np.concatenate([*models.rows.values(), np.zeros(0, int)])
        if len(lost := np.setdiff1d(wanted, known)):
            raise ValueError(f"ids: got {lost[0]}, but {models.store.path} has no such row of the catalog.")
    image = np.zeros((len(models.bands), *box.shape), np.float32)
    for number in models.fitted(box):
        sources = None if wanted is None else np.flatnonzero(np.isin(models.rows[number], wanted))
        if sources is None or len(sources):
            _add(image, box, models.summed(models.store.record(number), sources), models.boxes[number])
    return image


def _add(image: np.ndarray, box: Box, part: np.ndarray, of: Box) -> None:
    """Add what another window shows to the image of one."""
    both = box.overlap(of)
    image[(..., *both.within(box))] += part[(..., *both.within(of))]


def _footprint_window(models: StoredModels, blend: int, place: int, threshold: float) -> Box:
    """Window around the footprints of a source in all bands."""
    record = models.store.record(blend)
    model = models.summed(record, np.array([place]))
    noise = noise_of(models, models.window(models.parent_of(blend)))
    found = [footprint_of(one, record.box, threshold * float(s)).box for one, s in zip(model, noise, strict=True)]
    window = Box.union(found)
    if not min(window.shape):
        y, x = np.clip(np.asarray(record.blend.centers[place]), 0, np.array(record.box.shape) - 1).astype(int).tolist()
        window = Box((y, x), (1, 1)).shifted_by(*record.box.start)
    return window.grow(MARGIN).overlap(models.exposure.box)


def _part_of_image(models: StoredModels, blend: int, row: int, box: Box, threshold: float) -> Float[np.ndarray, "y x"]:
    """A source's part of the image of one band, on a window."""
    parent = Division(models, threshold, redistribute=True).of(models.parent_of(blend))
    source = next(source for source in parent.sources if source.id == row)
    image = np.zeros(box.shape, np.float32)
    _add(image, box, source.image, source.box)
    return image
