"""What every constraint, prior, spectrum, morphology and component must do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import jaxdeblend as jd
from tests.conformance.families import members

EDGE = 7
MIDDLE = (EDGE // 2, EDGE // 2)
NOISE = 0.2
RMS = (1.0, 0.5)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(0.3, 0.5, shape), dtype=float)


def noise():
    return jnp.asarray(NOISE, dtype=float)


def rms():
    return jnp.asarray(RMS, dtype=float)


@eqx.filter_jit
def project(module, noise):
    return module.project(noise)


def stacked(module):
    return jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 3), module)


def assert_same(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert jnp.shape(x) == jnp.shape(y) and jnp.asarray(x).dtype == jnp.asarray(y).dtype
        np.testing.assert_allclose(x, y, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def assert_finite(tree):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def assert_describes_parameters(steps, module):
    """Step sizes have the module's own structure: None, or a step that is not negative for each number."""
    described = jax.tree.map(lambda step: step is None, steps, is_leaf=lambda node: node is None)
    assert jax.tree.structure(described) == jax.tree.structure(module)
    for step, leaf in zip(
        jax.tree.leaves(steps, is_leaf=lambda node: node is None), jax.tree.leaves(module), strict=True
    ):
        assert step is None or (step.shape == leaf.shape and step.dtype == leaf.dtype and (step >= 0).all())


# -------------------------------------------------------------------------------------------------- constraints


def is_connected(image):
    labels, n = scipy.ndimage.label(image > 0)
    return n == 0 or (n == 1 and labels[MIDDLE] == 1)


def falls_outwards(image):
    return image.max() <= image[MIDDLE] + 1e-6


# name: how to make it, what it asks for
CONSTRAINTS = {
    "Positive": (jd.Positive, lambda image: (image >= 0).all()),
    "Monotonic": (jd.Monotonic, falls_outwards),
    "WeightedMonotonic": (jd.WeightedMonotonic, falls_outwards),
    "Symmetric": (jd.Symmetric, lambda image: np.allclose(image, image[::-1, ::-1], atol=1e-6)),
    "SparseThreshold": (lambda: jd.SparseThreshold(2.0), lambda image: ((image == 0) | (image >= 2 * NOISE)).all()),
    "Connected": (jd.Connected, is_connected),
    "CenterKept": (jd.CenterKept, lambda image: image[MIDDLE] >= np.float32(1e-3)),
    "Normalized": (jd.Normalized, lambda image: np.isclose(image.max(), 1)),
}


def test_every_constraint_is_in_this_suite():
    assert {type(make()) for make, _ in CONSTRAINTS.values()} == {*members(jd.AbstractConstraint)}


@pytest.fixture(params=CONSTRAINTS)
def constraint(request):
    return request.param


@eqx.filter_jit
def project_all(constraint, images, noise):
    return jax.vmap(constraint.project, in_axes=(0, None))(images, noise)


def projected(name, images):
    return project_all(CONSTRAINTS[name][0](), images, noise())


def test_constraint_projects_onto_what_it_asks_for_once_and_for_all(constraint):
    images = draw(3, EDGE, EDGE)
    once = projected(constraint, images)
    assert once.shape == images.shape and once.dtype == images.dtype
    assert all(CONSTRAINTS[constraint][1](image) for image in np.asarray(once))
    assert_same(projected(constraint, once), once)


def test_constraint_of_one_stamp_is_that_of_many(constraint):
    images = draw(3, EDGE, EDGE)
    one = eqx.filter_jit(CONSTRAINTS[constraint][0]().project)(images[1], noise())
    assert_same(one, projected(constraint, images)[1])


def test_constraint_has_a_finite_gradient_and_takes_the_dark(constraint):
    images = draw(3, EDGE, EDGE).at[0].set(0.0)
    assert_finite(projected(constraint, images))
    if constraint != "Connected":  # a flood has no reverse mode, and is never differentiated
        assert_finite(jax.grad(lambda images: jnp.sum(projected(constraint, images) ** 2))(images))


