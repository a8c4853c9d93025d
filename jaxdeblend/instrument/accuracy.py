"""Count the error of drawn models as noise, where pixels are known better than any model is drawn."""

import equinox as eqx
import numpy as np

from .observation import Observation, narrowest_sigma

ALIASED = 1.1e-2
"""Error of a model on pixels around a source, in units of the brightest one and of the power that the PSF of model
space has at the Nyquist frequency. With it, `benchmarks.bias` finds the fluxes of galaxies of S/N 10³ to 10⁵ right to
.4 % for FWHM from 1.6 to 5 px."""

NEGLIGIBLE = 0.01
"""Share of the variance below which this error is left out."""


def within_accuracy(obs: Observation) -> Observation:
    """The observation with smaller weights where the noise is below the error of any model.

    Interpolated stamps and kernels leave 2 · 10⁻⁵ of the brightest pixel around a source; 10⁻⁴ and more if model space
    is narrower than usual. Noise that follows the light differs by a factor of 10⁴ between the core of a galaxy of S/N
    10⁵ and the dark pixels around it, and a fit would give up the core for these.
    """
    images, weights = np.asarray(obs.images), np.asarray(obs.weights)
    # a Gaussian's transform at the Nyquist frequency is exp(-π² σ² / 2)
    error = ALIASED * np.exp(-((np.pi * narrowest_sigma(obs.model_psf)) ** 2))
    brightest = np.where(weights > 0, images, 0.0).max(axis=(-2, -1), keepdims=True)
    share = weights * (error * brightest) ** 2
    if share.max(initial=0.0) < NEGLIGIBLE:
        return obs
    return eqx.tree_at(lambda o: o.weights, obs, (weights / (1 + share)).astype(weights.dtype))
