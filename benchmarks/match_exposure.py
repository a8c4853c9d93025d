"""An exposure whose PSF varies, matched to one: stars and noise before and after.

``python -m benchmarks.match_exposure [--size 1024] [--order 3]`` prints one JSON line: over stars at 50 positions the
largest deviation of FWHM and ellipticity from the reference before and after, and of the flux; the width of the pulls
of the propagated variance; and seconds, the first call with its compilation apart from the second.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxdeblend as jd

EDGE, FLUX, VARIANCE, N_STARS = 41, 1e5, 100.0, 50
REFERENCE = jd.MoffatPSF(4.73, 3.2)


def psf_field(size):
    """Moffat profiles whose width and ellipticity are polynomials of the third order."""

    @jax.jit
    def stamps(y, x):
        y, x = 2 * y / (size - 1) - 1, 2 * x / (size - 1) - 1
        fwhm = 3.5 + 0.3 * x + 0.25 * y + 0.25 * x * y - 0.2 * x**2 + 0.1 * y**3
        return jd.MoffatPSF(fwhm, 3.2, jnp.stack([0.05 * x + 0.03 * y**2, 0.04 * x * y - 0.03 * y])).stamp(EDGE)

    return jd.FunctionPSFField(stamps, EDGE, 1)


def stars(field, size):
    """Image of stars on a shaken grid, and where they are."""
    rng = np.random.default_rng(1)
    steps = np.linspace(EDGE, size - EDGE - 1, 8 if size > 500 else 4)
    spots = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    spots = rng.permutation(spots)[:N_STARS]
    spots = np.clip(np.rint(spots + rng.uniform(-8, 8, spots.shape)).astype(int), EDGE, size - EDGE - 1)
    image, half = np.zeros((1, size, size)), EDGE // 2
    for (y, x), stamp in zip(spots, np.asarray(field.stamps(spots.astype(float))), strict=True):
        image[:, y - half : y + half + 1, x - half : x + half + 1] += FLUX * stamp
    return image, spots


def deviations(image, spots):
    """Largest deviation of FWHM and of |e| from the reference, of Moffat profiles fitted to stars."""
    half = EDGE // 2
    cut = np.stack([image[0, y - half : y + half + 1, x - half : x + half + 1] for y, x in spots])
    fitted = jd.fit_profile(cut, elliptical=True).psf
    width = np.abs(np.asarray(fitted.fwhm()) - float(REFERENCE.fwhm()[0])).max()
    return float(width), float(np.linalg.norm(fitted.ellipticity, axis=-1).max())


def run(size, order):
    field = psf_field(size)
    image, spots = stars(field, size)
    noise = np.random.default_rng(2).normal(0, np.sqrt(VARIANCE), image.shape)
    config = jd.MatchConfig(order=order)

    def matched(images):
        start = time.perf_counter()
        exposure = jd.Exposure(images, [VARIANCE], field, bands=["r"])
        result = jd.match_exposure(exposure, REFERENCE, config)
        return result, time.perf_counter() - start

    clean, first = matched(image)
    noisy, again = matched(image + noise)
    half = EDGE
    fluxes = [
        clean.exposure.images[0, y - half : y + half + 1, x - half : x + half + 1].sum(dtype=float) for y, x in spots
    ]
    pulls = (noisy.exposure.images - clean.exposure.images) / np.sqrt(noisy.exposure.variance)
    before, after = deviations(image, spots), deviations(clean.exposure.images, spots)
    return {
        "size": size,
        "order": order,
        "candidates": len(clean.candidates.positions),
        "fwhm_before": before[0],
        "fwhm_after": after[0],
        "ellipticity_before": before[1],
        "ellipticity_after": after[1],
        "flux_error": float(np.abs(np.array(fluxes) / FLUX - 1).max()),
        "spatial_l2": float(np.max(clean.candidates.spatial.l2)),
        "pull_width": float(pulls[~noisy.exposure.mask].std()),
        "masked": float(noisy.exposure.mask.mean()),
        "seconds_first": first,
        "seconds_again": again,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="edge of the exposure in pixels")
    parser.add_argument("--order", type=int, nargs="*", default=[2, 3, 4], help="orders of the kernel's polynomials")
    options = parser.parse_args(arguments)
    for order in options.order:
        print(json.dumps({key: round(value, 7) for key, value in run(options.size, order).items()}), flush=True)


if __name__ == "__main__":
    main()
