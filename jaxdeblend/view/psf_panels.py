"""What figures of PSF matching are put together from: panels, and the arrays that they show."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..instrument.psf import AbstractPSF, ImagePSF
from ..psf_match import KernelCandidates, SpatialKernel
from .figures import _LINES, Axes, _strip

SHOWN = 0.97
"""Share of Σ|K| that the window about a kernel takes in."""

FEWEST = 4
"""Columns that there is room for, even for fewer stamps: they would get too wide."""

BLUE, RED, GREEN = _LINES
DIVERGING = "RdBu_r"

# --------------------------------------------------------------------------------------------------------------- panels


def show_psf(axes: Axes, image: np.ndarray) -> Any:
    """PSF in units of a maximum, on a scale that is logarithmic down to a thousandth."""
    from matplotlib.colors import AsinhNorm

    norm = AsinhNorm(linear_width=1e-3, vmin=0, vmax=1)
    shown = axes.imshow(image, origin="lower", cmap="magma", norm=norm, interpolation="nearest")
    _strip(axes, "")
    return shown


def show_kernel(axes: Axes, image: np.ndarray, label: str = "") -> Any:
    """Kernel in units of its largest pixel: positive red, negative blue, lobes of a per cent to be seen."""
    from matplotlib.colors import AsinhNorm

    peak = np.nanmax(np.abs(image)) or 1.0
    norm = AsinhNorm(linear_width=1e-2, vmin=-1, vmax=1)
    shown = axes.imshow(image / peak, origin="lower", cmap=DIVERGING, norm=norm, interpolation="nearest")
    _strip(axes, "")
    axes.set_xlabel(label, fontsize=8.5)
    return shown


def show_difference(axes: Axes, image: np.ndarray, label: str = "") -> None:
    """Differences on a linear scale of their own, which the colour bar tells."""
    peak = float(np.nanmax(np.abs(image))) or 1.0
    power = int(np.floor(np.log10(peak)))
    limit = peak / 10.0**power
    shown = axes.imshow(
        image / 10.0**power, origin="lower", cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest"
    )
    _strip(axes, "")
    axes.set_xlabel(label, fontsize=8.5)
    bar = color_bar(axes, shown, None)
    bar.ax.set_title(f"$\\times 10^{{{power}}}$" if power else "", fontsize=8, loc="left")


def color_bar(axes: Axes, shown: Any, ticks: Sequence[float] | None) -> Any:
    """Colour bar beside a panel, without an outline."""
    bar = axes.figure.colorbar(shown, ax=axes, fraction=0.046, pad=0.02)
    bar.outline.set_visible(False)
    if ticks is not None:
        bar.set_ticks(list(ticks), labels=[f"{tick:g}" for tick in ticks])
        bar.minorticks_off()
    bar.ax.tick_params(labelsize=7.5)
    return bar


def number_places(axes: Axes, rows: np.ndarray, columns: np.ndarray, edge: int) -> None:
    """Positions on the image, in pixels, for the tiles of a mosaic."""
    for values, axis in ((rows, axes.yaxis), (columns, axes.xaxis)):
        middles = np.arange(len(values)) * (edge + 1) + (edge - 1) / 2
        axis.set_ticks(middles, [f"{value:.0f}" for value in values], fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("x", fontsize=9)
    axes.set_ylabel("y", fontsize=9)


def show_maps(figure: Any, candidates: KernelCandidates, kernel: SpatialKernel, names: Sequence[str]) -> None:
    """Map of each band: the error by colour, a ring about a good candidate, a cross on a bad one."""
    from matplotlib.colors import LogNorm

    error, good = np.asarray(candidates.spatial.l2, float), np.asarray(candidates.good)
    y, x = np.asarray(candidates.positions).T
    low, high = max(np.nanmin(error), 1e-9), np.nanmax(error)  # equal PSFs leave nothing
    norm = LogNorm(low, max(high, 1.5 * low))
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for number, axes in enumerate(panels):
        use = good[:, number]
        shown = axes.scatter(x, y, c=error[:, number], norm=norm, cmap="viridis", s=46)
        axes.scatter(x[use], y[use], s=110, facecolors="none", edgecolors=GREEN, linewidths=1.3, label="good")
        axes.scatter(x[~use], y[~use], s=70, marker="x", color=RED, linewidths=1.8, label="bad")
        bad = int((~use).sum())
        count = f"{len(use)} candidate{'s' * (len(use) > 1)}, {f'{bad} bad' if bad else 'all good'}"
        axes.set_title(f"{names[number]}: {count}" if names[number] else count, loc="left", fontsize=10)
        start, stop = np.array(kernel.box.start) - 0.5, np.array(kernel.box.stop) - 0.5
        axes.set(xlim=(start[1], stop[1]), ylim=(start[0], stop[0]), aspect="equal", xlabel="x")
    panels[0].set_ylabel("y")
    bar = figure.colorbar(shown, ax=list(panels), fraction=0.03, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("L2 of the spatial kernel", fontsize=9)


def show_worst(
    figure: Any, candidates: KernelCandidates, kernel: SpatialKernel, names: Sequence[str], chosen: Sequence[Any]
) -> None:
    """Columns of source, target, spatial kernel and its residual."""
    figure.suptitle("the worst of them, at (y, x), with the spatial kernel", x=0.01, ha="left", fontsize=11)
    panels = figure.subplots(4, max(len(chosen), FEWEST), squeeze=False)
    for axes in panels[:, len(chosen) :].flat:
        axes.remove()
    panels = panels[:, : len(chosen)]
    for (at, band), column in zip(chosen, panels.T, strict=True):
        place = np.asarray(candidates.positions)[at]
        own = np.asarray(kernel.at(place[None]), float)[0, band]
        source, target = (np.asarray(stack, float)[at, band] for stack in (candidates.source, candidates.target))
        modelled = convolved(own[None], source[None])[0]
        residual = (
            modelled * np.vdot(modelled, target) / np.vdot(modelled, modelled) - target
        )  # whatever the flux scale
        for axes, image in zip(column, (source, target), strict=False):
            show_psf(axes, image / image.max())
        show_kernel(column[2], own)
        show_difference(column[3], residual / target.max(), f"L2 = {np.asarray(candidates.spatial.l2)[at, band]:.1e}")
        column[0].set_title(f"{names[band]} ({place[0]:.0f}, {place[1]:.0f})".strip(), loc="left", fontsize=9.5)
    for axes, label in zip(panels[:, 0], ("source", "target", "kernel", "residual"), strict=True):
        axes.set_ylabel(label, fontsize=10)


def show_range(axes: Axes, radii: np.ndarray, curves: np.ndarray, color: str, label: str) -> None:
    """Median of curves (position, radius), and what they span."""
    axes.fill_between(radii, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.25, lw=0)
    axes.plot(radii, np.median(curves, axis=0), color=color, lw=1.6, label=label)


def finish_curves(panels: np.ndarray) -> None:
    """Labels; the lower scale is linear up to 0.001, where matched PSFs are."""
    panels[0, 0].set(ylabel="flux within the radius", ylim=(0, 1.03))
    for axes in panels[1]:
        axes.set_yscale("symlog", linthresh=1e-3, linscale=0.8)
        ticks = [-0.1, -0.01, -0.001, 0, 0.001, 0.01, 0.1]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    panels[1, 0].set_ylabel("less that of the reference")
    for axes in panels.flat:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, -1].legend(frameon=False, loc="lower right")


# --------------------------------------------------------------------------------------------------------------- arrays


def band_names(bands: Sequence[str] | None, n_bands: int) -> tuple[str, ...]:
    """Names of the bands; without any, their numbers, and nothing for one alone."""
    if bands is None:
        return ("",) if n_bands == 1 else tuple(str(number) for number in range(n_bands))
    if len(bands) != n_bands:
        raise ValueError(f"`bands` must name each of the {n_bands} bands, got {tuple(bands)}.")
    return tuple(bands)


def common_stamps(source: object, target: object, n_bands: int) -> tuple[np.ndarray, np.ndarray]:
    """Stamps of all bands in double precision, of one edge and unit sum."""
    psfs = [psf if isinstance(psf, AbstractPSF) else ImagePSF(psf) for psf in (source, target)]
    for name, psf in zip(("source", "target"), psfs, strict=True):
        if psf.n_bands not in (1, n_bands):
            raise ValueError(f"`{name}` is a PSF of {psf.n_bands} bands, `matched` of {n_bands}.")
    edge = max(psf.edge for psf in psfs)
    stamps = [np.asarray(ImagePSF(psf.stamp(psf.edge)).stamp(edge), float) for psf in psfs]
    return tuple(np.broadcast_to(stamp, (n_bands, edge, edge)) for stamp in stamps)  # type: ignore[return-value]


def convolved(kernels: np.ndarray, stamps: np.ndarray) -> np.ndarray:
    """K * S on the stamps, in double precision: residuals may be as small as 1e-6."""
    n, k = stamps.shape[-1], kernels.shape[-1]
    size = (n + k, n + k)
    whole = np.fft.irfft2(np.fft.rfft2(stamps, size) * np.fft.rfft2(kernels, size), size)
    return whole[..., k // 2 : k // 2 + n, k // 2 : k // 2 + n]


def places(kernel: SpatialKernel, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Middles of n x n equal tiles of the image."""
    extents = zip(kernel.box.start, kernel.box.shape, strict=True)
    middles = [start + (np.arange(n) + 0.5) * edge / n - 0.5 for start, edge in extents]
    return middles[0], middles[1]


