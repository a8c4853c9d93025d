import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdeblend.fit.expansion import band_weights, detection_image, expand, template
from jaxdeblend.ops import stamps
from tests.scenes import CENTERS, FLUXES, gaussian, observe, sky

templated = eqx.filter_jit(template)
WIDTHS = jnp.array([0.85, 1.7, 3.4])


def test_bands_are_weighted_by_their_noise():
    obs = observe(np.zeros((3, 9, 9)), mask=np.stack([np.zeros((9, 9)), np.zeros((9, 9)), np.ones((9, 9))]) > 0)
    obs = type(obs)(obs.images, [1.0, 4.0, 1.0], obs.psf, bands=obs.bands, mask=obs.weights == 0)
    np.testing.assert_allclose(band_weights(obs), [0.8, 0.2, 0.0], rtol=1e-6)
    assert not np.any(band_weights(type(obs)(obs.images, [0.0, 0.0, 0.0], obs.psf, bands=obs.bands)))


def test_detection_image_is_sharper_and_keeps_the_flux():
    obs = observe(sky())
    image = np.asarray(eqx.filter_jit(detection_image)(obs))
    mean = np.asarray(obs.images).mean(axis=0)
    assert image.max() > 1.1 * mean.max()
    np.testing.assert_allclose(image.sum(), mean.sum(), rtol=0.06)  # 1 / (1 + 0.05) at the lowest frequency


@pytest.fixture(scope="module")
def expansion():
    centers = jnp.asarray(np.vstack([CENTERS, [(15.0, 13.0)]]), dtype=float)
    active = jnp.array([True, True, True, True, False])
    compiled = eqx.filter_jit(lambda obs: expand(obs, centers, active, 23, WIDTHS, sparsity=1.0, passes=2))
    return np.asarray(compiled(observe(sky())))


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


def placements(center, shape, edge):
    return [stamps.placement(jnp.asarray(float(c)), n, edge) for c, n in zip(center, shape, strict=True)]


def test_template_is_the_smaller_of_opposite_pixels():
    """A neighbour on one side only leaves no trace."""
    alone = gaussian((21, 21), (10, 10), 2.0)
    image = jnp.asarray(alone + gaussian((21, 21), (10, 15), 1.0))
    found = templated(image, jnp.ones((21, 21), dtype=bool), *placements((10, 10), (21, 21), 15))
    np.testing.assert_allclose(found[:, :7], alone[3:18, 3:10], rtol=0.05, atol=1e-3 * alone.max())
    np.testing.assert_allclose(found, found[::-1, ::-1], atol=1e-6)


def test_template_takes_the_usable_one_of_opposite_pixels():
    alone = gaussian((21, 21), (10, 10), 2.0)
    good = np.ones((21, 21), dtype=bool)
    good[:, 12:] = False
    image = jnp.asarray(np.where(good, alone, 0.0))
    found = templated(image, jnp.asarray(good), *placements((10, 10), (21, 21), 15))
    np.testing.assert_allclose(found, alone[3:18, 3:18], rtol=1e-3, atol=1e-3 * alone.max())


def test_template_without_a_usable_pixel_is_dark():
    nothing = jnp.zeros((21, 21), dtype=bool)
    assert not np.any(templated(jnp.ones((21, 21)), nothing, *placements((10, 10), (21, 21), 15)))
