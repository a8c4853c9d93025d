"""Points at sub-pixel positions, against profiles that are integrated over the pixels by SciPy or Gauss–Legendre."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import jaxdeblend as jd
from jaxdeblend.instrument.point_spread import PointSpread

SHAPE = (47, 49)
OFFSETS = np.random.default_rng(3).uniform(-0.5, 0.5, (17, 2))
POSITIONS = [(23.0, 24.0), (23.5, 24.5), (23.5, 24.0), *(OFFSETS + (23, 24))]
NODES, WEIGHTS = (values / 2 for values in np.polynomial.legendre.leggauss(12))


def gaussian(shape, center, fwhm):
    sigma = fwhm / 2.354820045
    axes = [np.arange(n) - c for n, c in zip(shape, center, strict=True)]
    y, x = (0.5 * (erf((a + 0.5) / sigma / 2**0.5) - erf((a - 0.5) / sigma / 2**0.5)) for a in axes)
    return y[:, None] * x[None, :]


def moffat(shape, center, fwhm, beta=4.765):
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    y, x = (((np.arange(n) - c)[:, None] + NODES).ravel() for n, c in zip(shape, center, strict=True))
    values = (1 + (y[:, None] ** 2 + x[None, :] ** 2) / alpha**2) ** -beta * (beta - 1) / np.pi / alpha**2
    weighted = values * np.tile(WEIGHTS, shape[0])[:, None] * np.tile(WEIGHTS, shape[1])[None, :]
    return weighted.reshape(shape[0], 12, shape[1], 12).sum(axis=(1, 3))


def wide_moffat(shape, center, fwhm):
    return moffat(shape, center, fwhm, beta=3.0)


def observe(profile, fwhms, edge=25):
    stamps = np.stack([profile((edge, edge), (edge // 2, edge // 2), fwhm) for fwhm in fwhms])
    n_bands = len(fwhms)
    return jd.Observation(np.zeros((n_bands, *SHAPE)), np.ones(n_bands), stamps, bands=[str(k) for k in range(n_bands)])


@eqx.filter_jit
def point(obs, center):
    flux = jnp.ones((1, len(obs.bands)))
    return obs.draw_points(center[None], flux)[:, :, :]


@pytest.mark.parametrize(
    ("profile", "fwhms", "tolerance"),
    [
        (gaussian, (1.8, 2.0, 2.5, 3.3, 5.0), 1e-4),
        (gaussian, (1.2, 1.4), 1e-3),
        (wide_moffat, (2.5, 3.5, 5.0), 1e-4),
        (wide_moffat, (1.2, 1.8), 1e-3),
        (moffat, (1.8, 2.5, 3.5, 5.0), 1e-4),
        (moffat, (1.2, 1.4), 1e-3),
    ],
)
def test_points_are_where_they_should_be(profile, fwhms, tolerance):
    obs = observe(profile, fwhms, edge=61).prepared()
    light = [profile((61, 61), (30, 30), fwhm).sum() for fwhm in fwhms]  # a stamp says nothing about the rest
    for center in POSITIONS:
        image = np.asarray(point(obs, jnp.asarray(center, dtype=float)))
        for band, fwhm in enumerate(fwhms):
            truth = profile(SHAPE, center, fwhm) / light[band]
            assert np.abs(image[band] - truth).max() < tolerance * truth.max(), (fwhm, center)


def test_render_draws_points_so():
    obs = observe(gaussian, (1.8, 2.1))
    blend = jd.Blend.of([jd.PointSource((23.3, 24.8), [3.0, 5.0])], frame=SHAPE)
    expected = [flux * gaussian(SHAPE, (23.3, 24.8), fwhm) for flux, fwhm in ((3.0, 1.8), (5.0, 2.1))]
    for image in (jd.render(blend, obs), jd.render_sources(blend, obs)[0]):
        np.testing.assert_allclose(image, expected, atol=1e-4 * np.max(expected))


def test_padding_of_the_psf_changes_nothing():
    stamp = jnp.asarray(moffat((21, 21), (10, 10), 3.0))[None]
    stamp = stamp / stamp.sum()
    padded = jnp.pad(stamp, ((0, 0), (6, 6), (6, 6)))
    center, flux = jnp.array([[23.3, 24.1]]), jnp.ones((1, 1))
    image = PointSpread.of(stamp, SHAPE).draw(center, flux, SHAPE)
    other = PointSpread.of(padded, SHAPE, known_edge=jnp.asarray(21)).draw(center, flux, SHAPE)
    np.testing.assert_allclose(image, other, atol=2e-5 * float(image.max()))


def test_the_derivative_is_that_of_the_profile():
    obs = observe(gaussian, (2.5,)).prepared()
    weights = np.random.default_rng(5).normal(size=(1, *SHAPE))

    def value(center):
        image = obs.draw_points(center[None], jnp.ones((1, 1)))
        return jnp.sum(image * jnp.asarray(weights, image.dtype))

    gradient = jax.jit(jax.grad(value))(jnp.array([23.3, 24.2]))
    step = 1e-3
    for axis in (0, 1):
        shift = step * np.eye(2)[axis]
        ahead, behind = (gaussian(SHAPE, np.array([23.3, 24.2]) + sign * shift, 2.5) for sign in (1, -1))
        expected = np.sum(weights[0] * (ahead - behind)) / (2 * step)
        np.testing.assert_allclose(gradient[axis], expected, rtol=2e-3, atol=1e-3)
