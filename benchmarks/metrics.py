"""How good is a deblender, on a set of blends with known truth? NumPy and SciPy only.

The set is an .npz file as written by `jaxdeblend.simulate.save_truth_set`. Names of metrics that begin with
``btk`` follow the LSST DESC Blending ToolKit (arXiv:2409.06986): each image is divided by its own maximum
first, so they see shapes and not fluxes.
"""

import dataclasses
import json
import os

import numpy as np
from scipy.ndimage import uniform_filter

BLENDEDNESS_EDGES = ((0, 0.05), (0.05, 0.3), (0.3, 0.6), (0.6, 1.01))
"""Bins of blendedness, lower edge included."""


@dataclasses.dataclass(frozen=True)
class TruthSet:
    """Blends with the noiseless truth of every source. Rows ``offsets[k]:offsets[k + 1]`` belong to blend k.

    Attributes
    ----------
    images, variance
        Noisy images (blend, band, y, x) and their variance, sky plus the positive part of the image.
    truth
        Noiseless sources (source, band, y, x).
    offsets
        First row of each blend, and the number of rows (blend + 1,).
    psf
        PSF stamps (band, y, x).
    sky_variance
        Sky variance (band,).
    bands
        Names of the bands.
    centers
        True centres (source, 2), (y, x) in pixels.
    snr, blendedness
        Of each source (source, band).
    meta
        What the file says about itself.
    """

    images: np.ndarray
    variance: np.ndarray
    truth: np.ndarray
    offsets: np.ndarray
    psf: np.ndarray
    sky_variance: np.ndarray
    bands: tuple[str, ...]
    centers: np.ndarray
    snr: np.ndarray
    blendedness: np.ndarray
    meta: dict

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> "TruthSet":
        """The first blends of the set."""
        sources = int(self.offsets[count])
        cut = {name: getattr(self, name)[:count] for name in ("images", "variance")}
        cut |= {name: getattr(self, name)[:sources] for name in ("truth", "centers", "snr", "blendedness")}
        return dataclasses.replace(self, offsets=self.offsets[: count + 1], **cut)

    def rows(self, blend: int) -> slice:
        """Rows of the sources of one blend."""
        return slice(int(self.offsets[blend]), int(self.offsets[blend + 1]))


def load_truth_set(path: str | os.PathLike) -> TruthSet:
    """Read a set of blends.

    Parameters
    ----------
    path
        File written by `jaxdeblend.simulate.save_truth_set`, or of that form.

    Returns
    -------
    TruthSet
        The set.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from jaxdeblend.simulate import save_truth_set, simulate_blend
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "set.npz"
    >>> save_truth_set(path, [simulate_blend(1, shape=(32, 32), n_sources=2)])
    >>> len(load_truth_set(path))
    1
    """
    with np.load(path, allow_pickle=False) as file:
        images = (file["blend_q"] * file["blend_step"][:, None, None]).astype(np.float32)
        sky = file["sky_var"]
        return TruthSet(
            images=images,
            variance=np.maximum(images, 0) + sky[:, None, None].astype(np.float32),
            truth=(file["iso_q"] * file["iso_step"][:, None, None]).astype(np.float32),
            offsets=file["offsets"],
            psf=file["psf"],
            sky_variance=sky,
            bands=tuple(str(band) for band in file["bands"]),
            centers=np.stack([file["src_y"], file["src_x"]], -1),
            snr=file["src_snr"],
            blendedness=file["src_blendedness"],
            meta=json.loads(str(file["meta"])),
        )


