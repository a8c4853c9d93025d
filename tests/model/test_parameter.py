import jax.numpy as jnp
import numpy as np

import jaxdeblend as jd
from jaxdeblend.model.parameter import fitted, parameters


def test_step_sizes_have_the_structure_of_the_module():
    morphology = jd.ImageMorphology(jnp.ones((3, 3)), (jd.SparseThreshold(0.1),))
    steps = parameters(morphology, pixels=jnp.asarray(0.5))
    np.testing.assert_array_equal(steps.pixels, np.full((3, 3), 0.5))
    assert steps.step is None and steps.constraints[0].level is None


def test_modules_are_described_by_modules():
    component = jd.FactorizedComponent(jd.FreeSpectrum(jnp.ones(2)), jd.ImageMorphology(jnp.ones((3, 3))))
    spectrum = parameters(component.spectrum, amplitude=0.1)
    steps = parameters(component, spectrum=spectrum)
    np.testing.assert_allclose(steps.spectrum.amplitude, [0.1, 0.1])
    assert steps.morphology.pixels is None


def test_fitted_is_true_for_what_has_a_step():
    steps = parameters(jd.FreeSpectrum(jnp.ones(2)), amplitude=0.0)
    assert fitted(steps).amplitude is True
    assert not fitted(parameters(jd.FreeSpectrum(jnp.ones(2)))).amplitude
