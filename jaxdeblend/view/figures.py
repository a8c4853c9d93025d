"""Figures: what was seen, what was fitted, what is left.

They are drawn on canvases of their own and never touch pyplot: nothing to close, safe in threads and on
servers.
"""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from .norms import AsinhNorm, asinh_norm, check_images, noise_of
from .rgb import rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # Matplotlib is optional

MAX_NUMBERED = 60
"""Sources beyond this many are marked, but not numbered."""

_MARK = "#f0e442"
"""Yellow of the colour-blind-safe palette of Okabe & Ito (2008)."""

_SLATE = (0.25, 0.27, 0.31)
"""Colour of unusable pixels."""

_LINES = ("#0072b2", "#d55e00", "#009e73")
"""Blue, vermilion and green of the same palette."""


def deblend_figure(
    images: ArrayLike,
    model: ArrayLike,
    *,
    bands: Sequence[str],
    centers: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    norm: AsinhNorm | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw data, model and residual of a blend side by side.

    The residual is the mean over the bands of (data - model) / σ, times √n for the n bands that a pixel has:
    a picture of unit noise if the model is right.

    Parameters
    ----------
    images
        Images (band, y, x).
    model
        Model of all sources as observed (band, y, x).
    bands
        Names of the bands.
    centers
        Centres (source, 2), (y, x) in pixels, to be marked. NaN positions are left out.
    weights
        1 / variance (band, y, x), 0 where a pixel is unusable. By default the noise is estimated from the
        images.
    norm
        Brightness of the pictures; by default from the images.
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
    >>> scene = simulate_blend(1, shape=(32, 32), bands=("g", "r", "i"))
    >>> figure = deblend_figure(scene.images, scene.noiseless, bands=scene.bands, centers=scene.centers)
    >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
    ['data', 'model']
    """
    images, model = check_images(images), _like(images, model, "model")
    weights = None if weights is None else _like(images, weights, "weights")
    usable = np.isfinite(images) if weights is None else np.isfinite(images) & (weights > 0)
    norm = _norm_of(images, weights, usable) if norm is None else norm
    height, width = images.shape[1:]
    edge = float(np.clip(width / 100, 4.0, 10.0))
    figure = _new_figure((3.05 * edge + 0.9, edge * height / width + 0.4))
    panels = figure.subplots(1, 3)
    _show_picture(panels[0], np.where(usable, images, np.nan), "data", bands, norm)
    _show_picture(panels[1], model, "model", bands, norm)
    _show_residual(panels[2], images - model, weights, usable)
    if centers is not None:
        _mark(panels[1], np.asarray(centers, float).reshape(-1, 2), numbered=True)
    return _finish(figure, path)


def sources_figure(
    images: ArrayLike,
    models: ArrayLike,
    *,
    bands: Sequence[str],
    centers: ArrayLike,
    children: ArrayLike | None = None,
    norm: AsinhNorm | None = None,
    max_sources: int = 20,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw each source in a row: data, model, re-apportioned flux, spectrum.

    Parameters
    ----------
    images
        Images (band, y, x).
    models
        Model of each source as observed (source, band, y, x).
    bands
        Names of the bands.
    centers
        Centres (source, 2), (y, x) in pixels.
    children
        Flux of the images re-apportioned to each source (source, band, y, x).
    norm
        Brightness of the pictures; by default from the images.
    max_sources
        Draw only the first so many.
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
        If shapes do not agree or there is no source.

    Examples
    --------
    >>> from jaxdeblend.simulate import simulate_blend
    >>> scene = simulate_blend(1, shape=(32, 32), bands=("g", "r", "i"), n_sources=2)
    >>> figure = sources_figure(scene.images, scene.truth, bands=scene.bands, centers=scene.centers)
    >>> len(figure.axes)
    6
    """
    images, centers = check_images(images), np.asarray(centers, float).reshape(-1, 2)
    stacks = {"model": _stack_like(images, models, "models")}
    if children is not None:
        stacks["re-apportioned"] = _stack_like(images, children, "children")
    n = min(len(stacks["model"]), max_sources)
    if n == 0 or any(len(stack) != len(centers) for stack in stacks.values()):
        counts = {name: len(stack) for name, stack in stacks.items()}
        raise ValueError(f"`centers` must be one or more (y, x), one for each source, got {len(centers)} for {counts}.")
    norm = asinh_norm(images) if norm is None else norm
    columns = 2 + len(stacks)
    figure = _new_figure((1.9 * (columns - 1) + 2.9, 1.9 * n + 0.4))
    panels = figure.subplots(n, columns, squeeze=False, width_ratios=[1] * (columns - 1) + [1.35])
    for k, row in enumerate(panels):
        window = _window(stacks["model"][k], centers[k])
        cut = {"data": images[window]} | {name: stack[k][window] for name, stack in stacks.items()}
        for axes, (name, picture) in zip(row, cut.items(), strict=False):
            _show_picture(axes, picture, name if k == 0 else "", bands, norm)
        start = np.array([window[1].start, window[2].start])
        _mark(row[0], centers[k : k + 1] - start, numbered=False)
        row[0].set_ylabel(f"{k}", rotation=0, labelpad=10, va="center", fontsize=11)
        _show_spectrum(row[-1], {name: stack[k].sum((1, 2)) for name, stack in stacks.items()}, bands, first=k == 0)
    return _finish(figure, path)


def loss_figure(loss: ArrayLike, *, path: str | os.PathLike | None = None) -> Figure:
    """Draw how the loss fell: its excess over the best value, on logarithmic axes.

    Parameters
    ----------
    loss
        Loss after each step, (step,) or (fit, step); NaN where a fit had ended.
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
        If there is no finite loss.

    Examples
    --------
    >>> loss_figure(np.geomspace(100, 1, 20)).axes[0].get_xlabel()
    'step'
    """
    curves = np.atleast_2d(np.asarray(loss, float))
    curves = [curve[np.isfinite(curve)] for curve in curves]
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        raise ValueError(f"`loss` has no finite value, its shape is {np.shape(loss)}.")
    figure = _new_figure((6.0, 3.6))
    axes = figure.subplots()
    for k, curve in enumerate(curves[:200]):
        _show_loss(axes, curve, alpha=max(0.08, len(curves) ** -0.5), label="best step" if k == 0 else None)
    falls = any(np.ptp(curve) > 0 for curve in curves)
    axes.set(xlabel="step", ylabel="loss above its best value", xscale="log", yscale="log" if falls else "linear")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _finish(figure, path)


def _new_figure(inches: tuple[float, float]) -> Figure:
    """Figure with a canvas of its own, unknown to pyplot."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Figures need Matplotlib: pip install 'jaxdeblend[plot]'") from error
    figure = Figure(figsize=inches, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(figure: Figure, path: str | os.PathLike | None) -> Figure:
    if path is not None:
        figure.savefig(path)
    return figure


def _norm_of(images: np.ndarray, weights: np.ndarray | None, usable: np.ndarray) -> AsinhNorm:
    if weights is None:
        return asinh_norm(images)
    variance = np.where(usable, 1 / np.where(usable, weights, 1), np.nan)
    return asinh_norm(np.where(usable, images, np.nan), variance)


def _show_picture(axes: Axes, images: np.ndarray, title: str, bands: Sequence[str], norm: AsinhNorm) -> None:
    """Colour picture, slate grey where no band is usable."""
    picture = rgb(images, bands=bands, norm=norm)
    picture[~np.isfinite(images).any(0)] = _SLATE
    axes.imshow(picture, origin="lower", interpolation="nearest" if picture.shape[0] < 200 else "auto")
    _strip(axes, title)


def _show_residual(axes: Axes, residual: np.ndarray, weights: np.ndarray | None, usable: np.ndarray) -> None:
    """Residual in standard deviations, with a colour bar."""
    if weights is None:
        weights = np.broadcast_to(noise_of(np.where(usable, residual, np.nan))[:, None, None] ** -2.0, residual.shape)
    scaled = np.where(usable, residual * np.sqrt(np.where(usable, weights, 0)), 0)
    n = usable.sum(0)
    combined = np.where(n > 0, scaled.sum(0) / np.sqrt(np.maximum(n, 1)), np.nan)
    picture = axes.imshow(combined, origin="lower", cmap="RdBu_r", vmin=-5, vmax=5, interpolation="nearest")
    axes.set_facecolor(_SLATE)
    chi2 = float(np.sum(scaled**2) / max(n.sum(), 1))
    _strip(axes, f"residual / σ      χ²/N = {chi2:.2f}")
    bar = axes.figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.02, extend="both")
    bar.outline.set_visible(False)


def _show_loss(axes: Axes, curve: np.ndarray, *, alpha: float, label: str | None) -> None:
    """One loss above its best value, and the step of that."""
    excess = curve - curve.min()
    steps = np.arange(1, len(curve) + 1)
    axes.plot(steps, np.where(excess > 0, excess, np.nan), color=_LINES[0], alpha=alpha, lw=1.5)
    axes.axvline(steps[np.argmin(curve)], color=_LINES[1], alpha=alpha, lw=1, label=label)


def _show_spectrum(axes: Axes, spectra: dict[str, np.ndarray], bands: Sequence[str], *, first: bool) -> None:
    """Flux in each band."""
    largest = np.nanmax(np.abs(list(spectra.values())), initial=1e-30)
    power = int(np.floor(np.log10(largest)))
    power = 0 if -2 <= power <= 2 else power
    for (name, flux), color, marker in zip(spectra.items(), _LINES, "osD", strict=False):
        axes.plot(range(len(bands)), flux / 10.0**power, marker=marker, ms=4, lw=1.2, color=color, label=name)
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.set_ylabel("flux" if power == 0 else f"flux / $10^{{{power}}}$", fontsize=8)
    axes.set_xticks(range(len(bands)), bands, fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(x=0.12, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    if first:
        axes.set_title("spectrum", loc="left", fontsize=11)
        axes.legend(frameon=False, fontsize=7, loc="best")


def _mark(axes: Axes, centers: np.ndarray, *, numbered: bool) -> None:
    """Open rings, and numbers beside them unless there are very many."""
    inside = np.isfinite(centers).all(1)
    many = len(centers) > MAX_NUMBERED
    axes.scatter(
        centers[inside, 1],
        centers[inside, 0],
        s=10 if many else 22,
        marker="o",
        facecolors="none",
        edgecolors=_MARK,
        linewidths=0.8 if many else 1.0,
        path_effects=_dark_edge(),
    )
    if numbered and not many:
        _number(axes, centers, np.flatnonzero(inside))


def _number(axes: Axes, centers: np.ndarray, numbers: Iterable[int]) -> None:
    """Numbers of some of the sources beside them."""
    for k in numbers:
        axes.annotate(
            str(k),
            (centers[k, 1], centers[k, 0]),
            xytext=(4, 4),
            textcoords="offset points",
            color="white",
            fontsize=9,
            path_effects=_dark_edge(),
            annotation_clip=True,
        )


def _dark_edge() -> list[Any]:
    """An edge with which marks show on anything."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.2, foreground="black", alpha=0.6)]


def _strip(axes: Axes, title: str) -> None:
    """Picture without ticks, its title on the left."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _window(model: np.ndarray, center: np.ndarray) -> tuple[slice, slice, slice]:
    """Square around a source that holds its light: from 31 pixels to the smaller edge of the image."""
    height, width = model.shape[1:]
    profile = np.abs(np.nan_to_num(model)).sum(0)
    y, x = np.nonzero(profile > 0.005 * profile.max())
    middle = np.where(np.isfinite(center), center, (np.array([height, width]) - 1) / 2)
    reach = np.max(np.abs(np.concatenate([y - middle[0], x - middle[1]])), initial=15.0)
    half = int(min(max(np.ceil(reach), 15), (min(height, width) - 1) // 2))
    corner = [
        int(np.clip(round(at) - half, 0, n - 2 * half - 1)) for at, n in zip(middle, (height, width), strict=True)
    ]
    return slice(None), slice(corner[0], corner[0] + 2 * half + 1), slice(corner[1], corner[1] + 2 * half + 1)


def _like(images: ArrayLike, other: ArrayLike, name: str) -> np.ndarray:
    """Host copy of another stack of images, if it has the shape of the first."""
    other = np.asarray(other, float)
    if other.shape != np.shape(images):
        raise ValueError(f"`{name}` must have the shape of `images`, {np.shape(images)}, got {other.shape}.")
    return other


def _stack_like(images: np.ndarray, stack: ArrayLike, name: str) -> np.ndarray:
    """Host copy of images of sources, if each has the shape of the images."""
    stack = np.asarray(stack, float)
    if stack.ndim != 4 or stack.shape[1:] != images.shape:
        raise ValueError(f"`{name}` must be (source, band, y, x) with images of {images.shape}, got {stack.shape}.")
    return stack
