"""Public functions are compiled: a bounded number of programs at the first call, none at the next of these shapes."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from tests.compilations import compilations

SHAPE = (2, 23, 26)  # of no other test: programs are compiled here
BANDS = ("g", "r")


def observation(seed):
    """Two galaxies, different ones for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    galaxies = np.exp(-0.5 * ((y - 11) ** 2 + (x - 8) ** 2) / 6) + np.exp(-0.5 * ((y - 12) ** 2 + (x - 18) ** 2) / 4)
    images = 60 * galaxies[None] + rng.normal(size=SHAPE)
    psf = jd.GaussianPSF([1.3, 1.4 + 0.01 * seed]).stamp(13)
    return jd.Observation(images.astype(np.float32), np.ones(SHAPE, np.float32), np.asarray(psf), bands=BANDS)


def positions(seed):
    return np.array([(11.0, 8.0), (12.0, 18.0)]) + 0.05 * seed


@dataclass
class Case:
    """Arguments of public functions: of the same shapes for each seed, with other numbers."""

    seed: int
    obs: jd.Observation
    result: jd.Deblended

    @classmethod
    def of(cls, seed):
        obs = observation(seed)
        return cls(seed, obs, jd.deblend(obs, positions(seed)))

    @property
    def blend(self):
        return self.result.blend


@pytest.fixture(scope="module")
def cases():
    """Two cases, so that what they need is compiled before."""
    return Case.of(0), Case.of(1)


def blend_of_user(seed):
    star = jd.PointSource((11.0 + seed, 8.0), [30.0, 40.0 + seed])
    galaxy = jd.ExtendedSource((12.0, 18.0), [2.0, 3.0 + seed], np.ones((9, 9)))
    return jd.Blend.of([star, galaxy], frame=SHAPE[1:])


def double_gaussian(case):
    return jd.DoubleGaussianPSF(1.0, 2.0 + case.seed, 0.1)


CALLS = {
    # name: (largest number of programs at the first call, the call)
    "Observation": (1, lambda case: observation(case.seed)),
    "deblend": (8, lambda case: jd.deblend(case.obs, positions(case.seed))),
    "deblend_batch": (8, lambda case: jd.deblend_batch([(case.obs, positions(case.seed))])),
    "initialize": (1, lambda case: jd.initialize(case.obs, positions(case.seed))),
    "add_sources": (9, lambda case: jd.add_sources(case.blend, case.obs, [(5.0 + case.seed, 5.0)])),
    "fit": (1, lambda case: jd.fit(case.blend, case.obs, jd.ProximalAdam(max_steps=12))),
    "render": (1, lambda case: jd.render(case.blend, case.obs)),
    "render_sources": (1, lambda case: jd.render_sources(case.blend, case.obs)),
    "log_likelihood": (1, lambda case: jd.log_likelihood(case.blend, case.obs)),
    "log_posterior": (1, lambda case: jd.log_posterior(case.blend, case.obs)),
    "measure": (1, lambda case: jd.measure(case.result, case.obs)),
    "apportion_flux": (1, lambda case: jd.apportion_flux(case.result, case.obs)),
    "Blend.of": (6, lambda case: blend_of_user(case.seed)),
    "Blend.sources": (0, lambda case: case.blend.sources),
    "Source.flux": (2, lambda case: [source.flux for source in case.blend.sources]),
    "GaussianPSF.stamp": (1, lambda case: jd.GaussianPSF([1.0 + case.seed]).stamp(17)),
    "MoffatPSF.stamp": (1, lambda case: jd.MoffatPSF([3.0 + case.seed], [3.5]).stamp(17)),
    "DoubleGaussianPSF.stamp": (3, lambda case: double_gaussian(case).stamp(17)),
    "DoubleGaussianPSF.fwhm": (1, lambda case: double_gaussian(case).fwhm()),
    "ImagePSF.fwhm": (1, lambda case: case.obs.psf.fwhm()),
    "DifferenceKernel.between": (3, lambda case: jd.DifferenceKernel.between(case.obs.model_psf, case.obs.psf)),
    "Observation.prepared": (1, lambda case: case.obs.prepared()),
    "detect": (0, lambda case: jd.detect(case.obs)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_compiles_nothing(cases, name):
    most, call = CALLS[name]
    with compilations() as first:
        jax.block_until_ready(eqx.filter(call(cases[0]), eqx.is_array))
    with compilations() as second:
        jax.block_until_ready(eqx.filter(call(cases[1]), eqx.is_array))
    assert len(first) <= most, first
    assert not second


def test_a_gradient_is_one_program(cases):
    """Without `jax.jit`, too; `jax.grad` adds a few operations of its own."""
    gradient = eqx.filter_grad(jd.log_posterior)
    with compilations() as first:
        gradient(cases[0].blend, cases[0].obs)
    with compilations() as second:
        found = gradient(cases[1].blend, cases[1].obs)
    assert len(first) <= 6, first
    assert not second
    assert jnp.isfinite(found.centers).all()


def test_what_is_counted():
    """An operation of a shape that was never seen is counted."""
    with compilations() as names:
        jax.block_until_ready(jnp.ones((3, 1, 7)) * 2.5)
    assert names
