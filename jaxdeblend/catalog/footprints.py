"""Footprints of the sources of a store in one band, with their pixels: models, or parts of the image."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Float

from ..instrument.box import Box
from ..instrument.observation import background_rms
from .plan import NO_PARENT
from .store import ModelStore
from .stored_models import AnyExposure, StoredModels

THRESHOLD = 0.01
"""Footprints end where models are below so many σ of the background."""

ROUNDING = 1e-6
"""What is below this fraction of a model's maximum is rounding of its convolution."""

DARK, OUTSHONE = "no pixel of its model is above the threshold", "all of its pixels belong to brighter parents"
"""Why the footprint of a source that was fitted is empty."""


@dataclasses.dataclass(frozen=True, eq=False)
class SourceFootprint:
    """Where one source is in one band, and its pixels there.

    Attributes
    ----------
    id
        Row of the catalog.
    blend
        Number of its blend.
    box
        Smallest window of the exposure that holds the footprint; of the shape (0, 0) if that is empty.
    spans
        True on the pixels of the window that belong to it.
    image
        Their values in image units, 0 on the others.
    reason
        Why it is empty; empty if it is not.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> spans = np.array([[True, False], [True, True]])
    >>> source = jd.SourceFootprint(5, 2, jd.Box((3, 4), (2, 2)), spans, np.where(spans, np.float32(1.5), 0))
    >>> source.area, source.flux
    (3, 4.5)
    """

    id: int
    blend: int
    box: Box
    spans: Bool[np.ndarray, "y x"]
    image: Float[np.ndarray, "y x"]
    reason: str = ""

    @classmethod
    def empty(cls, row: int, blend: int, reason: str, start: tuple[int, int] = (0, 0)) -> "SourceFootprint":
        """The footprint of a source that has none."""
        nothing = np.zeros((0, 0), np.float32)
        return cls(row, blend, Box(start, (0, 0)), nothing > 0, nothing, reason)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.spans.sum())

    @property
    def flux(self) -> float:
        """Sum of the pixels."""
        return float(self.image.sum(dtype=np.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class ParentFootprints:
    """Footprints of all sources of a parent in one band.

    Attributes
    ----------
    parent
        Number of the parent; -1 for rows that have none.
    box
        Window of the exposure that holds the windows of all of its blends.
    sources
        One for each of its rows of the catalog, in their order.
    unassigned
        Where the image was divided: the image of the window less what the sources got. None otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> lost = jd.SourceFootprint.empty(5, 2, "skipped: too large")
    >>> parent = jd.ParentFootprints(0, jd.Box((3, 4), (2, 2)), (lost,), np.ones((2, 2), np.float32))
    >>> parent.summed().tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """

    parent: int
    box: Box
    sources: tuple[SourceFootprint, ...]
    unassigned: Float[np.ndarray, "y x"] | None = None

    def summed(self) -> Float[np.ndarray, "y x"]:
        """Sum of all sources on the window of the parent; with `unassigned`, it is the image."""
        total = np.zeros(self.box.shape)
        for source in self.sources:
            if source.area:
                total[(..., *source.box.within(self.box))] += source.image
        return total


def update_footprints(
    store: ModelStore,
    exposure: AnyExposure,
    *,
    band: str,
    redistribute_image: bool | Float[np.ndarray, "y x"] = False,
    threshold: float = THRESHOLD,
    parents: Iterable[int | np.integer] | None = None,
) -> Iterator[ParentFootprints]:
    """Make the footprints of all sources of a store in one band, parent by parent.

    The pixels of a source are its model, convolved with the difference kernel of the band, M_k. Or the image is divided
    in proportion to the models of all sources of a parent, child_k = I · M_k / Σ_j M_j, whatever blends the parent was
    cut into; then for each parent Σ_k child_k + unassigned = I. A pixel that the windows of several parents share is
    divided by the one whose model is brightest there, so that no light is counted twice.

    This is what ``ScarletModelData.updateCatalogFootprints(catalog, band, psfModel, redistributeImage,
    removeScarletData)`` does in the LSST pipelines. The PSF at each blend is taken from the exposure. There is no
    ``removeScarletData``: parents are read as they are asked for, and only the summed models of the last few are kept
    for their neighbours, so that memory does not grow with the store.

    Parameters
    ----------
    store
        The store that `deblend_catalog` made of the exposure.
    exposure
        The exposure.
    band
        Name of the band.
    redistribute_image
        Whether the image is divided; or another image on the same pixels that is. Nothing is assigned where the
        exposure is unusable or the image is not finite.
    threshold
        Footprints end where models are below so many σ of the background.
    parents
        Numbers of parents; None: all, and in the end the rows that have none.

    Returns
    -------
    Iterator[ParentFootprints]
        Every row of the catalog once. Footprints of rows that were not fitted are empty, and say why.

    Raises
    ------
    ValueError
        If the exposure is not that of the store, there is no such band or parent, or the image has another shape.

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
    >>> exposure = jd.Exposure(np.ones((1, 64, 80)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> store = jd.ModelStore(path)
    >>> [round(s.flux) for parent in jd.update_footprints(store, exposure, band="r") for s in parent.sources]
    [50]
    >>> (parent,) = jd.update_footprints(store, exposure, band="r", redistribute_image=True)
    >>> bool((parent.summed() + parent.unassigned == 1).all())
    True
    """
    models = StoredModels(store, exposure, (band,))
    image = None
    if not isinstance(redistribute_image, bool):
        image = np.asarray(redistribute_image)
        if image.shape != exposure.shape:
            raise ValueError(
                f"redistribute_image: got shape {image.shape} for the exposure of shape {exposure.shape}; give an "
                "image (y, x) on its pixels."
            )
    wanted = list(models.blends_of) if parents is None else [int(parent) for parent in parents]
    if unknown := [parent for parent in wanted if parent not in models.blends_of]:
        raise ValueError(f"parents: got {unknown[0]}, but {store.path} has no such parent.")
    division = Division(models, threshold, redistribute=redistribute_image is not False, image=image)
    return map(division.of, wanted)


@dataclasses.dataclass(frozen=True, eq=False)
class Division:
    """How parents are divided.

    Attributes
    ----------
    models
        The models in one band.
    threshold
        Footprints end where models are below so many σ.
    redistribute
        Whether the image is divided.
    image
        Image of the whole exposure; None: its own.
    """

    models: StoredModels
    threshold: float
    redistribute: bool
    image: Float[np.ndarray, "y x"] | None = None

    def of(self, parent: int) -> ParentFootprints:
        """Footprints of a parent."""
        box = self.models.window(parent)
        sources = sorted(self._sources(parent, box), key=lambda source: source.id)
        if not self.redistribute or parent == NO_PARENT:
            return ParentFootprints(parent, box, tuple(sources))
        return self._divided(ParentFootprints(parent, box, tuple(sources)))

    def _sources(self, parent: int, box: Box) -> Iterator[SourceFootprint]:
        """Footprints with the models."""
        level = 0.0
        territory = None
        for number in self.models.blends_of[parent]:
            rows, own = self.models.rows[number].tolist(), self.models.boxes[number]
            if number in self.models.reasons:
                yield from (SourceFootprint.empty(row, number, self.models.reasons[number]) for row in rows)
                continue
            if territory is None:
                level = self.threshold * float(noise_of(self.models, box)[0])
                territory = self.models.territory(parent)[0] if self.redistribute else np.ones(box.shape, bool)
            for places, images in self.models.separate(self.models.store.record(number)):
                for place, image in zip(places.tolist(), images[:, 0], strict=True):
                    found = footprint_of(image, own, level, territory[(..., *own.within(box))])
                    yield dataclasses.replace(found, id=rows[place], blend=number)

    def _divided(self, parent: ParentFootprints) -> ParentFootprints:
        """The image in place of the models, in their proportion."""
        image, good = self._image(parent.box)
        total = parent.summed()
        divided = [self._share(source, parent.box, np.where(good, image, 0), total) for source in parent.sources]
        parent = dataclasses.replace(parent, sources=tuple(divided))
        return dataclasses.replace(parent, unassigned=(image - parent.summed()).astype(np.float32))

    def _image(self, box: Box) -> tuple[Float[np.ndarray, "y x"], Bool[np.ndarray, "y x"]]:
        """Image of a window and its usable pixels."""
        window, number = self.models.exposure.window(box), self.models.in_exposure[0]
        image = window.images[number] if self.image is None else self.image[box.slices]
        return image, ~window.mask[number] & np.isfinite(image)

    def _share(
        self, source: SourceFootprint, box: Box, image: Float[np.ndarray, "y x"], total: Float[np.ndarray, "y x"]
    ) -> SourceFootprint:
        """A source's share of the image."""
        if not source.area:
            return source
        here = (..., *source.box.within(box))
        share = source.image / np.where(source.spans, total[here], 1.0)
        return dataclasses.replace(source, image=(share * image[here]).astype(np.float32))


def footprint_of(
    model: Float[np.ndarray, "y x"], box: Box, level: float, where: Bool[np.ndarray, "y x"] | None = None
) -> SourceFootprint:
    """Footprint of a model, on the window that it fills.

    Parameters
    ----------
    model
        The model as observed.
    box
        Window of the exposure that it is on.
    level
        What the model exceeds on the footprint; or a millionth of its maximum, if that is more.
    where
        Pixels that it may have.

    Returns
    -------
    SourceFootprint
        The footprint, of no row yet.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> footprint_of(np.array([[0.0, 2.0], [0.0, 1.0]]), jd.Box((5, 7), (2, 2)), 0.5).box
    Box(start=(5, 8), shape=(2, 1))
    """
    bright = model > max(level, ROUNDING * float(model.max()))
    spans = bright if where is None else bright & where
    if not spans.any():
        return SourceFootprint.empty(-1, -1, OUTSHONE if bright.any() else DARK)
    tight = Box.of_mask(spans)
    spans = spans[tight.slices]
    pixels = np.where(spans, model[tight.slices], 0).astype(np.float32)
    return SourceFootprint(-1, -1, tight.shifted_by(*box.start), spans, pixels)


def noise_of(models: StoredModels, box: Box) -> Float[np.ndarray, " band"]:
    """Typical σ of a usable pixel of a window in each band; 0 for a band without data."""
    window = models.exposure.window(box)
    good = ~window.mask[models.in_exposure]
    variance = np.where(good, window.variance[models.in_exposure], np.float32(1))
    return np.asarray(background_rms(np.where(good, 1 / variance, np.float32(0))))
