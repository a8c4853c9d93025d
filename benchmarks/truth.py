"""Flux, colour and shape of deblended sources against known truth; one JSON line.

    python -m benchmarks.truth --set btk_lsst_dev
    python -m benchmarks.truth --set asymmetric.npz --no-symmetry
    python -m benchmarks.truth --set btk_lsst_dev --method single-band

The keys are those of `benchmarks.metrics.score`, then what was lost, how the fits ended, and the time. Other methods
than the fit to all bands take each band for itself: templates, or the segments of photutils.
"""

import argparse
import json
import time

import numpy as np

import jaxdeblend as jd

from .data import find
from .metrics import TruthSet, load_truth_set, score


def options_of(arguments: argparse.Namespace) -> jd.Initialization:
    """Initialization with what the command line changes."""
    changes = {}
    if arguments.no_symmetry:
        changes["priors"] = ()
    elif arguments.asymmetry is not None:
        changes["priors"] = (jd.SymmetricPrior(arguments.asymmetry, arguments.floor),)
    if arguments.max_components is not None:
        changes["max_components"] = arguments.max_components
    if arguments.threshold is not None:
        constraints = [jd.Positive(), jd.Monotonic(), jd.SparseThreshold(arguments.threshold), jd.CenterKept()]
        changes["constraints"] = tuple(constraints)
    return jd.Initialization(**changes)


def deblend_set(
    truth: TruthSet,
    options: jd.Initialization,
    optimizer: jd.ProximalAdam,
    *,
    rounding: float = 0.2,
    center_error: float = 0.1,
) -> dict:
    """Deblend all blends of a set from their true positions, and compare with the truth.

    Parameters
    ----------
    truth
        The set.
    options, optimizer
        Settings of the fit.
    rounding
        Positions are rounded to this many pixels; 0: not.
    center_error
        1σ error of the positions that the fit is told, in pixels.

    Returns
    -------
    dict
        The metrics of `benchmarks.metrics.score`, then losses, steps, statuses and the time.
    """
    centers = truth.centers if rounding == 0 else np.round(truth.centers / rounding) * rounding
    blends = [
        (jd.Observation(truth.images[k], truth.variance[k], truth.psf, bands=truth.bands), centers[truth.rows(k)])
        for k in range(len(truth))
    ]
    began = time.perf_counter()
    results = jd.deblend_batch(blends, center_error=center_error, options=options, optimizer=optimizer)
    elapsed = time.perf_counter() - began
    models = np.zeros_like(truth.truth)
    for k, result in enumerate(results):
        models[truth.rows(k)] = result.source_models
    steps = [int(result.n_steps) for result in results]
    return score(truth, models) | {
        "blends": len(truth),
        "sources": len(truth.truth),
        "steps_median": float(np.median(steps)),
        "steps_max": int(np.max(steps)),
        "statuses": {status.name: sum(result.result is status for result in results) for status in jd.RESULTS},
        "lost": sum(len(blend[1]) - len(result.blend.sources) for blend, result in zip(blends, results, strict=True)),
        "seconds_with_compilation": round(elapsed, 2),
    }


def deblend_bands(truth: TruthSet, method: str, *, rounding: float = 0.2) -> dict:
    """Deblend every band of all blends for itself, from the true positions, and compare with the truth.

    Parameters
    ----------
    truth
        The set.
    method
        ``"single-band"``, templates (`jaxdeblend.deblend_single_band`), or ``"photutils"``, segments of the image. A
        segment belongs to the brightest of the sources that lie on it, and the others have none.
    rounding
        Positions are rounded to this many pixels; 0: not.

    Returns
    -------
    dict
        The metrics, the number of sources without a child in the reference band, and the time.
    """
    centers = truth.centers if rounding == 0 else np.round(truth.centers / rounding) * rounding
    children = {"single-band": _templates, "photutils": _segments}[method]
    models = np.zeros_like(truth.truth)
    began = time.perf_counter()
    for band in range(len(truth.bands)):
        for k, images in enumerate(children(truth, band, centers)):
            models[truth.rows(k), band] = images
    elapsed = time.perf_counter() - began
    reference = truth.bands.index("i") if "i" in truth.bands else len(truth.bands) // 2
    return score(truth, models) | {
        "blends": len(truth),
        "sources": len(truth.truth),
        "lost": int((np.abs(models[:, reference]).sum(axis=(1, 2)) == 0).sum()),
        "seconds_with_compilation": round(elapsed, 2),
    }