def score(data: TruthSet, models: np.ndarray, *, band: str | None = None, snr_min: float = 10.0) -> dict:
    """Compare models with the truth in one band, and their g - i colours.

    Parameters
    ----------
    data
        The set.
    models
        Model of each source as observed (source, band, y, x); all zero where there is none.
    band
        Band; by default i, or the middle one.
    snr_min
        Leave out sources of lower S/N.

    Returns
    -------
    dict
        ``band``; ``n`` sources; fractions ``missing`` and ``nonfinite``. With relative flux errors r = (f -
        t) / t: ``flux_median``, ``flux_mad`` (scaled to σ), ``flux_abs_median``, ``flux_outlier_10pct`` and
        ``_50pct``; ``pull_mad`` (in units of the smallest possible error); ``cosine_median``, ``cosine_p10``,
        ``rel_rmse_median`` of the images; ``btk_psnr``, ``btk_ssim``, ``iou_3sigma`` (None if nothing is
        above 3σ); the flux errors by blendedness, ``flux_bl_<from>_<to>``; ``gi_color_median``,
        ``gi_color_mad``. If no source is usable, only the first four.

    Raises
    ------
    ValueError
        If the shape of the models is not that of the truth, or the band is unknown.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from jaxdeblend.simulate import save_truth_set, simulate_blend
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "set.npz"
    >>> save_truth_set(path, [simulate_blend(1, shape=(32, 32), n_sources=2)])
    >>> data = load_truth_set(path)
    >>> score(data, data.truth)["flux_mad"]
    0.0
    """
    models = np.asarray(models)
    if models.shape != data.truth.shape:
        raise ValueError(f"`models` must have the shape of the truth, {data.truth.shape}, got {models.shape}.")
    b = _reference_band(data.bands, band)
    truth, model = data.truth[:, b].astype(float), models[:, b].astype(float)
    broken = np.any(~np.isfinite(model), axis=(1, 2))
    model = np.where(np.isfinite(model), model, 0)
    missing = np.abs(model).sum((1, 2)) == 0
    bright = data.snr[:, b] >= snr_min
    use = bright & ~missing & ~broken
    out = {
        "band": data.bands[b],
        "n": int(bright.sum()),
        "missing": float(missing[bright].mean()) if bright.any() else float("nan"),
        "nonfinite": float(broken[bright].mean()) if bright.any() else float("nan"),
    }
    if not use.any():
        return out
    truth, model, snr = truth[use], model[use], data.snr[use, b]
    error, cosine = relative_flux_error(truth, model), cosine_similarity(truth, model)
    out |= _flux_summary(error, snr) | _image_summary(truth, model, cosine, float(np.sqrt(data.sky_variance[b])))
    out |= _by_blendedness(data.blendedness[use, b], error, cosine)
    return out | _colour_summary(data, models, use, snr_min)


def relative_flux_error(truth: np.ndarray, model: np.ndarray) -> np.ndarray:
    """(f - t) / t of the summed images (..., y, x).

    Examples
    --------
    >>> float(relative_flux_error(np.full((2, 2), 1.0), np.full((2, 2), 1.5)))
    0.5
    """
    total = truth.sum((-2, -1))
    return (model.sum((-2, -1)) - total) / total


