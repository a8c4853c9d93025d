"""Fits of analytic scenes. All scenes share their shapes, so that few programs are compiled."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxdeblend as jd
from jaxdeblend.fitting.loop import Problem
from tests.scenes import CENTERS, FLUXES, PSF_SIGMA, SHAPE, fluxes_of, gaussian, observe, sky


def fitted(images, rms=1.0, **options):
    obs = observe(images, rms, **options)
    return obs, jd.fit(jd.initialize(obs, CENTERS), obs)


@pytest.fixture(scope="module")
def noisy():
    noise = np.random.default_rng(7).normal(size=(2, *SHAPE))
    return fitted(sky() + noise)


def all_finite(result):
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(eqx.filter(result.blend, eqx.is_array)))


def test_fluxes_without_noise_are_recovered():
    _, result = fitted(sky())
    stars, galaxies = [0, 3], [1, 2]
    np.testing.assert_allclose(fluxes_of(result.blend)[stars], FLUXES[stars], rtol=3e-3)
    np.testing.assert_allclose(fluxes_of(result.blend)[galaxies], FLUXES[galaxies], rtol=2e-2)
    np.testing.assert_allclose([source.center for source in result.blend.sources], CENTERS, atol=0.05)


def test_fluxes_with_noise_are_as_good_as_the_noise_allows(noisy):
    obs, result = noisy
    profiles = sky(fluxes=np.eye(4))
    error = 1 / np.sqrt((profiles**2).sum(axis=(-2, -1)))  # of an isolated source of known shape, at unit noise
    pull = (fluxes_of(result.blend) - FLUXES) / error[:, None]
    assert np.abs(pull).max() < 10 and np.sqrt(np.mean(pull**2)) < 4
    chi2 = float(jnp.mean(obs.weights * (obs.images - jd.render(result.blend, obs)) ** 2))
    assert 0.6 < chi2 < 1.2


def test_the_best_iterate_is_returned_with_spectra_that_are_better_still(noisy):
    obs, result = noisy
    loss = np.asarray(result.loss)
    n_steps = int(result.n_steps)
    assert np.isfinite(loss[:n_steps]).all() and np.isnan(loss[n_steps:]).all()
    solved = -jd.log_posterior(result.blend, obs)
    assert 0.99 * loss[:n_steps].min() < solved <= loss[:n_steps].min()
    assert loss[:n_steps].min() < 0.9 * loss[0]


@pytest.mark.parametrize("unit", [1e-4, 1e6])
def test_the_unit_of_flux_does_not_matter(noisy, unit):
    obs, reference = noisy
    _, result = fitted(unit * np.asarray(obs.images), unit)
    np.testing.assert_allclose(fluxes_of(result.blend) / unit, fluxes_of(reference.blend), rtol=5e-3)


def test_whatever_lies_under_a_mask_is_ignored(noisy):
    obs, _ = noisy
    mask = np.zeros(obs.images.shape, dtype=bool)
    mask[:, 9, 7:10], mask[1, :, 20] = True, True
    results = []
    for junk in (0.0, np.nan, 1e30):
        result = fitted(np.where(mask, junk, obs.images), mask=mask)[1]
        assert all_finite(result) and result.result in (jd.RESULTS.CONVERGED, jd.RESULTS.MAX_STEPS)
        results.append(fluxes_of(result.blend))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_fixed_arrays_stay(noisy):
    obs, _ = noisy
    start = jd.initialize(obs, CENTERS)

    def fixed(blend):
        return blend.centers, blend.stacks[0].component.spectrum.amplitude

    result = jd.fit(start, obs, fixed=fixed)
    np.testing.assert_array_equal(result.blend.centers, start.centers)
    np.testing.assert_allclose(fixed(result.blend)[1], fixed(start)[1], rtol=1e-6)  # shapes had a maximum of 1 before
    pixels = [blend.stacks[0].component.morphology.pixels for blend in (start, result.blend)]
    assert float(jnp.abs(pixels[0] - pixels[1]).max()) > 0.01


def test_frames_must_agree():
    star = jd.Blend.of([jd.PointSource((4, 4), [1.0])], frame=(9, 9))
    with pytest.raises(ValueError, match=r"blend: got a blend for the frame \(9, 9\); the observation's shape is"):
        jd.fit(star, observe(np.zeros((1, 8, 9))))


# One star, whose flux is all there is to fit.

FLUX = 500.0


def star_fit(start=0.5 * FLUX, optimizer=None, **options):
    obs = observe(FLUX * gaussian((17, 17), (8, 8), PSF_SIGMA)[None], **options)
    blend = jd.Blend.of([jd.PointSource((8, 8), [start])], frame=obs.shape)
    return jd.fit(blend, obs, optimizer)


def test_the_fit_passes_turning_points_and_stops_by_itself():
    result = star_fit(optimizer=jd.ProximalAdam(max_steps=400, learning_rate=3.0, decay=1e6, b1=0.9, curvature=0.0))
    n_steps = int(result.n_steps)
    loss = np.asarray(result.loss)[:n_steps]
    turning = np.flatnonzero(np.diff(loss) > 0)
    assert result.result is jd.RESULTS.CONVERGED and bool(result.converged)
    assert n_steps < 400
    assert turning[0] + 5 < n_steps, "the loss rose after this step; a look at two successive losses stops here"
    np.testing.assert_allclose(fluxes_of(result.blend), FLUX, rtol=5e-3)


@pytest.fixture(scope="module")
def bright():
    noise = np.random.default_rng(3).normal(size=(2, *SHAPE))
    obs, first = fitted(sky(fluxes=1e3 * FLUXES) + noise)
    signs_only = jd.ProximalAdam(curvature=0.0, b1=0.9, eps=0.1)
    return obs, jd.fit(first.blend, obs), jd.fit(first.blend, obs, signs_only)


def test_a_good_start_is_left_and_found_again(bright):
    """From the best model of bright sources the first steps of ADAM alone lead uphill; there the fit must not stop."""
    obs, _, again = bright
    n_steps = int(again.n_steps)
    loss = np.asarray(again.loss)[:n_steps]
    small = 1e-3 * max(loss.min(), obs.images.size / 2)
    assert loss[1:11].max() > loss[0] + 100 * small, "this scene should lead uphill"
    assert again.result is jd.RESULTS.MAX_STEPS or loss[-10:].min() <= loss.min() + small


def test_curvatures_keep_a_good_start(bright):
    _, kept, lost = (np.asarray(getattr(result, "loss", None)) for result in bright)
    assert kept[1:11].max() - kept[0] < 0.05 * (lost[1:11].max() - lost[0])


def test_the_bound_on_the_curvature_holds():
    """diag(c) minus the Gauss-Newton matrix, in units of the steps, has no negative eigenvalue."""
    obs = observe(sky(), 1.0)
    blend = jd.Blend.of([jd.PointSource(c, f) for c, f in zip(CENTERS, FLUXES, strict=True)], frame=obs.shape)
    problem = Problem(blend, obs, jd.ProximalAdam())
    steps, bound = (ravel_pytree(tree)[0] for tree in (problem.steps, problem.curvature))
    vector, back = ravel_pytree(problem.initial)
    jacobian = jax.jacobian(lambda v: jd.render(eqx.combine(back(v), problem.fixed), problem.obs).reshape(-1))(vector)
    scaled = jacobian * steps[None] * jnp.sqrt(problem.obs.weights.reshape(-1, 1))
    free = np.asarray(steps > 0)
    hessian = np.asarray(scaled.T @ scaled)[np.ix_(free, free)]
    assert np.linalg.eigvalsh(np.diag(np.asarray(bound)[free]) - hessian).min() > -1e-4 * hessian.max()


def test_spectra_can_be_left_as_they_were_fitted():
    obs = observe(FLUX * gaussian((17, 17), (8, 8), PSF_SIGMA)[None])
    exact, left = (star_fit(optimizer=jd.ProximalAdam(max_steps=12, exact_spectra=wanted)) for wanted in (True, False))
    np.testing.assert_array_equal(exact.loss, left.loss)
    np.testing.assert_allclose(-jd.log_posterior(left.blend, obs), np.nanmin(left.loss), rtol=1e-4)
    shape = np.asarray(jd.render(left.blend, obs)) / fluxes_of(left.blend)
    best = np.sum(shape * obs.images) / np.sum(shape**2)
    np.testing.assert_allclose(fluxes_of(exact.blend), [[best]], rtol=1e-5)
    assert abs(fluxes_of(left.blend)[0, 0] / best - 1) > 1e-4


def test_statuses():
    few = jd.ProximalAdam(max_steps=12)
    short = star_fit(optimizer=few)
    assert short.result is jd.RESULTS.MAX_STEPS and int(short.n_steps) == 12 and not short.converged
    broken = star_fit(start=np.nan, optimizer=few)
    assert broken.result is jd.RESULTS.NON_FINITE and int(broken.n_steps) == 1
    dark = star_fit(optimizer=few, mask=np.ones((17, 17), dtype=bool))
    assert dark.result is jd.RESULTS.NO_DATA and int(dark.n_steps) == 0 and np.isnan(dark.loss).all()
    np.testing.assert_allclose(fluxes_of(dark.blend), 0.5 * FLUX, rtol=1e-6)
