"""Pictures that commands save."""

from pathlib import Path

import numpy as np

from ..catalog import CatalogResult, SingleBandCatalog
from ..detection import Detection
from ..instrument.box import Box
from ..io import Exposure, SourceModel
from ..view import asinh_norm, deblend_figure, rgb, single_band_figure
from ..view.norms import noise_of

LARGEST = 1200
"""Edge in pixels of the largest picture; of more, the middle is shown."""

SHOWN = 12
"""Number of sources, the brightest, that are shown one by one."""

OVERVIEW = 2000
"""Edge in pixels of the largest overview."""


def save_deblend(exposure: Exposure, result: CatalogResult, path: Path) -> None:
    """Save data, model and residual side by side.

    Parameters
    ----------
    exposure
        The data.
    result
        What was made of them.
    path
        The picture.
    """
    box = _middle(exposure)
    window = (slice(None), *box.slices)
    centers = np.stack([np.asarray(result.table["y"]), np.asarray(result.table["x"])], axis=1) - box.start
    deblend_figure(
        _usable(exposure, window),
        result.model[window],
        bands=exposure.bands,
        centers=_within(centers, box),
        weights=np.where(exposure.mask[window], 0, 1 / exposure.variance[window]),
        path=path,
    )


def save_detection(exposure: Exposure, detection: Detection, path: Path) -> None:
    """Save the images with the outlines of the footprints and the peaks.

    Parameters
    ----------
    exposure
        The data.
    detection
        What was found in them.
    path
        The picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    box = _middle(exposure)
    window = (slice(None), *box.slices)
    edge = float(np.clip(box.shape[1] / 75, 5.0, 14.0))
    figure = Figure(figsize=(edge, edge * box.shape[0] / box.shape[1] + 0.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    images = _usable(exposure, window)
    picture = rgb(images, bands=exposure.bands, norm=asinh_norm(images, exposure.variance[window]))
    axes.imshow(picture, origin="lower", interpolation="nearest")
    labels = np.asarray(detection.labels)[box.slices]
    axes.contour(labels > 0, levels=[0.5], colors="#56b4e9", linewidths=0.7)
    centers = _within(detection.centers - box.start, box)
    axes.plot(centers[:, 1], centers[:, 0], "+", color="#f0e442", markersize=5, markeredgewidth=0.8)
    axes.set_title(f"{len(detection.peaks)} sources in {len(detection.footprints)} footprints", loc="left", fontsize=10)
    axes.set(xlim=(-0.5, box.shape[1] - 0.5), ylim=(-0.5, box.shape[0] - 0.5))
    figure.savefig(path)


def save_single_band(exposure: Exposure, result: SingleBandCatalog, band: int, path: Path) -> None:
    """Save how one band was divided.

    Parameters
    ----------
    exposure
        The data.
    result
        What was made of them.
    band
        Number of the band.
    path
        The picture.
    """
    box, name = _middle(exposure), exposure.bands[band]
    window = (slice(None), *box.slices)
    image, variance = _usable(exposure, window)[band], exposure.variance[window][band]
    centers = np.stack([np.asarray(result.table["y"]), np.asarray(result.table["x"])], axis=1) - box.start
    centers = _within(centers, box)
    flux = np.array([child.image[band].sum() for child in result.children])
    flux[np.isnan([centers[child.id].sum() for child in result.children])] = -np.inf
    brightest = np.sort(np.argsort(-flux, kind="stable")[: min(SHOWN, int(np.isfinite(flux).sum()))])
    frames = [
        np.stack([_framed(sources[k], band, box) for k in brightest]) if len(brightest) else np.zeros((0, *box.shape))
        for sources in (result.templates, result.children)
    ]
    single_band_figure(
        image,
        *frames,
        centers=centers,
        shown=[result.children[k].id for k in brightest],
        model=result.model[window][band],
        flags=np.asarray(result.table[f"flags_{name}"]),
        norm=asinh_norm(image[None], variance[None]),
        path=path,
    )


def _framed(source: SourceModel, band: int, box: Box) -> np.ndarray:
    """One band of a source's stamp, in a window of the exposure."""
    frame = np.zeros(box.shape, np.float32)
    both = box.overlap(source.box)
    here, there = (both.shifted_by(-start[0], -start[1]).slices for start in (box.start, source.box.start))
    frame[here] = source.image[(band, *there)]
    return frame


def save_overview(exposure: Exposure, path: Path) -> None:
    """Save the whole exposure in colour, one pixel for several where it is large.

    Parameters
    ----------
    exposure
        The data.
    path
        The picture.
    """
    from matplotlib.image import imsave

    factor = -(-max(exposure.shape) // OVERVIEW)
    shown = exposure.mask & ~_saturated(exposure)
    images = np.stack([_binned(*each, factor) for each in zip(exposure.images, shown, strict=True)])
    norm = asinh_norm(images, noise_of(images) ** 2)
    imsave(path, np.clip(rgb(images, bands=exposure.bands, norm=norm, saturation=0.65), 0, 1), origin="lower")


def save_products(exposure: Exposure, model: np.ndarray, path: Path) -> None:
    """Save data, model and residual of a whole exposure, one pixel for several where it is large.

    Parameters
    ----------
    exposure
        The data.
    model
        All sources as observed (band, y, x).
    path
        The picture.
    """
    factor = -(-max(exposure.shape) // LARGEST)

    def binned(cube: np.ndarray, masks: np.ndarray) -> np.ndarray:
        return np.stack([_binned(image, bad, factor) for image, bad in zip(cube, masks, strict=True)])

    bad = exposure.mask
    images, models, variance = (binned(cube, bad) for cube in (exposure.images, model, exposure.variance))
    used = binned((~bad).astype(np.float32), np.zeros_like(bad))
    weights = np.where(used > 0, used * factor**2 / np.where(used > 0, variance, 1), 0)
    models = np.where(used > 0, models, binned(model, bad & ~_saturated(exposure)))  # cores of bright stars, too
    deblend_figure(images, models, bands=exposure.bands, weights=weights, path=path)


def _saturated(exposure: Exposure) -> np.ndarray:
    return exposure.plane("SAT") if "SAT" in exposure.mask_planes else np.zeros_like(exposure.mask)


def _binned(image: np.ndarray, bad: np.ndarray, factor: int) -> np.ndarray:
    """Means over blocks of usable pixels, NaN where there are none; what is left of a block at the end is dropped."""
    shape = image.shape[0] // factor, image.shape[1] // factor
    cut = np.s_[: shape[0] * factor, : shape[1] * factor]
    blocks = (shape[0], factor, shape[1], factor)
    good = ~bad[cut]
    count = good.reshape(blocks).sum(axis=(1, 3))
    total = np.where(good, image[cut], 0).reshape(blocks).sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _middle(exposure: Exposure) -> Box:
    """The window to show."""
    shape = min(exposure.shape[0], LARGEST), min(exposure.shape[1], LARGEST)
    start = (exposure.shape[0] - shape[0]) // 2, (exposure.shape[1] - shape[1]) // 2
    return Box(start, shape)


def _usable(exposure: Exposure, window: tuple[slice, ...]) -> np.ndarray:
    return np.where(exposure.mask[window], np.nan, exposure.images[window])


def _within(centers: np.ndarray, box: Box) -> np.ndarray:
    """Centres in the window, NaN for those outside: they keep their numbers."""
    inside = Box((0, 0), box.shape).contains(centers)
    return np.where(inside[:, None], centers, np.nan)
