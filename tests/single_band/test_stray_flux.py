import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxdeblend.single_band import stray_flux

RULES = ("r-to-peak", "r-to-footprint", "nearest-footprint", "trim")
OPTIONS = {"to_point_sources": "always", "smallest": 0.001}


def full(values):
    return jnp.asarray(values, dtype=float)


@pytest.fixture
def templates(rng):
    """Three templates of a few pixels, and one without any."""
    images = np.zeros((4, 12, 17))
    for image, (y, x) in zip(images[:3], [(2, 3), (8, 4), (6, 13)], strict=True):
        image[y - 1 : y + 2, x - 2 : x + 2] = rng.uniform(1, 2, (3, 4))
    return full(images)


CENTERS = full([(2, 3), (8, 4), (6, 13), (0, 0)])
EXTENDED = jnp.zeros(4, bool)


def shares(templates, rule, is_psf=EXTENDED, **options):
    found = stray_flux.stray_fractions(templates, CENTERS, is_psf, rule=rule, **(OPTIONS | options))
    return np.asarray(found)


def test_distances_are_those_of_scipy(rng):
    mask = rng.uniform(size=(19, 23)) > 0.98
    mask[4, 5] = True
    steps = ndimage.distance_transform_cdt(~mask, metric="taxicab")
    np.testing.assert_array_equal(stray_flux.step_distance(jnp.asarray(mask)), steps)
    squares = ndimage.distance_transform_edt(~mask) ** 2
    np.testing.assert_allclose(stray_flux.squared_distance(jnp.asarray(mask)), squares, rtol=1e-5)


def test_an_empty_mask_is_far():
    assert stray_flux.squared_distance(jnp.zeros((4, 5), bool)).min() >= stray_flux.FAR


@pytest.mark.parametrize("rule", RULES[:3])
def test_shares_add_up_to_one_and_go_to_those_with_a_template(templates, rule):
    found = shares(templates, rule)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-6)
    assert (found[3] == 0).all()


def test_trim_gives_nothing_away(templates):
    assert (shares(templates, "trim") == 0).all()


def test_by_distance_to_the_peak(templates):
    y, x = np.mgrid[:12, :17]
    weight = np.stack([1 / (1 + (y - cy) ** 2 + (x - cx) ** 2) for cy, cx in np.asarray(CENTERS)[:3]])
    np.testing.assert_allclose(shares(templates, "r-to-peak", smallest=0.0)[:3], weight / weight.sum(axis=0), rtol=1e-5)


def test_by_distance_to_the_template(templates):
    weight = np.stack([1 / (1 + ndimage.distance_transform_edt(t == 0) ** 2) for t in np.asarray(templates)[:3]])
    found = shares(templates, "r-to-footprint", smallest=0.0)
    np.testing.assert_allclose(found[:3], weight / weight.sum(axis=0), rtol=1e-5)


def test_to_the_nearest_template(templates):
    steps = [ndimage.distance_transform_cdt(t == 0, metric="taxicab") for t in np.asarray(templates)[:3]]
    assert (np.argmax(shares(templates, "nearest-footprint"), axis=0) == np.argmin(steps, axis=0)).all()


def test_small_shares_go_to_the_others(templates):
    found = shares(templates, "r-to-peak", smallest=0.1)
    assert not ((found > 0) & (found < 0.1)).any()
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "rule, points, receivers",
    [("always", (True, False, False), {0, 1, 2}), ("necessary", (True, False, False), {1, 2}),
     ("necessary", (True, True, True), {0, 1, 2}), ("never", (True, True, True), set())],
)  # fmt: skip
def test_point_sources_get_stray_light(templates, rule, points, receivers):
    found = shares(templates, "r-to-peak", jnp.asarray([*points, False]), to_point_sources=rule)
    assert set(np.flatnonzero(found.any(axis=(1, 2)))) == receivers


def test_shares_by_templates(templates):
    found, reached = stray_flux.template_fractions(templates)
    np.testing.assert_array_equal(reached, np.asarray(templates).any(axis=0))
    np.testing.assert_allclose(np.asarray(found).sum(axis=0), reached, rtol=1e-6)
