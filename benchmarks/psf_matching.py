"""Kernels between PSFs, of every solver and of photutils, in one table; a JSON line for each row.

    python -m benchmarks.psf_matching
    python -m benchmarks.psf_matching --case K2 --case K4 --results kernels.jsonl

===  ==================================================================================
K1   from model space, a Gaussian of σ = 0.8 pixels, to g and r of HSC, kernels of 43 pixels
K2   from r to g, the narrowest of the real PSFs to the widest
K3   from g to a Moffat profile 1.1 times as wide, as for coadds
K4   as K2, with kernels of 21 pixels
K6   how exactly the sum of the kernels of K2 is 1, in double and in single precision
K7   kernels with few pixels: sum before their values are refitted, error, share of pixels
K8   a PSF that varies over the image: largest error on a 7 × 7 grid for each order
K9   from a Gaussian of σ = 3 to one of 5: the kernel must be one of 4
===  ==================================================================================

``l2``, ``linf``, ``ee`` (error of the encircled energy), ``w_minus``, ``noise_gain`` and ``sum_error`` are those of
`jaxdeblend.psf_match.KernelQuality`, for the full linear convolution, in double precision. Rows of ours that have a
limit to keep say which under ``required``, and ``met`` says whether they do; if one does not, the exit status is 1. The
kernels of photutils are as large as the PSFs; where smaller ones are wanted, they are cropped and normalised.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import photutils
import scipy.optimize
from photutils import psf_matching as peers

import jaxdeblend as jd
from jaxdeblend.psf_match import fit_spatial_kernel, kernel_quality
from jaxdeblend.psf_match.basis import DeltaBasis, GaussianBasis
from jaxdeblend.psf_match.match import find_kernels
from jaxdeblend.psf_match.sparse import Sparse

from .data import find

FIGURES = {
    "l2": "l2",
    "linf": "linf",
    "ee": "encircled_energy",
    "w_minus": "negative_lobe",
    "noise_gain": "noise_gain",
    "sum_error": "sum_error",
}
"""Keys of a line, and the attributes of `KernelQuality` that they are."""

THRESHOLD = 1e-5
"""Of the kernels with few pixels."""

FIELD_EDGE = 41
"""Edge of the PSFs that vary over the image."""

Row = dict[str, object]


@dataclasses.dataclass(frozen=True)
class Case:
    """A pair of PSFs, by their names, and what the kernel of least squares between them must be like."""

    name: str
    source: str
    target: str
    edge: int
    strength: float
    required: dict[str, float]


CASES = [
    Case("K1", "model", "g", 43, 1e-8, {"l2": 5e-5, "ee": 1e-5}),
    Case("K1", "model", "r", 43, 1e-8, {"l2": 5e-5, "ee": 1e-5}),
    Case("K2", "r", "g", 43, 1e-6, {"l2": 1.2e-3, "ee": 5e-5, "w_minus": 0.2}),
    Case("K3", "g", "moffat", 43, 1e-6, {"l2": 1.3e-3, "ee": 2e-4, "w_minus": 0.15}),
    Case("K4", "r", "g", 21, 1e-6, {"l2": 3e-3, "ee": 2e-3}),
    Case("K9", "gaussian 3", "gaussian 5", 43, 1e-6, {"l2": 1e-5, "w_minus": 0.01, "sigma_error": 1e-3}),
]


def load_psfs(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Stamps by name: those of the bands, of model space, and of the analytic targets.

    Parameters
    ----------
    path
        An .npz file with ``filters``, g and r among them, and ``psfs`` (band, y, x).

    Returns
    -------
    dict of str to np.ndarray
        Stamps (y, x) of unit sum in double precision.
    """
    with np.load(path, allow_pickle=False) as data, jax.enable_x64(True):
        bands = dict(zip(map(str, data["filters"]), jd.ImagePSF(np.asarray(data["psfs"], float)).stamps, strict=True))
        edge = len(bands["g"])
        analytic = {"model": jd.GaussianPSF(0.8).stamp(edge), "moffat": jd.coadd_target(bands["g"]).stamp(edge)}
        analytic |= {f"gaussian {sigma}": jd.GaussianPSF(sigma).stamp(51) for sigma in (3, 5)}
        return bands | {name: np.asarray(stamps)[0] for name, stamps in analytic.items()}


