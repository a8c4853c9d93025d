import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import multivariate_normal

from jaxdeblend.fitting.expansion import band_weights, expand
from tests.scenes import CENTERS, FLUXES, PSF_SIGMA, gaussian, observe, sky

WIDTHS = jnp.array([0.85, 1.7, 3.4])


def test_bands_are_weighted_by_their_noise():
    obs = observe(np.zeros((3, 9, 9)), mask=np.stack([np.zeros((9, 9)), np.zeros((9, 9)), np.ones((9, 9))]) > 0)
    obs = type(obs)(obs.images, [1.0, 4.0, 1.0], obs.psf, bands=obs.bands, mask=obs.weights == 0)
    np.testing.assert_allclose(band_weights(obs), [0.8, 0.2, 0.0], rtol=1e-6)
    assert not np.any(band_weights(type(obs)(obs.images, [0.0, 0.0, 0.0], obs.psf, bands=obs.bands)))


@pytest.fixture(scope="module")
def expansion():
    centers = jnp.asarray(np.vstack([CENTERS, [(15.0, 13.0)]]), dtype=float)
    active = jnp.array([True, True, True, True, False])
    errors = jnp.full(5, 0.1)
    compiled = eqx.filter_jit(lambda obs: expand(obs, centers, errors, active, 23, WIDTHS, sparsity=1.0, passes=2))
    return np.asarray(compiled(observe(sky()))[0])


def test_expansions_share_the_light(expansion):
    total = expansion.sum(axis=(-2, -1))
    np.testing.assert_allclose(total[:4], FLUXES.mean(axis=1), rtol=0.15)
    assert total[4] < 1e-3


def test_expansions_fall_outwards_and_are_not_negative(expansion):
    assert (expansion >= 0).all() and np.isfinite(expansion).all()
    peaks = expansion.reshape(5, -1).argmax(axis=1)
    assert (peaks == 23 * 11 + 11).all()
    np.testing.assert_allclose(expansion, expansion[:, ::-1, ::-1], atol=1e-5 * expansion.max())


def test_a_star_is_a_point_and_a_galaxy_is_not(expansion):
    concentration = expansion.max(axis=(-2, -1)) / expansion.sum(axis=(-2, -1))
    assert concentration[[0, 3]].min() > 1.5 * concentration[[1, 2]].max()


def elliptical(shape, center, ellipticity, variance):
    """A pixel-sampled Gaussian of unit flux, by SciPy."""
    e1, e2 = ellipticity
    v = variance / np.sqrt(1 - e1**2 - e2**2)
    covariance = [[v * (1 - e1), v * e2], [v * e2, v * (1 + e1)]]  # (y, x)
    y, x = np.mgrid[: shape[0], : shape[1]]
    return multivariate_normal(center, covariance).pdf(np.stack([y, x], axis=-1))


def drawn(obs, centers, errors, **options):
    """Second moments of the stamps, and the positions."""
    n = len(centers)
    run = eqx.filter_jit(
        lambda obs: expand(
            obs, jnp.asarray(centers, float), jnp.asarray(errors, float), jnp.ones(n, bool), 41, WIDTHS, **options
        )
    )
    found, _, positions, _ = (np.asarray(part) for part in run(obs))
    offset = np.arange(41) - 20
    total = found.sum(axis=(-2, -1))
    xx, yy = (np.einsum("nyx,yx->n", found, part) / total for part in np.meshgrid(offset**2, offset**2))
    xy = np.einsum("nyx,y,x->n", found, offset, offset) / total
    return np.stack([xx - yy, 2 * xy], axis=1) / (xx + yy - 2 * 0.85**2)[:, None], positions


def test_ellipticities_are_found():
    """Two ellipses crosswise, of the covariance of a Gaussian in the expansion seen through the PSF."""
    truth, centers = np.array([[0.4, 0.2], [-0.3, 0.1]]), np.array([[25.0, 20.0], [33.0, 39.0]])
    images = [elliptical((61, 61), c, e, 3.4**2 - 0.85**2) for c, e in zip(centers, truth, strict=True)]
    blurred = gaussian_filter(np.sum(images, axis=0), PSF_SIGMA)
    found, _ = drawn(observe(1e5 * blurred[None]), centers, [0.0, 0.0], sparsity=0.0, passes=12)
    np.testing.assert_allclose(found, truth, atol=0.03)


def test_positions_are_improved_within_their_errors():
    truth = np.array([[20.3, 20.4], [31.0, 33.6]])
    image = sum(1e4 * gaussian((51, 51), center, PSF_SIGMA) for center in truth)
    start = truth + np.array([[0.25, -0.2], [0.2, 0.2]])
    _, found = drawn(observe(image[None]), start, [0.2, 0.0], sparsity=0.0, passes=6)
    np.testing.assert_allclose(found[0], truth[0], atol=0.03)  # of pixels taken two by two
    np.testing.assert_allclose(found[1], start[1], atol=1e-3)


def test_colours_tell_sources_apart():
    """A bright and a fainter galaxy of one shape, almost on top of each other, of different colours."""
    centers, fluxes = [(25.0, 23.5), (25.0, 26.5)], np.array([(1e4, 1e3), (5e2, 4e3)])
    images = sky((51, 51), centers, (2.0, 2.0), fluxes)
    run = eqx.filter_jit(
        lambda obs: expand(
            obs, jnp.asarray(centers), jnp.zeros(2), jnp.ones(2, bool), 41, WIDTHS, sparsity=1.0, passes=4
        )
    )
    stamps, spectra, _, _ = (np.asarray(part) for part in run(observe(images)))
    np.testing.assert_allclose(stamps.sum(axis=(-2, -1)), fluxes.mean(axis=1), rtol=0.1)
    np.testing.assert_allclose(spectra, fluxes, rtol=0.1, atol=0.02 * fluxes.max())
