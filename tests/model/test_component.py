import jax.numpy as jnp
import numpy as np

import jaxdeblend as jd

RMS = jnp.array([1.0, 0.5])


def pixels(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 3, shape), dtype=float)


def total(component):
    return np.einsum("tb,tyx->b", *component.terms())


def test_projecting_keeps_the_flux_of_a_shape_that_is_allowed():
    component = jd.FactorizedComponent(
        jd.FreeSpectrum(jnp.array([2.0, 5.0])), jd.ImageMorphology(pixels(5, 5), (jd.Positive(),))
    )
    projected = component.project(RMS)
    np.testing.assert_allclose(total(projected), total(component), rtol=1e-5)
    np.testing.assert_allclose(projected.terms()[1].max(), 1.0, rtol=1e-6)


def test_constraints_see_the_noise_of_the_band_where_it_is_smallest():
    """0.1 of the spectrum in the first band, 0.05 in the second: pixels below 2 · 0.05 go."""
    morphology = jd.ImageMorphology(jnp.diag(jnp.array([0.09, 1.0, 0.11])), (jd.SparseThreshold(2.0),))
    component = jd.FactorizedComponent(jd.FreeSpectrum(jnp.array([10.0, 10.0])), morphology)
    np.testing.assert_allclose(component.project(RMS).morphology.image(), np.diag([0, 1, 0.11]), rtol=1e-6)


def test_bands_without_data_do_not_count_for_the_noise():
    morphology = jd.ImageMorphology(jnp.diag(jnp.array([0.19, 1.0, 0.21])), (jd.SparseThreshold(2.0),))
    component = jd.FactorizedComponent(jd.FreeSpectrum(jnp.array([10.0, 10.0])), morphology)
    projected = component.project(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(projected.morphology.image(), np.diag([0, 1, 0.21]), rtol=1e-6)


def test_each_band_of_a_cube_is_projected_on_its_own():
    cube = pixels(2, 5, 5).at[1].multiply(-1)
    projected = jd.CubeComponent(cube, (jd.Positive(),)).project(RMS)
    np.testing.assert_allclose(projected.cube, np.maximum(cube, 0), rtol=1e-5)


def test_terms_of_a_cube_add_up_to_it():
    cube = pixels(3, 5, 5)
    np.testing.assert_allclose(np.einsum("tb,tyx->byx", *jd.CubeComponent(cube).terms()), cube, rtol=1e-6)


def test_steps_of_a_cube_are_a_share_of_its_maximum_or_of_the_noise():
    steps = jd.CubeComponent(jnp.stack([jnp.full((3, 3), 500.0), jnp.zeros((3, 3))])).step_sizes(RMS)
    np.testing.assert_allclose(steps.cube[:, 0, 0], [5.0, 0.05], rtol=1e-6)
