"""Fits to all bands from two starts: expansions, and the templates of the single-band deblender; a JSON line for each.

    python -m benchmarks.handover --set btk_lsst_dev --blends 64

The templates are those of the weighted mean of all bands. They are made without PSFs (``templates``), with PSFs for
sources that pass as such, whose shapes stay free (``psf_templates``), and with PSFs that remain (``fixed_psfs``).
Losses are in units of half the number of pixels, about 1 for a perfect model; flux errors are those of the band i, or
of the middle one, at S/N above 10, before and after the fit.
"""

import argparse
import json
from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np

import jaxdeblend as jd

from .data import find
from .metrics import TruthSet, load_truth_set, score


def from_templates(obs: jd.Observation, centers: np.ndarray, *, fit_psf: bool, fixed_points: bool = False) -> jd.Blend:
    """The start from templates of the mean of all bands."""
    result = jd.deblend_single_band(*jd.one_band(obs), centers, config=jd.SingleBandConfig(fit_psf=fit_psf))
    return jd.initialize_from_templates(obs, result, fixed_points=fixed_points)


STARTS: dict[str, Callable[[jd.Observation, np.ndarray], jd.Blend]] = {
    "expansions": jd.initialize,
    "templates": lambda obs, centers: from_templates(obs, centers, fit_psf=False),
    "psf_templates": lambda obs, centers: from_templates(obs, centers, fit_psf=True),
    "fixed_psfs": lambda obs, centers: from_templates(obs, centers, fit_psf=True, fixed_points=True),
}


@eqx.filter_jit
def seen(blend: jd.Blend, obs: jd.Observation) -> jax.Array:
    """Each source as observed."""
    return jd.render_sources(blend, obs)


def compare(truth: TruthSet, begin: Callable[[jd.Observation, np.ndarray], jd.Blend], rounding: float) -> dict:
    """Fit all blends of a set from one kind of start.

    Parameters
    ----------
    truth
        The set.
    begin
        Makes a first model from an observation and positions.
    rounding
        Positions are rounded to this many pixels; 0: not.

    Returns
    -------
    dict
        What `main` prints.
    """
    centers = truth.centers if rounding == 0 else np.round(truth.centers / rounding) * rounding
    first, last = np.zeros_like(truth.truth), np.zeros_like(truth.truth)
    losses, steps = [], []
    for k in range(len(truth)):
        obs = jd.Observation(truth.images[k], truth.variance[k], truth.psf, bands=truth.bands)
        blend = begin(obs, centers[truth.rows(k)])
        result = jd.fit(blend, obs)
        first[truth.rows(k)], last[truth.rows(k)] = seen(blend, obs), seen(result.blend, obs)
        losses.append((float(result.loss[0]), float(np.nanmin(result.loss))))
        steps.append(int(result.n_steps))
    before, after = score(truth, first), score(truth, last)
    pixels = truth.images[0].size / 2
    return {
        "loss_start": round(float(np.mean([start for start, _ in losses])) / pixels, 4),
        "loss_end": round(float(np.mean([end for _, end in losses])) / pixels, 4),
        "steps_median": float(np.median(steps)),
        "steps_max": max(steps),
        "flux_error_start": round(before["flux_abs_median"], 4),
        "flux_error_end": round(after["flux_abs_median"], 4),
        "beyond_50_percent": round(after["flux_outlier_50pct"], 4),
        "cosine_p10": round(after["cosine_p10"], 4),
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="btk_lsst_dev", help="name of a set in ../shared/data, or a path")
    parser.add_argument("--blends", type=int, help="only the first so many blends")
    parser.add_argument("--rounding", type=float, default=0.2, help="positions are rounded to this many pixels")
    options = parser.parse_args(arguments)
    truth = load_truth_set(find(options.set))
    truth = truth.first(min(len(truth), options.blends or len(truth)))
    for name, begin in STARTS.items():
        print(json.dumps({"start": name, "blends": len(truth)} | compare(truth, begin, options.rounding)), flush=True)


if __name__ == "__main__":
    main()