def cosine_similarity(truth: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Σ m t / sqrt(Σ m² Σ t²) of images (..., y, x): 1 if they are proportional.

    Examples
    --------
    >>> round(float(cosine_similarity(np.eye(3), 2 * np.eye(3))), 6)
    1.0
    """
    norm = np.sqrt((model**2).sum((-2, -1)) * (truth**2).sum((-2, -1)))
    return (model * truth).sum((-2, -1)) / np.maximum(norm, 1e-30)


def peak_signal_to_noise(truth: np.ndarray, model: np.ndarray) -> float:
    """Peak signal-to-noise ratio of images of range 1 in decibels, -10 log10 mean((m - t)²).

    Infinite if they are equal.

    Examples
    --------
    >>> round(peak_signal_to_noise(np.zeros((4, 4)), np.full((4, 4), 0.1)), 6)
    20.0
    """
    error = float(np.mean((np.asarray(model, float) - truth) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def structural_similarity(truth: np.ndarray, model: np.ndarray, *, window: int = 7) -> float:
    """Mean structural similarity (Wang et al. 2004) of images of range 1, with uniform windows.

    Constants as in the paper, K1 = 0.01 and K2 = 0.03; variances with n - 1; windows that reach over an edge
    left out.

    Examples
    --------
    >>> structural_similarity(np.eye(16), np.eye(16))
    1.0
    """
    truth, model = np.asarray(truth, float), np.asarray(model, float)
    c1, c2 = 0.01**2, 0.03**2
    mean_t, mean_m = uniform_filter(truth, window), uniform_filter(model, window)
    unbiased = window**2 / (window**2 - 1)
    var_t = unbiased * (uniform_filter(truth * truth, window) - mean_t * mean_t)
    var_m = unbiased * (uniform_filter(model * model, window) - mean_m * mean_m)
    covariance = unbiased * (uniform_filter(truth * model, window) - mean_t * mean_m)
    luminance = (2 * mean_t * mean_m + c1) / (mean_t**2 + mean_m**2 + c1)
    structure = (2 * covariance + c2) / (var_t + var_m + c2)
    inner = slice(window // 2, -(window // 2))
    return float(np.mean((luminance * structure)[inner, inner]))


def intersection_over_union(truth: np.ndarray, model: np.ndarray, threshold: float) -> float:
    """Overlap of the regions above a threshold over their union; NaN if both are empty.

    Examples
    --------
    >>> intersection_over_union(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0]), 0.5)
    0.3333333333333333
    """
    a, b = truth > threshold, model > threshold
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else float("nan")


def scaled_mad(values: np.ndarray) -> float:
    """1.4826 times the median absolute deviation from the median; NaN without values.

    Examples
    --------
    >>> scaled_mad(np.array([1.0, 2.0, 3.0]))
    1.4826
    """
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) else float("nan")


def _reference_band(bands: tuple[str, ...], band: str | None) -> int:
    name = band or ("i" if "i" in bands else bands[len(bands) // 2])
    if name not in bands:
        raise ValueError(f"`band` must be one of {bands}, got {name!r}.")
    return bands.index(name)


def _flux_summary(error: np.ndarray, snr: np.ndarray) -> dict:
    return {
        "flux_median": float(np.median(error)),
        "flux_mad": scaled_mad(error),
        "flux_outlier_10pct": float((np.abs(error) > 0.1).mean()),
        "flux_outlier_50pct": float((np.abs(error) > 0.5).mean()),
        "flux_abs_median": float(np.median(np.abs(error))),
        "pull_mad": scaled_mad(error * snr),
    }


def _image_summary(truth: np.ndarray, model: np.ndarray, cosine: np.ndarray, sigma: float) -> dict:
    rmse = np.sqrt(((model - truth) ** 2).sum((1, 2)) / (truth**2).sum((1, 2)))
    pairs = list(zip(_unit_peak(truth), _unit_peak(model), strict=True))
    overlap = np.array([intersection_over_union(t, m, 3 * sigma) for t, m in zip(truth, model, strict=True)])
    overlap = overlap[np.isfinite(overlap)]
    return {
        "cosine_median": float(np.median(cosine)),
        "cosine_p10": float(np.percentile(cosine, 10)),
        "rel_rmse_median": float(np.median(rmse)),
        "btk_psnr": float(np.median([peak_signal_to_noise(t, m) for t, m in pairs])),
        "btk_ssim": float(np.median([structural_similarity(t, m) for t, m in pairs])),
        "iou_3sigma": float(np.median(overlap)) if len(overlap) else None,
    }


def _unit_peak(images: np.ndarray) -> np.ndarray:
    """Positive part of images (source, y, x), each divided by its own maximum."""
    images = np.clip(images, 0, None)
    return images / np.maximum(images.max((1, 2), keepdims=True), 1e-30)


def _by_blendedness(blendedness: np.ndarray, error: np.ndarray, cosine: np.ndarray) -> dict:
    out = {}
    for low, high in BLENDEDNESS_EDGES:
        inside = (blendedness >= low) & (blendedness < high)
        if inside.any():
            out[f"flux_bl_{low}_{min(high, 1)}"] = {
                "n": int(inside.sum()),
                "median": float(np.median(error[inside])),
                "mad": scaled_mad(error[inside]),
                "abs_median": float(np.median(np.abs(error[inside]))),
                "cosine": float(np.median(cosine[inside])),
            }
    return out


def _colour_summary(data: TruthSet, models: np.ndarray, use: np.ndarray, snr_min: float) -> dict:
    if not {"g", "i"} <= set(data.bands):
        return {}
    g, i = data.bands.index("g"), data.bands.index("i")
    flux, true = models.astype(float).sum((2, 3)), data.truth.astype(float).sum((2, 3))
    use = use & (data.snr[:, g] >= snr_min) & (flux[:, g] > 0) & (flux[:, i] > 0)
    error = -2.5 * np.log10(flux[use, g] / flux[use, i]) + 2.5 * np.log10(true[use, g] / true[use, i])
    median = float(np.median(error)) if len(error) else float("nan")
    return {"gi_color_median": median, "gi_color_mad": scaled_mad(error)}
