"""Weights where the noise is below the error of any drawn model."""

import numpy as np

import jaxdeblend as jd
from jaxdeblend.instrument.accuracy import within_accuracy

PSF = jd.GaussianPSF(1.5)


def observation(brightest, variance=1.0, mask=None):
    images = np.ones((2, 9, 9))
    images[0, 4, 4] = brightest
    return jd.Observation(images, np.full(images.shape, variance), PSF, bands=("g", "r"), mask=mask)


def test_weights_of_usual_images_stay():
    obs = observation(3e3)
    assert within_accuracy(obs) is obs


def test_the_error_of_the_model_adds_to_the_variance_of_its_band():
    weights = np.asarray(within_accuracy(observation(4e5, variance=2.0)).weights)
    np.testing.assert_allclose(1 / weights[0], 2.0 + (2e-5 * 4e5) ** 2, rtol=0.1)
    np.testing.assert_allclose(1 / weights[1], 2.0, rtol=1e-6)


def test_unusable_pixels_say_nothing_and_stay_unusable():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    obs = observation(1e9, mask=mask)
    assert within_accuracy(obs) is obs
    bright = np.asarray(within_accuracy(observation(1e9)).weights)
    assert (bright > 0).all()
