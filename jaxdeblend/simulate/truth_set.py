"""Store blends of one survey with every source's truth, as benchmarks read them."""

import json
import os
from collections.abc import Sequence

import numpy as np

from .scene import Scene
from .survey import PIXEL_SCALE

_BLEND_LEVELS = 32
"""Quantization levels per standard deviation of the sky, of the images."""

_TRUTH_LEVELS = 128
"""The same, of the sources."""


def truth_set(scenes: Sequence[Scene], *, meta: dict | None = None) -> dict[str, np.ndarray]:
    """Collect blends with the same shape, bands, PSFs and sky into ragged arrays.

    Source s of the flat lists belongs to blend ``src_blend[s]``; those of blend k are rows ``offsets[k]`` to
    ``offsets[k + 1]``. Images are quantized far below the noise: image = integer * step. Blendedness is that
    of Bosch et al. (2018, PASJ 70, S5), 1 - Σ t² / Σ t T for a source t and the sum T of all sources.

    Parameters
    ----------
    scenes
        The blends.
    meta
        Anything JSON can hold, stored as text.

    Returns
    -------
    dict of str to np.ndarray
        ``blend_q`` (blend, band, y, x) with ``blend_step`` (band,), ``iso_q`` (source, band, y, x) with
        ``iso_step``; ``offsets``; ``psf`` and ``psf_nopix`` (both the pixel-integrated stamps); ``sky_var``,
        ``zeropoint``, ``bands``, ``pixel_scale``, ``meta``; per source ``src_blend``, ``src_x``, ``src_y``,
        ``src_mag``, ``src_snr``, ``src_blendedness``, ``src_flux_cat`` (total), ``src_flux_stamp`` (inside
        the image), ``src_hlr`` (arcsec), ``src_kind`` and ``src_e_ksb`` (not measured: NaN).

    Raises
    ------
    ValueError
        If there is no scene or if they differ in what must be shared.

    Examples
    --------
    >>> from jaxdeblend.simulate import simulate_blend
    >>> scenes = [simulate_blend(seed, shape=(32, 32), bands=("g", "i"), n_sources=2) for seed in range(2)]
    >>> truth_set(scenes)["offsets"].tolist()
    [0, 2, 4]
    """
    _check_shared(scenes)
    first = scenes[0]
    sky = first.survey.sky_variance
    truth = np.concatenate([scene.truth for scene in scenes])
    flux = np.concatenate([scene.flux for scene in scenes])
    centers = np.concatenate([scene.centers for scene in scenes])
    counts = [len(scene.truth) for scene in scenes]
    blend_step, iso_step = np.sqrt(sky) / _BLEND_LEVELS, np.sqrt(sky) / _TRUTH_LEVELS
    return {
        "blend_q": _quantize(np.stack([scene.images for scene in scenes]), blend_step),
        "blend_step": blend_step,
        "iso_q": _quantize(truth, iso_step),
        "iso_step": iso_step,
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "psf": first.psf,
        "psf_nopix": first.psf,
        "sky_var": sky,
        "bands": np.array(first.bands),
        "pixel_scale": np.array(PIXEL_SCALE),
        "zeropoint": first.survey.zeropoint,
        "meta": np.array(json.dumps(meta or {})),
        "src_blend": np.repeat(np.arange(len(scenes)), counts),
        "src_x": centers[:, 1],
        "src_y": centers[:, 0],
        "src_mag": first.survey.magnitude(flux),
        "src_flux_cat": flux,
        "src_flux_stamp": truth.sum((2, 3), dtype=float),
        "src_snr": np.concatenate([scene.snr for scene in scenes]),
        "src_blendedness": np.concatenate([blendedness(scene.truth) for scene in scenes]),
        "src_hlr": np.concatenate([scene.radius for scene in scenes]) * PIXEL_SCALE,
        "src_kind": np.array([kind for scene in scenes for kind in scene.kind], dtype="U16"),
        "src_e_ksb": np.full((len(truth), 2), np.nan),
    }


def save_truth_set(path: str | os.PathLike, scenes: Sequence[Scene], *, meta: dict | None = None) -> None:
    """Write `truth_set` to a compressed .npz file, without pickle. The same scenes give the same bytes.

    Parameters
    ----------
    path
        File to write, ending in .npz.
    scenes
        The blends.
    meta
        Anything JSON can hold, stored as text.

    Raises
    ------
    ValueError
        If there is no scene or if they differ in what must be shared.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from jaxdeblend.simulate import simulate_blend
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "set.npz"
    >>> save_truth_set(path, [simulate_blend(1, shape=(32, 32), bands=("i",), n_sources=2)])
    >>> path.exists()
    True
    """
    if not str(path).endswith(".npz"):
        raise ValueError(f"`path` must end in .npz, got {str(path)!r}.")
    np.savez_compressed(path, allow_pickle=False, **truth_set(scenes, meta=meta))


def blendedness(truth: np.ndarray) -> np.ndarray:
    """Blendedness (source, band), 1 - Σ t² / Σ t T, of the sources (source, band, y, x) of one blend.

    Parameters
    ----------
    truth
        Noiseless image of each source.

    Returns
    -------
    np.ndarray
        0 for a source that nothing overlaps, towards 1 for one that is outshone.

    Examples
    --------
    >>> blendedness(np.ones((2, 1, 3, 3)))
    array([[0.5],
           [0.5]])
    """
    truth = np.asarray(truth, float)
    alone = np.sum(truth**2, axis=(2, 3))
    together = np.sum(truth * truth.sum(0), axis=(2, 3))
    return 1 - alone / np.maximum(together, np.finfo(float).tiny)


def _quantize(images: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.rint(images / step[:, None, None]).astype(np.int32)


def _check_shared(scenes: Sequence[Scene]) -> None:
    if not scenes:
        raise ValueError("`scenes` is empty; give at least one scene.")
    first = scenes[0]
    for k, scene in enumerate(scenes):
        same = (
            scene.images.shape == first.images.shape
            and scene.bands == first.bands
            and np.array_equal(scene.psf, first.psf)
            and np.array_equal(scene.survey.sky_variance, first.survey.sky_variance)
        )
        if not same:
            raise ValueError(f"`scenes` must share shape, bands, PSFs and sky, but number {k} differs from number 0.")
