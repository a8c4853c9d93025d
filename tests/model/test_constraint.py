import jax.numpy as jnp
import numpy as np

import jaxdeblend as jd
from jaxdeblend.ops import monotone

NOISE = jnp.asarray(0.1)


def draw(edge=7, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0.3, 0.5, (edge, edge)), dtype=float)


def test_monotonic_constraints_are_the_sweeps():
    np.testing.assert_array_equal(jd.Monotonic().project(draw(), NOISE), monotone.ring_sweep(draw()))
    np.testing.assert_array_equal(jd.WeightedMonotonic().project(draw(), NOISE), monotone.weighted_sweep(draw()))


def test_symmetric_of_part_strength_goes_part_of_the_way():
    full, half = (jd.Symmetric(strength).project(draw(), NOISE) for strength in (1.0, 0.5))
    np.testing.assert_allclose(half, 0.5 * (draw() + full), atol=1e-6)


def test_sparse_threshold_is_in_units_of_the_noise():
    image = jnp.diag(jnp.array([0.19, 0.2, 0.21]))
    np.testing.assert_allclose(jd.SparseThreshold(2.05).project(image, NOISE), np.diag([0, 0, 0.21]), atol=1e-6)


def test_center_kept_is_not_felt_by_a_bright_centre():
    image = draw().at[3, 3].set(0.5)
    np.testing.assert_array_equal(jd.CenterKept(0.1).project(image, NOISE), image)


def test_constraints_have_the_same_meaning_in_a_morphology_in_their_order():
    constraints = (jd.Positive(), jd.Symmetric())
    projected, factor = jd.ImageMorphology(draw(), constraints).project(NOISE)
    expected = np.maximum(draw(), 0)
    expected = 0.5 * (expected + expected[::-1, ::-1])
    np.testing.assert_allclose(projected.image() * factor, expected, atol=1e-6)
