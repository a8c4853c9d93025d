"""Figures of the single-band deblender: the image, what it was divided in proportion to, and what each source got."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from ..single_band import SingleBandFlag
from .figures import _SLATE, Axes, Figure, _finish, _mark, _new_figure, _number, _show_picture, _strip, _window
from .norms import AsinhNorm, asinh_norm

WIDTH = 12.6
"""Inches."""

COLUMNS = 6
"""Sources side by side."""

_BANDS = ("",)
"""Pictures are grey: of one band, whatever its name."""

_TOLD = {
    SingleBandFlag.SKIPPED: "no child",
    SingleBandFlag.DEBLENDED_AS_PSF: "PSF",
    SingleBandFlag.SYMMETRY_AMBIGUOUS: "ambiguous",
    SingleBandFlag.PATCHED_TEMPLATE: "patched",
    SingleBandFlag.RAMPED_TEMPLATE: "ramped",
}
"""Flags that are told beside a source's number."""


def single_band_figure(
    image: ArrayLike,
    templates: ArrayLike,
    children: ArrayLike,
    *,
    centers: ArrayLike,
    shown: Sequence[int] | None = None,
    model: ArrayLike | None = None,
    flags: ArrayLike | None = None,
    norm: AsinhNorm | None = None,
    max_sources: int = 12,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw how an image was divided: image, templates, what they leave, and the template and child of each source.

    Image, templates and children have one stretch. The residual, image - Σ templates, has the same on both sides of
    zero, red where the image is brighter. Sources that are drawn one by one are numbered in the image; each has a
    window of its own, with Σ of its pixels.

    Parameters
    ----------
    image
        Image (y, x); NaN where it is unusable.
    templates, children
        From `jaxdeblend.deblend_single_band`, (source, y, x).
    centers
        Peaks (source, 2), (y, x) in pixels. NaN positions are not marked.
    shown
        Which of the peaks `templates` and `children` are of, where that is not all.
    model
        Sum of all templates (y, x), where `templates` are not all.
    flags
        Bits of `jaxdeblend.SingleBandFlag` of all peaks; the most telling stand beside the numbers.
    norm
        Brightness of the pictures, of one band; by default from the image.
    max_sources
        Of more, those with the brightest children are drawn, and the figure says so.
    path
        File to write the figure to.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If shapes do not agree.

    Examples
    --------
    >>> from jaxdeblend.simulate import simulate_blend
    >>> scene = simulate_blend(1, shape=(32, 32), bands=("r",), n_sources=2)
    >>> truth = scene.truth[:, 0]
    >>> figure = single_band_figure(scene.images[0], truth, truth, centers=scene.centers)
    >>> [axes.get_title(loc="left") for axes in figure.axes[:5]]
    ['image', 'Σ templates', 'image − Σ templates', '0', '1']
    """
    image = _image(image, "image")
    templates, children = _frames(templates, "templates", image.shape), _frames(children, "children", image.shape)
    centers = np.asarray(centers, float).reshape(-1, 2)
    numbers = np.arange(len(centers)) if shown is None else np.asarray(shown, int)
    if len(templates) != len(numbers) or len(children) != len(numbers):
        counts = f"{len(templates)} templates and {len(children)} children"
        raise ValueError(f"`templates`, `children`: got {counts} for {len(numbers)} peaks; give one of each.")
    total = templates.sum(0) if model is None else _image(model, "model", image.shape)
    norm = asinh_norm(image[None]) if norm is None else norm
    bits = np.zeros(len(centers), int) if flags is None else np.asarray(flags, int)
    if len(bits) != len(centers):
        raise ValueError(f"`flags`: got {len(bits)} for {len(centers)} peaks; give one of each.")
    drawn = np.sort(np.argsort(-children.sum((1, 2)), kind="stable")[:max_sources])

    figure, top, panels = _layout(image.shape, len(drawn))
    _show_picture(top[0], image[None], "image", _BANDS, norm)
    _show_picture(top[1], total[None], "Σ templates", _BANDS, norm)
    _show_residual(top[2], image - total, norm)
    for axes in (top[0], top[2]):
        _mark(axes, centers, numbered=False)
    _number(top[0], centers, [k for k in numbers[drawn] if np.isfinite(centers[k]).all()])
    for k, column in zip(drawn, panels, strict=True):
        title = _title(int(numbers[k]), int(bits[numbers[k]]))
        _show_source(column, templates[k], children[k], centers[numbers[k]], title, norm)
    if len(drawn) < len(centers):
        figure.suptitle(f"the {len(drawn)} brightest of {len(centers)} sources", x=0.01, ha="left", fontsize=10)
    return _finish(figure, path)


def _layout(shape: tuple[int, int], n_sources: int) -> tuple[Figure, Any, list[tuple[Axes, Axes]]]:
    """A row of three panels, and below it for each source one above the other, in as many rows as are needed."""
    rows = -(-n_sources // COLUMNS)
    height = float(np.clip(WIDTH / 3.2 * shape[0] / shape[1], 1.8, 7.0)) + 0.5
    strip = 2 * (WIDTH / COLUMNS) + 0.5
    figure = _new_figure((WIDTH, height + rows * strip))
    parts = figure.subfigures(1 + rows, 1, squeeze=False, height_ratios=[height, *[strip] * rows])[:, 0]
    top = parts[0].subplots(1, 3)
    panels = []
    for part in parts[1:]:
        grid = part.subplots(2, COLUMNS)
        used = min(n_sources - len(panels), COLUMNS)
        for axes in grid[:, used:].flat:
            axes.set_visible(False)
        for axes, label in zip(grid[:, 0], ("template", "child"), strict=True):
            axes.set_ylabel(label, fontsize=10)
        panels += list(zip(*grid[:, :used], strict=True))
    return figure, top, panels


def _show_source(
    column: tuple[Axes, Axes],
    template: np.ndarray,
    child: np.ndarray,
    center: np.ndarray,
    title: str,
    norm: AsinhNorm,
) -> None:
    """Template and child of one source, in a window that holds the template."""
    window = _window(template[None], center)
    start = np.array([window[1].start, window[2].start])
    for axes, picture, name in zip(column, (template, child), (title, ""), strict=True):
        _show_picture(axes, picture[None][window], name, _BANDS, norm)
        axes.set_xlabel(f"Σ = {picture.sum():.4g}", fontsize=9, loc="left")
    _mark(column[0], (center - start)[None], numbered=False)


def _show_residual(axes: Axes, residual: np.ndarray, norm: AsinhNorm) -> None:
    """What the templates leave, on the scale of the pictures, with a colour bar in units of the image."""
    from matplotlib import colors

    scale, limit = norm.scales[0], norm.white * norm.scales[0]
    stretch = colors.AsinhNorm(linear_width=norm.softening * scale, vmin=-limit, vmax=limit)
    picture = axes.imshow(residual, origin="lower", cmap="RdBu_r", norm=stretch, interpolation="nearest")
    axes.set_facecolor(_SLATE)
    _strip(axes, "image − Σ templates")
    bar = axes.figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.02, extend="both")
    bar.outline.set_visible(False)
    powers = 10.0 ** np.arange(np.ceil(np.log10(norm.softening * scale)), np.log10(limit))
    ticks = [sign * power for power in powers[::-1][:: 1 + len(powers) // 4] for sign in (-1, 1)]
    bar.set_ticks([0.0, *ticks], labels=[f"{tick:g}" for tick in (0.0, *ticks)])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8)


def _title(number: int, flags: int) -> str:
    """Number of a source, and its most telling flags."""
    return ", ".join([str(number), *[word for flag, word in _TOLD.items() if flags & int(flag)]])


def _frames(values: ArrayLike, name: str, shape: tuple[int, ...]) -> np.ndarray:
    stack = np.asarray(values, float)
    if stack.ndim != 3 or stack.shape[1:] != shape:
        raise ValueError(f"`{name}` must be (source, y, x) with images of {shape}, got {stack.shape}.")
    return stack


def _image(values: ArrayLike, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 2 or 0 in array.shape or (shape is not None and array.shape != shape):
        expected = "(y, x), not empty" if shape is None else f"that of `image`, {shape}"
        raise ValueError(f"`{name}`: got shape {array.shape}; it must be {expected}.")
    return array
