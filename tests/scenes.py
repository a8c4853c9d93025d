"""Analytic scenes: Gaussian stars and galaxies under a Gaussian PSF, integrated over the pixels by error functions."""

import numpy as np
from scipy.stats import norm

import jaxdeblend as jd

PSF_SIGMA = 1.4
SHAPE = (31, 27)
CENTERS = np.array([(8.3, 7.6), (9.1, 17.2), (20.4, 9.3), (21.2, 18.7)])
SIGMAS = (0.0, 1.8, 1.2, 0.0)
"""σ of each source before the PSF: stars and round galaxies."""
FLUXES = np.array([(900.0, 500.0), (2500.0, 3000.0), (1500.0, 800.0), (400.0, 900.0)])


def gaussian(shape, center, sigma):
    """Unit-flux round Gaussian, integrated over the pixels."""
    edges = [np.arange(n + 1) - 0.5 for n in shape]
    rows, columns = (np.diff(norm.cdf(edge, c, sigma)) for edge, c in zip(edges, center, strict=True))
    return rows[:, None] * columns[None, :]


def sky(shape=SHAPE, centers=CENTERS, sigmas=SIGMAS, fluxes=FLUXES, psf_sigma=PSF_SIGMA):
    """Images (band, y, x) of round Gaussian sources without noise."""
    shapes = [gaussian(shape, c, np.hypot(psf_sigma, s)) for c, s in zip(centers, sigmas, strict=True)]
    return np.einsum("nb,nyx->byx", np.asarray(fluxes), shapes)


def observe(images, rms=1.0, **options):
    """Observation of images (band, y, x) of known noise under the scenes' PSF."""
    bands = tuple("grizy"[: len(images)])
    psf = options.pop("psf", jd.GaussianPSF(PSF_SIGMA))
    return jd.Observation(images, np.full(len(images), rms**2), psf, bands=bands, **options)


def fluxes_of(blend):
    """Fluxes (source, band) of a blend."""
    return np.array([source.flux for source in blend.sources])