def _templates(truth: TruthSet, band: int, centers: np.ndarray) -> list[np.ndarray]:
    """Children of templates, of every blend."""
    psf = truth.psf[band]
    blends = [(truth.images[k, band], truth.variance[k, band], psf, centers[truth.rows(k)]) for k in range(len(truth))]
    return [result.children for result in jd.deblend_single_band_batch(blends)]


def _segments(truth: TruthSet, band: int, centers: np.ndarray) -> list[np.ndarray]:
    """What photutils cuts out, with its usual settings, for the source that each segment belongs to."""
    from photutils.segmentation import deblend_sources, detect_sources
    from scipy.signal import fftconvolve

    found = []
    for k in range(len(truth)):
        image, rows = truth.images[k, band].astype(float), truth.rows(k)
        smooth = fftconvolve(image, truth.psf[band], mode="same")
        level = 1.5 * np.sqrt(truth.sky_variance[band] * (truth.psf[band] ** 2).sum())
        segments = detect_sources(smooth, level, n_pixels=5)
        if segments is not None:
            segments = deblend_sources(smooth, segments, n_pixels=5, progress_bar=False)
        labels = np.zeros(image.shape, int) if segments is None else segments.data
        at = np.clip(np.rint(centers[rows]).astype(int), 0, np.array(image.shape) - 1)
        own, taken = labels[at[:, 0], at[:, 1]], set()
        children = np.zeros((len(at), *image.shape))
        for source in np.argsort(-truth.truth[rows, band].sum(axis=(1, 2))):
            if own[source] and own[source] not in taken:
                taken.add(own[source])
                children[source] = np.where(labels == own[source], image, 0.0)
        found.append(children)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="btk_lsst_dev", help="name of a set in ../shared/data, or a path")
    parser.add_argument(
        "--method", choices=["multi-band", "single-band", "photutils"], default="multi-band", help="what deblends"
    )
    parser.add_argument("--blends", type=int, help="only the first so many blends")
    parser.add_argument("--rounding", type=float, default=0.2, help="positions are rounded to this many pixels")
    parser.add_argument("--max-steps", type=int, help="largest number of steps")
    parser.add_argument("--no-symmetry", action="store_true", help="without the symmetry prior")
    parser.add_argument("--asymmetry", type=float, help="σ_a of the symmetry prior")
    parser.add_argument("--floor", type=float, default=0.5, help="floor of the symmetry prior, with --asymmetry")
    parser.add_argument("--threshold", type=float, help="level of the sparse threshold")
    parser.add_argument("--max-components", type=int, help="1, or 2 for bulge and disk")
    parser.add_argument("--center-error", type=float, default=0.1, help="1σ error of the positions in pixels")
    arguments = parser.parse_args()
    truth = load_truth_set(find(arguments.set))
    truth = truth.first(min(len(truth), arguments.blends or len(truth)))
    if arguments.method != "multi-band":
        report = deblend_bands(truth, arguments.method, rounding=arguments.rounding)
        print(json.dumps(report | {"set": arguments.set, "method": arguments.method, "version": jd.__version__}))
        return
    optimizer = jd.ProximalAdam() if arguments.max_steps is None else jd.ProximalAdam(max_steps=arguments.max_steps)
    report = deblend_set(
        truth,
        options_of(arguments),
        optimizer,
        rounding=arguments.rounding,
        center_error=arguments.center_error,
    )
    print(json.dumps(report | {"set": arguments.set, "version": jd.__version__}))


if __name__ == "__main__":
    main()