def test_constraint_keeps_double_precision(constraint):
    with jax.enable_x64(True):
        assert projected(constraint, draw(3, EDGE, EDGE)).dtype == jnp.float64


# ------------------------------------------------------------------------------------------------------- priors


def symmetric_held(prior, image, noise):
    """SymmetricPrior with the mean of each pair held fixed at that of `image`."""
    mean = 0.5 * (image + image[::-1, ::-1])
    variance = (prior.asymmetry * mean) ** 2 + (prior.floor * noise) ** 2
    return lambda x: -0.25 * jnp.sum((x - x[::-1, ::-1]) ** 2 / variance)


# name: how to make it, what its gradient is the gradient of
PRIORS = {"SymmetricPrior": (lambda: jd.SymmetricPrior(0.3, 0.5), symmetric_held)}


def test_every_prior_is_in_this_suite():
    assert {type(make()) for make, _ in PRIORS.values()} == {*members(jd.AbstractPrior)}


@pytest.fixture(params=PRIORS)
def prior(request):
    return request.param


def test_gradient_of_a_prior_is_that_of_finite_differences(prior):
    make, held = PRIORS[prior]
    with jax.enable_x64(True):
        image, direction, step = draw(EDGE, EDGE), draw(EDGE, EDGE, seed=1), 1e-6
        function = held(make(), image, noise())
        assert float(make().log_prob(image, noise())) == pytest.approx(float(function(image)))
        expected = (function(image + step * direction) - function(image - step * direction)) / (2 * step)
        gradient = jax.grad(make().log_prob)(image, noise())
        assert gradient.dtype == jnp.float64
        assert float(jnp.sum(gradient * direction)) == pytest.approx(float(expected), rel=1e-6)


def test_prior_under_jit_and_vmap(prior):
    images = draw(3, EDGE, EDGE)
    values = jax.jit(jax.vmap(PRIORS[prior][0]().log_prob, in_axes=(0, None)))(images, noise())
    assert_same(values[1], PRIORS[prior][0]().log_prob(images[1], noise()))


def test_prior_takes_the_dark(prior):
    value, gradient = jax.value_and_grad(PRIORS[prior][0]().log_prob)(jnp.zeros((EDGE, EDGE)), noise())
    assert_finite((value, gradient))


# ------------------------------------------------------------------------------------------------------ spectra

SPECTRA = {"FreeSpectrum": lambda: jd.FreeSpectrum(jnp.array([2.0, -0.5]))}


def test_every_spectrum_is_in_this_suite():
    assert {type(make()) for make in SPECTRA.values()} == {*members(jd.AbstractSpectrum)}


@pytest.mark.parametrize("name", SPECTRA)
def test_spectrum(name):
    spectrum = SPECTRA[name]()
    assert_same(spectrum.scaled(jnp.asarray(3.0)).values(), 3 * spectrum.values())
    allowed = spectrum.project(rms())
    assert (allowed.values() >= 0).all()
    assert_same(allowed.project(rms()), allowed)
    assert_same(jax.jit(jax.vmap(lambda s: s.project(rms())))(stacked(spectrum)), stacked(allowed))
    assert_describes_parameters(spectrum.step_sizes(rms()), spectrum)


# -------------------------------------------------------------------------------------------------- morphologies

CHAIN = (jd.Positive, jd.Monotonic, lambda: jd.SparseThreshold(0.1), jd.CenterKept)
MORPHOLOGIES = {
    "ImageMorphology": lambda: jd.ImageMorphology(
        draw(EDGE, EDGE), tuple(make() for make in CHAIN), (jd.SymmetricPrior(),)
    ),
    "ImageMorphology, fixed": lambda: jd.ImageMorphology(draw(EDGE, EDGE), (jd.Positive(),), step=0.0),
    "PointMorphology": lambda: jd.PointMorphology.of(jd.GaussianPSF(0.8), EDGE),
}