def cropped(stamps: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The middle of all stamps (..., band, k, k) that holds nearly all of the kernels (band, k, k)."""
    edge = like.shape[-1]
    axis = np.abs(np.arange(edge) - edge // 2)
    ring = np.maximum(axis[:, None], axis[None, :])
    weight = np.abs(like).sum(axis=0)
    within = np.array([weight[ring <= half].sum() for half in range(edge // 2 + 1)])
    half = max(int(np.argmax(within >= SHOWN * within[-1])), min(5, edge // 2))
    middle = slice(edge // 2 - half, edge // 2 + half + 1)
    return stamps[..., middle, middle]


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """One image of tiles (row, column, k, k), the first at the bottom, with a line between them."""
    rows, columns, edge, _ = tiles.shape
    framed = np.full((rows, columns, edge + 1, edge + 1), np.nan)
    framed[..., :edge, :edge] = tiles
    return framed.transpose(0, 2, 1, 3).reshape(rows * (edge + 1), columns * (edge + 1))[:-1, :-1]


def term(pair: tuple[int, int], kind: str) -> str:
    """The term of these degrees in y and x, as a formula."""
    chebyshev = kind == "chebyshev"
    factors = [
        (f"T_{{{degree}}}({axis})" if degree > 9 else f"T_{degree}({axis})") if chebyshev else f"{axis}^{{{degree}}}"
        for degree, axis in zip(pair, "yx", strict=True)
        if degree
    ]
    return f"${' '.join(factors) or '1'}$"


def enclosed(stamps: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Sums (..., radius) of stamps (..., n, n) within radii; a pixel on the rim counts by its share across it."""
    axis = np.arange(stamps.shape[-1]) - stamps.shape[-1] // 2
    distance = np.hypot(axis[:, None], axis[None, :])
    share = np.clip(radii[:, None, None] - distance[None] + 0.5, 0, 1)
    return np.einsum("...yx,ryx->...r", stamps, share)
