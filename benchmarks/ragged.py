"""Sets of blends for the benchmarks of speed: observations, positions and true fluxes."""

import dataclasses
import pathlib

import numpy as np

import jaxdeblend as jd

from .metrics import load_truth_set


@dataclasses.dataclass(frozen=True)
class Case:
    """One blend.

    Attributes
    ----------
    obs
        Observation.
    centers
        Positions (source, 2) as a detection would give them.
    center_error
        Their 1σ error per axis in pixels.
    truth
        True flux of each source (source, band).
    snr
        Signal-to-noise ratio of each source (source, band).
    """

    obs: jd.Observation
    centers: np.ndarray
    center_error: float
    truth: np.ndarray
    snr: np.ndarray


def load_cases(path: pathlib.Path) -> list[Case]:
    """Read a set: one written by `jaxdeblend.simulate.save_truth_set`, or one of ragged blends (``b000_images`` …).

    Parameters
    ----------
    path
        The .npz file.

    Returns
    -------
    list of Case
        Its blends. Positions are true ones rounded to 0.2 pixels, or, in a ragged set, the integer peaks.
    """
    with np.load(path, allow_pickle=False) as file:
        if "b000_images" in file.files:
            return _ragged(file)
    truth = load_truth_set(path)
    centers = np.round(truth.centers / 0.2) * 0.2
    fluxes = truth.truth.sum(axis=(-2, -1))
    return [
        Case(
            jd.Observation(truth.images[k], truth.variance[k], truth.psf, bands=truth.bands),
            centers[truth.rows(k)],
            0.1,
            fluxes[truth.rows(k)],
            truth.snr[truth.rows(k)],
        )
        for k in range(len(truth))
    ]


def _ragged(file: np.lib.npyio.NpzFile) -> list[Case]:
    bands = [str(band) for band in file["bands"]]
    names = sorted(name.removesuffix("_images") for name in file.files if name.endswith("_images"))
    return [
        Case(
            jd.Observation(file[f"{b}_images"], file[f"{b}_variance"], file[f"{b}_psfs"], bands=bands),
            file[f"{b}_peaks"],
            0.3,  # of a position rounded to whole pixels, 1 / √12
            file[f"{b}_truth"],
            file[f"{b}_snr"],
        )
        for b in names
    ]


def flux_error(cases: list[Case], fluxes: list[np.ndarray], *, snr_min: float) -> float:
    """Median relative error of the flux in the i band, or the middle one, of sources above an S/N; lost ones count.

    Parameters
    ----------
    cases
        The blends.
    fluxes
        Measured flux of each source (source, band) of each blend; one that is not finite is infinitely wrong.
    snr_min
        Signal-to-noise ratio in that band.
    """
    errors = []
    for case, flux in zip(cases, fluxes, strict=True):
        bands = case.obs.bands
        b = bands.index("i") if "i" in bands else len(bands) // 2
        bright = case.snr[:, b] > snr_min
        error = np.abs(flux[bright, b] / case.truth[bright, b] - 1)
        errors.append(np.where(np.isfinite(error), error, np.inf))
    return float(np.median(np.concatenate(errors)))