def test_every_morphology_is_in_this_suite():
    assert {type(make()) for make in MORPHOLOGIES.values()} == {*members(jd.AbstractMorphology)}


@pytest.mark.parametrize("name", MORPHOLOGIES)
def test_morphology(name):
    morphology = MORPHOLOGIES[name]()
    once, factor = project(morphology, noise())
    twice, again = project(once, jnp.clip(noise() / factor, 1e-6, 1.0))  # in units of the new maximum
    assert_same(twice, once)
    assert_same(again, jnp.ones(()))
    many, factors = jax.jit(jax.vmap(lambda m: m.project(noise())))(stacked(morphology))
    assert_same(many, stacked(once))
    assert_same(factors, jnp.stack([factor] * 3))
    assert morphology.image().shape == (EDGE, EDGE)
    assert_finite(eqx.filter_jit(eqx.filter_grad(lambda m: m.log_prior(noise()) + m.image().sum()))(morphology))
    assert_describes_parameters(morphology.step_sizes(), morphology)


# ---------------------------------------------------------------------------------------------------- components

COMPONENTS = {
    "FactorizedComponent": lambda: jd.FactorizedComponent(
        jd.FreeSpectrum(jnp.array([2.0, 3.0])), MORPHOLOGIES["ImageMorphology"]()
    ),
    "CubeComponent": lambda: jd.CubeComponent(draw(2, EDGE, EDGE), tuple(make() for make in CHAIN)),
}


def test_every_component_is_in_this_suite():
    assert {type(make()) for make in COMPONENTS.values()} == {*members(jd.AbstractComponent)}


@pytest.fixture(params=COMPONENTS)
def component(request):
    return COMPONENTS[request.param]


def test_projected_component_is_feasible_and_stays(component):
    once = project(component(), rms())
    assert_same(project(once, rms()), once)
    spectra, images = (np.asarray(part) for part in once.terms())
    assert (spectra >= 0).all() and (images >= 0).all()
    assert all(falls_outwards(image) for image in images)


def test_component_under_jit_and_vmap(component):
    once = project(component(), rms())
    assert_same(jax.jit(jax.vmap(lambda part: part.project(rms())))(stacked(component())), stacked(once))


def test_component_has_terms_a_prior_and_steps(component):
    part = component()
    spectra, images = part.terms()
    assert len(spectra) == len(images) and spectra.shape[1] == 2 and images.shape[1:] == (EDGE, EDGE)
    assert part.log_prior(rms()).shape == ()
    assert_describes_parameters(part.step_sizes(rms()), part)


def test_component_where_a_band_has_no_data(component):
    part = component()
    everything = jax.jit(lambda rms: (part.project(rms), part.log_prior(rms), part.step_sizes(rms)))
    for spread in (jnp.array([0.0, 0.5]), jnp.zeros(2)):
        assert_finite(everything(spread))


def test_gradient_flows_from_the_blend_to_the_component(component):
    blend = jd.Blend.of([jd.Source((4.3, 5.1), (component(),))] * 2, frame=(10, 9))
    gradient = eqx.filter_jit(eqx.filter_grad(lambda b: jnp.sum(b.cube() ** 2) + b.log_prior(rms())))(blend)
    assert_finite(gradient)
    for step, leaf in zip(
        jax.tree.leaves(blend.step_sizes(rms()), is_leaf=lambda node: node is None),
        jax.tree.leaves(gradient, is_leaf=lambda node: node is None),
        strict=True,
    ):
        assert step is None or np.asarray(leaf).any() or not np.asarray(step).any()


def test_component_keeps_double_precision(component):
    with jax.enable_x64(True):
        part = project(component(), rms())
        leaves = jax.tree.leaves((part, part.terms(), part.log_prior(rms())))
        assert {leaf.dtype for leaf in leaves if leaf.dtype != bool} == {np.dtype("float64")}
