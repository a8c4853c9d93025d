"""Figures of PSF matching: kernels, what they are made of, how they vary, and how well they do."""

import os
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from ..instrument.psf import AbstractPSF
from ..ops import polynomials
from ..psf_match import KernelCandidates, MatchedKernels, SpatialKernel
from . import psf_panels as panel
from .figures import Figure, _finish, _new_figure, _strip

MAX_TERMS = 15
"""Coefficient images beyond this many are not drawn."""

_QUOTED = ("negative_lobe", "noise_gain", "l2", "encircled_energy")
"""Figures of `KernelQuality` that are told."""


def psf_match_figure(
    source: AbstractPSF | ArrayLike,
    target: AbstractPSF | ArrayLike,
    matched: MatchedKernels,
    *,
    bands: Sequence[str] | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the kernel of each band in a row: source S, kernel K, modelled PSF K * S, target T, and K * S - T.

    Source, kernel and target are in units of their maxima, with scales that show wings, K * S and the residual in units
    of the target's.

    Parameters
    ----------
    source, target
        What was given to `match_psf`: PSFs, or stamps (band, y, x) or (y, x).
    matched
        What came out.
    bands
        Names of the bands.
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
        If the numbers of bands do not agree.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> psfs = jd.GaussianPSF(0.8), jd.GaussianPSF([1.5, 2.0])
    >>> figure = psf_match_figure(*psfs, jd.match_psf(*psfs), bands=("g", "r"))
    >>> [axes.get_ylabel() for axes in figure.axes[:10:5]]
    ['g', 'r']
    """
    kernels = np.asarray(matched.kernel.image, float)
    names = panel.band_names(bands, len(kernels))
    s, t = panel.common_stamps(source, target, len(kernels))
    modelled = panel.convolved(kernels / kernels.sum(axis=(1, 2), keepdims=True), s)
    figure = _new_figure((11.6, 2.15 * len(kernels) + 0.7))
    panels = figure.subplots(len(kernels), 5, squeeze=False)
    for number, (name, row) in enumerate(zip(names, panels, strict=True)):
        _show_match(row, s[number], t[number], modelled[number], kernels[number])
        row[0].set_ylabel(name, rotation=0, labelpad=10, va="center", fontsize=12)
        lobe, gain, l2, energy = (float(np.asarray(getattr(matched.quality, key))[number]) for key in _QUOTED)
        row[1].set_xlabel(f"W₋ = {lobe:.3f}   noise × {gain:.3f}", fontsize=8.5)
        row[4].set_xlabel(f"L2 = {l2:.1e}   EE = {energy:.1e}", fontsize=8.5)
    for axes, title in zip(panels[0], ("source S", "kernel K", "K * S", "target T", "K * S − T"), strict=True):
        axes.set_title(title, loc="left", fontsize=11)
    return _finish(figure, path)


def kernel_mosaic_figure(
    kernel: SpatialKernel,
    *,
    bands: Sequence[str] | None = None,
    n: int = 5,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw kernels all over the image, in their places, and beside them how they differ from their mean.

    Parameters
    ----------
    kernel
        The kernel.
    bands
        Names of the bands; there is a row for each.
    n
        Number of kernels along each axis; one is enough of a kernel that does not vary.
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
        If there are no kernels to draw, or not one name for each band.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(15) for sigma in (1.0, 1.2))
    >>> kernel = jd.SpatialKernel(jnp.stack([narrow, wide - narrow, 0 * wide], axis=1), jd.Box((0, 0), (64, 64)), 1)
    >>> figure = kernel_mosaic_figure(kernel, bands=["r"])
    >>> figure.axes[0].get_title(loc="left")
    'r: kernels'
    """
    names = panel.band_names(bands, kernel.n_bands)
    if n < 1:
        raise ValueError(f"`n` must be 1 or more, got {n}.")
    n = n if kernel.order else 1
    rows, columns = panel.places(kernel, n)
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    stamps = np.asarray(kernel.at(grid), float).reshape(n, n, kernel.n_bands, kernel.edge, kernel.edge)
    stamps = panel.cropped(stamps, stamps.mean(axis=(0, 1)))
    titles = ("kernels", "less their mean") if kernel.order else ("kernel",)
    figure = _new_figure((5.2 * len(titles), 4.7 * len(names)))
    panels = figure.subplots(len(names), len(titles), squeeze=False)
    for own, name, row in zip(np.moveaxis(stamps, 2, 0), names, panels, strict=True):
        shown = panel.show_kernel(row[0], panel.mosaic(own))
        panel.color_bar(row[0], shown, [-1, -0.1, -0.01, 0, 0.01, 0.1, 1])
        for axes in row[1:]:
            panel.show_difference(axes, panel.mosaic(own - own.mean(axis=(0, 1))) / own.max())
        for axes, title in zip(row, titles, strict=True):
            panel.number_places(axes, rows, columns, own.shape[-1])
            axes.set_title(f"{name}: {title}" if name else title, loc="left", fontsize=11)
    return _finish(figure, path)


def candidates_figure(
    candidates: KernelCandidates,
    kernel: SpatialKernel,
    *,
    bands: Sequence[str] | None = None,
    worst: int = 5,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw where the candidates are and how well the spatial kernel does there, and the worst of them.

    Parameters
    ----------
    candidates
        The candidates.
    kernel
        The kernel that was found from them.
    bands
        Names of the bands; there is a map for each.
    worst
        Number of candidates to show, of all bands.
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
        If the numbers of bands do not agree, or no candidate is to be shown.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> exposure = jd.Exposure(np.zeros((1, 64, 64)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> matched = jd.match_exposure(exposure, jd.GaussianPSF(2.0))
    >>> candidates_figure(matched.candidates, matched.kernel, bands=["r"]).axes[0].get_title(loc="left")
    'r: 1 candidate, all good'
    """
    error = np.asarray(candidates.spatial.l2, float)
    names = panel.band_names(bands, kernel.n_bands)
    if error.shape[1] != kernel.n_bands:
        raise ValueError(f"`candidates` are of {error.shape[1]} bands, `kernel` is of {kernel.n_bands}.")
    if worst < 1:
        raise ValueError(f"`worst` must be 1 or more, got {worst}.")
    ranked = np.argsort(np.where(np.isfinite(error), -error, np.inf), axis=None)[:worst]
    chosen = list(zip(*np.unravel_index(ranked, error.shape), strict=True))
    width = max(3.4 * len(names), 1.75 * max(len(chosen), panel.FEWEST) + 1.2)
    figure = _new_figure((width, 4.1 + 7.2))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(4.1, 7.2)).flat
    panel.show_maps(top, candidates, kernel, names)
    panel.show_worst(bottom, candidates, kernel, names, chosen)
    return _finish(figure, path)


def basis_figure(basis: ArrayLike, *, columns: int | None = None, path: str | os.PathLike | None = None) -> Figure:
    """Draw the functions that kernels are built from, each in units of its maximum.

    Parameters
    ----------
    basis
        Functions (term, k, k).
    columns
        Number of functions in a row; by default about 1.5 times that of the rows.
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
        If the functions are not (term, k, k).

    Examples
    --------
    >>> basis_figure(np.eye(9).reshape(9, 3, 3)).axes[0].get_title(loc="left")
    '9 functions of 3 x 3 pixels'
    """
    functions = np.asarray(basis, float)
    if functions.ndim != 3 or functions.shape[1] != functions.shape[2] or functions.size == 0:
        raise ValueError(f"`basis` must be (term, k, k), got shape {functions.shape}.")
    count, edge = functions.shape[:2]
    columns = int(np.ceil(np.sqrt(1.5 * count))) if columns is None else columns
    rows = -(-count // columns)
    scale = np.abs(functions).max(axis=(1, 2), keepdims=True)
    filled = np.full((rows * columns, edge, edge), np.nan)
    filled[:count] = functions / np.where(scale > 0, scale, 1)
    tile = float(np.clip(14 / columns, 0.45, 1.1))
    figure = _new_figure((tile * columns + 0.2, tile * rows + 0.45))
    axes = figure.subplots()
    panel.show_kernel(axes, panel.mosaic(filled.reshape(rows, columns, edge, edge)[::-1]))  # from the top, as one reads
    _strip(axes, f"{count} functions of {edge} x {edge} pixels")
    if count <= 150:
        for term in range(count):
            row, column = divmod(term, columns)
            at = (column * (edge + 1), (rows - row) * (edge + 1) - 2)
            axes.annotate(str(term), at, fontsize=7, color="0.35", ha="left", va="top")
    return _finish(figure, path)


def coefficients_figure(
    kernel: SpatialKernel, *, bands: Sequence[str] | None = None, path: str | os.PathLike | None = None
) -> Figure:
    """Draw the images C_j that a spatial kernel is made of, and the maps P_j(p) that they are multiplied by.

    Each image is in units of its own maximum; the numbers tell its size, ‖C_j‖ / ‖C_0‖.

    Parameters
    ----------
    kernel
        The kernel; its first 15 terms are drawn.
    bands
        Names of the bands; there is a row for each.
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
        If there is not one name for each band.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(15) for sigma in (1.0, 1.2))
    >>> kernel = jd.SpatialKernel(jnp.stack([narrow, wide - narrow, 0 * wide], axis=1), jd.Box((0, 0), (64, 64)), 1)
    >>> [axes.get_title(loc="left") for axes in coefficients_figure(kernel).axes[:3]]
    ['$1$', '$T_1(y)$', '$T_1(x)$']
    """
    names = panel.band_names(bands, kernel.n_bands)
    images = np.asarray(kernel.images, float)[:, :MAX_TERMS]
    images = panel.cropped(np.moveaxis(images, 0, 1), images[:, 0])
    figure = _new_figure((1.25 * len(images) + 1.0, 1.5 * (len(names) + 1) + 0.2))
    panels = figure.subplots(len(names) + 1, len(images), squeeze=False)
    y, x = (np.linspace(-1, 1, 48) for _ in range(2))
    maps = np.asarray(polynomials.terms(*np.meshgrid(y, x, indexing="ij"), kernel.order, kernel.kind))
    size = np.linalg.norm(images, axis=(-2, -1))
    for term, (pair, column) in enumerate(zip(polynomials.exponents(kernel.order), panels.T, strict=False)):
        extent = (0, kernel.box.shape[1], 0, kernel.box.shape[0])
        column[0].imshow(maps[..., term], cmap="PuOr_r", vmin=-1, vmax=1, origin="lower", extent=extent)
        _strip(column[0], panel.term(pair, kernel.kind))
        for number, axes in enumerate(column[1:]):
            panel.show_kernel(axes, images[term, number], label="")
            axes.set_xlabel(f"{size[term, number] / size[0, number]:.2g}", fontsize=8.5)
    for axes, name in zip(panels[:, 0], ("$P_j$", *names), strict=True):
        axes.set_ylabel(name, rotation=0, labelpad=14, va="center", fontsize=12)
    return _finish(figure, path)


def encircled_energy_figure(
    before: ArrayLike,
    after: ArrayLike,
    reference: ArrayLike,
    *,
    bands: Sequence[str] | None = None,
    path: str | os.PathLike | None = None,
) -> Figure:
    """Draw the flux within a radius before and after, and below it what is missing to the reference.

    Lines are medians over the positions, bands reach from the smallest to the largest.

    Parameters
    ----------
    before, after
        PSFs (position, band, n, n), of unit sum; the edges may differ.
    reference
        The PSF to match (band, n, n).
    bands
        Names of the bands; there is a column for each.
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
    >>> import jaxdeblend as jd
    >>> before, after = (jd.GaussianPSF(sigma).stamp(21)[None] for sigma in (1.5, 2.0))
    >>> len(encircled_energy_figure(before, after, after[0]).axes)
    2
    """
    wanted = np.asarray(reference, float)
    stacks = {"before": np.asarray(before, float), "after": np.asarray(after, float)}
    for name, stack in (*stacks.items(), ("reference", wanted[None])):
        if stack.ndim != 4 or stack.shape[1] != len(wanted) or stack.shape[2] != stack.shape[3] or stack.size == 0:
            raise ValueError(f"`{name}` must be stamps for {len(wanted)} bands, got shape {np.shape(stack)}.")
    names = panel.band_names(bands, len(wanted))
    radii = np.arange(0.5, min(stack.shape[-1] // 2 for stack in (*stacks.values(), wanted)) + 0.25, 0.5)
    goal = panel.enclosed(wanted, radii)
    figure = _new_figure((max(3.6 * len(names), 5.0) + 0.6, 5.2))
    panels = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey="row", height_ratios=(1.5, 1))
    for name, color in zip(stacks, (panel.RED, panel.BLUE), strict=True):
        curves = panel.enclosed(stacks[name], radii)
        for number, column in enumerate(panels.T):
            panel.show_range(column[0], radii, curves[:, number], color, name)
            panel.show_range(column[1], radii, curves[:, number] - goal[number], color, name)
    for number, column in enumerate(panels.T):
        column[0].plot(radii, goal[number], color="black", lw=1.2, ls=(0, (4, 3)), label="reference")
        column[0].set_title(names[number], loc="left", fontsize=11)
        column[1].axhline(0, color="black", lw=1.0, ls=(0, (4, 3)))
        column[1].set(xlabel="radius in pixels", yscale="symlog", xlim=(0, radii[-1]))
    panel.finish_curves(panels)
    return _finish(figure, path)


def _show_match(row: np.ndarray, source: np.ndarray, target: np.ndarray, modelled: np.ndarray, own: np.ndarray) -> None:
    """The five panels of one band."""
    peak = target.max()
    panel.show_psf(row[0], source / source.max())
    panel.show_kernel(row[1], own)
    panel.show_psf(row[2], modelled / peak)
    panel.color_bar(row[3], panel.show_psf(row[3], target / peak), [0, 0.001, 0.01, 0.1, 1])
    panel.show_difference(row[4], (modelled - target) / peak)