# ------------------------------------------------------------------------------------------------------- one PSF to one


def solvers(strength: float) -> Mapping[str, tuple[float | None, jd.AbstractSolver]]:
    """Every solver by name, and its λ if it is set here; the first must keep the limits."""
    found = {"lsq": (strength, jd.LeastSquares(strength))}
    found |= {f"fourier {value:g}": (value, jd.Fourier(value)) for value in (1e-4, 1e-6, 1e-8)}
    found["fourier 1e-06 no taper"] = (1e-6, jd.Fourier(1e-6, taper=0))
    found |= {f"basis {n}": (None, GaussianBasis.preset(n)) for n in (27, 49, 77)}
    return found | {"delta": (None, DeltaBasis()), "sparse": (1e-6, Sparse(THRESHOLD))}


def photutils_kernels() -> dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """What photutils offers, by name: ratios with every window, and Wiener filters."""
    windows = {
        "": None,
        " SplitCosineBell(.35, .3)": peers.SplitCosineBellWindow(0.35, 0.3),
        " Hanning": peers.HanningWindow(),
        " Tukey(.4)": peers.TukeyWindow(0.4),
        " CosineBell(.35)": peers.CosineBellWindow(0.35),
        " TopHat(.35)": peers.TopHatWindow(0.35),
    }
    found = {f"photutils ratio{name}": _ratio(window=window) for name, window in windows.items()}
    for penalty in (None, "laplacian", "biharmonic"):
        for strength in (1e-4, 1e-6):
            name = f"photutils wiener {penalty or 'constant'} {strength:g}"
            found[name] = _wiener(regularization=strength, penalty=penalty)
    return found | {"photutils wiener 1e-4 Hanning": _wiener(window=peers.HanningWindow())}


def _ratio(**options) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda source, target: peers.make_kernel(source, target, **options)


def _wiener(**options) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda source, target: peers.make_wiener_kernel(source, target, **options)


def pair_rows(case: Case, psfs: dict[str, np.ndarray]) -> Iterator[Row]:
    """Lines of all methods for one pair."""
    source, target = psfs[case.source], psfs[case.target]
    for method, (strength, solver) in solvers(case.strength).items():
        kernel, seconds = _timed(lambda solver=solver: _ours(source, target, solver, case.edge))
        row = _row(case, method, kernel, source, target) | {"lambda": strength, "seconds": seconds}
        yield _judged(row, case.required if method == "lsq" else {})
    for method, make in photutils_kernels().items():
        kernel, seconds = _timed(lambda make=make: make(source, target))
        kernel = _cropped(kernel, case.edge)
        yield _row(case, method, kernel, source, target) | {"seconds": seconds, "version": photutils.__version__}


def _ours(source: np.ndarray, target: np.ndarray, solver: jd.AbstractSolver, edge: int) -> np.ndarray:
    """The kernel that a user gets in double precision, also where it is cut off or deconvolves."""
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        matched = jd.match_psf(source, target, method=solver, edge=edge, allow_deconvolution=True)
        return np.asarray(matched.kernel.image)[0]


def _timed(call: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """A kernel, and the seconds for it when everything is compiled, the least of three calls."""
    kernel, times = call(), []
    for _ in range(3):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return kernel, round(min(times), 4)


def _cropped(kernel: np.ndarray, edge: int) -> np.ndarray:
    margin = (len(kernel) - edge) // 2
    inner = kernel[margin : margin + edge, margin : margin + edge]
    return inner / inner.sum()


def _row(case: Case, method: str, kernel: np.ndarray, source: np.ndarray, target: np.ndarray) -> Row:
    """The figures of a kernel."""
    with jax.enable_x64(True):
        quality = jax.jit(kernel_quality)(*(jnp.asarray(stamp, dtype=float) for stamp in (kernel, source, target)))
    row: Row = {"case": case.name, "source": case.source, "target": case.target, "method": method}
    row["kernel_size"] = len(kernel)
    row |= {key: float(f"{float(getattr(quality, figure)):.3g}") for key, figure in FIGURES.items()}
    if method == "sparse":
        row["pixels"] = round(float(np.mean(kernel != 0)), 3)
    if case.name == "K9":
        row["sigma"] = fitted_sigma(kernel)
        row["sigma_error"] = abs(row["sigma"] - 4)
    return row


def fitted_sigma(kernel: np.ndarray) -> float:
    """σ of the circular Gaussian, sampled at the pixels, that fits a kernel best; NaN if none does.

    Parameters
    ----------
    kernel
        Kernel of odd edge.

    Returns
    -------
    float
        σ in pixels.

    Examples
    --------
    >>> offset = np.arange(21) - 10
    >>> profile = np.exp(-0.5 * (offset / 2.5) ** 2)
    >>> round(fitted_sigma(profile[:, None] * profile), 6)
    2.5
    """
    offset = np.arange(len(kernel)) - len(kernel) // 2
    r2 = (offset[:, None] ** 2 + offset**2).ravel()
    try:
        (_, sigma), _ = scipy.optimize.curve_fit(
            lambda r2, peak, sigma: peak * np.exp(-0.5 * r2 / sigma**2), r2, kernel.ravel(), (kernel.max(), 3.0)
        )
    except RuntimeError:
        return math.nan
    return abs(float(sigma))


def _judged(row: Row, required: dict[str, float]) -> Row:
    """The line, and whether it keeps its limits."""
    if not required:
        return row
    met = all(abs(float(row[key])) <= limit for key, limit in required.items())  # type: ignore[arg-type]
    return row | {"required": required, "met": met}


# ------------------------------------------------------------------------------------------------------ the other cases


def sum_rows(psfs: dict[str, np.ndarray]) -> Iterator[Row]:
    """K6: how exactly ΣK = 1, for every solver."""
    source, target = psfs["r"], psfs["g"]
    for method, (_, solver) in solvers(1e-6).items():
        double = _ours(source, target, solver, 43)
        single = _in_single_precision(source, target, solver, 43)
        for precision, kernel, limit in (("float64", double, 1e-12), ("float32", single, 1e-6)):
            error = float(np.sum(kernel, dtype=np.float64) - 1)
            row: Row = {"case": "K6", "source": "r", "target": "g", "method": method, "kernel_size": 43}
            yield _judged(row | {"precision": precision, "sum_error": error}, {"sum_error": limit})


def _in_single_precision(source: np.ndarray, target: np.ndarray, solver: jd.AbstractSolver, edge: int) -> np.ndarray:
    """The kernel of a solver that has but single precision, as inside of a transformation."""
    stamps = (jnp.asarray(stamp, jnp.float32) for stamp in (source, target))
    return np.asarray(jax.jit(lambda s, t: solver.solve(s, t, edge).kernel)(*stamps))


def sparse_rows(psfs: dict[str, np.ndarray], bands: list[str]) -> Iterator[Row]:
    """K7: kernels with few pixels, from model space to every band and from r to g."""
    required = {"sum_error_before": 5e-4, "l2": 2e-3, "pixels": 0.5}
    for source, target in [("model", band) for band in bands] + [("r", "g")]:
        case = Case("K7", source, target, 43, 1e-6, required)
        pair = psfs[source], psfs[target]
        before = _ours(*pair, Sparse(THRESHOLD, refit=False), case.edge)
        kernel, seconds = _timed(lambda pair=pair: _ours(*pair, Sparse(THRESHOLD), 43))
        row = _row(case, "sparse", kernel, *pair) | {"seconds": seconds, "sum_error_before": float(before.sum() - 1)}
        yield _judged(row, required)


def varying_stamps(positions: np.ndarray) -> np.ndarray:
    """Moffat profiles of β = 3.2 whose width and ellipticity vary with position.

    Parameters
    ----------
    positions
        (y, x) in [-1, 1].

    Returns
    -------
    np.ndarray
        Stamps (position, y, x).
    """
    y, x = positions.T
    fwhm = 3.5 + 0.3 * x + 0.25 * y + 0.25 * x * y - 0.2 * x**2 + 0.1 * y**3
    shape = np.stack([0.05 * x + 0.03 * y**2, 0.04 * x * y - 0.03 * y], axis=-1)
    return np.asarray(jd.MoffatPSF(fwhm, 3.2, shape).stamp(FIELD_EDGE))


def field_rows() -> Iterator[Row]:
    """K8: the worst kernel on a grid that reaches the corners, for polynomials fitted to 8 × 8 others."""
    required = {("basis 27", 3): 1.2e-2, ("basis 77", 4): 3e-3}
    box, half = jd.Box((0, 0), (201, 201)), 100.0
    cells, test = (_grid(n) for n in ((np.arange(8) + 0.5) / 4 - 1, np.linspace(-1, 1, 7)))
    methods = {"lsq": jd.LeastSquares()} | {f"basis {n}": GaussianBasis.preset(n) for n in (27, 77)}
    with jax.enable_x64(True):
        target = np.asarray(jd.MoffatPSF(4.73, 3.2).stamp(FIELD_EDGE))
        source, seen = varying_stamps(cells), jnp.asarray(varying_stamps(test))
        for method, solver in methods.items():
            kernels = np.asarray(find_kernels(source, target, solver, 31, 1.0)[0])[:, None]
            for order in range(5):
                kernel = fit_spatial_kernel(half + half * cells, kernels, box, order=order)
                quality = jax.vmap(kernel_quality, in_axes=(0, 0, None))
                worst = quality(kernel.at(half + half * test)[:, 0], seen, jnp.asarray(target[0]))
                row: Row = {"case": "K8", "source": "varying", "target": "moffat 4.73", "method": method}
                row |= {"kernel_size": 31, "order": order} | _worst(worst)
                limit = required.get((method, order))
                yield _judged(row, {} if limit is None else {"l2": limit})


def _grid(nodes: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)


def _worst(quality: jd.KernelQuality) -> Row:
    """The figure of largest size of all positions."""
    figures = {key: np.asarray(getattr(quality, figure)) for key, figure in FIGURES.items()}
    return {key: float(f"{values[np.abs(values).argmax()]:.3g}") for key, values in figures.items()}


def all_rows(path: pathlib.Path, wanted: set[str]) -> Iterator[Row]:
    """Lines of the wanted cases, one after the other."""
    psfs = load_psfs(path)
    with np.load(path, allow_pickle=False) as data:
        bands = [str(band) for band in data["filters"]]
    for case in CASES:
        if case.name in wanted:
            yield from pair_rows(case, psfs)
    others = {"K6": lambda: sum_rows(psfs), "K7": lambda: sparse_rows(psfs, bands), "K8": field_rows}
    for name, rows in others.items():
        if name in wanted:
            yield from rows()


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({case.name for case in CASES} | {"K6", "K7", "K8"})
    parser.add_argument("--data", default="hsc_cosmos_35", help="name of a file in ../shared/data, or a path")
    parser.add_argument("--case", action="append", choices=names, help="only these cases; repeat for more")
    parser.add_argument("--results", type=pathlib.Path, help="file that gets the lines, too")
    arguments = parser.parse_args(argv)
    rows = []
    for row in all_rows(find(arguments.data), set(arguments.case or names)):
        print(json.dumps(row), flush=True)
        rows.append(row)
    if arguments.results is not None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        arguments.results.write_text(text, encoding="utf-8")
    if not all(row.get("met", True) for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
