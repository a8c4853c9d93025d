import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.single_band import SingleBandFlag, psf_template

PSF = jd.MoffatPSF(4.0)
LIMITS = (1.5, 1.5, 1.5)
EDGE = 13
fit = jax.jit(lambda around: psf_template.fit_psf(around, jnp.asarray(PSF.stamp(31)[0]), full(4.0), LIMITS))


def full(values):
    return jnp.asarray(values, dtype=float)


def point(offset):
    """A Moffat profile off the middle pixel, integrated over the pixels by the midpoints of 11 × 11 parts."""
    fine = (np.arange(11 * EDGE) + 0.5) / 11 - 0.5 - EDGE // 2
    r2 = (fine[:, None] - offset[0]) ** 2 + (fine[None, :] - offset[1]) ** 2
    alpha = 4 / (2 * np.sqrt(2 ** (1 / 3) - 1))
    profile = (2 / np.pi / alpha**2) * (1 + r2 / alpha**2) ** -3
    return profile.reshape(EDGE, 11, EDGE, 11).sum(axis=(1, 3)) / 121


def around(stamp, variance=1.0, usable=None, neighbors=()):
    places = np.zeros((3, 2))
    places[: len(neighbors)] = np.reshape(neighbors, (-1, 2))
    return psf_template.Surroundings(
        stamp=full(stamp),
        variance=full(np.full((EDGE, EDGE), variance)),
        usable=jnp.ones((EDGE, EDGE), bool) if usable is None else jnp.asarray(usable),
        offset=full([0.0, 0.0]),
        neighbors=full(places),
        near=jnp.arange(3) < len(neighbors),
    )


def sky():
    y, x = np.mgrid[:EDGE, :EDGE] - EDGE // 2
    return 3 + 0.2 * y - 0.4 * x


def test_the_psf_moves_as_it_is_told():
    stamp = psf_template.rendered(full(PSF.stamp(31)[0]), full([0.3, -0.4]), EDGE)
    np.testing.assert_allclose(stamp, point((0.3, -0.4)), atol=2e-4)


def test_flux_sky_and_neighbours_are_told_apart():
    stamp = 500 * point((0, 0)) + sky() + 2000 * point((4.0, 5.0))
    found = fit(around(stamp, neighbors=[(4.0, 5.0)]))
    assert float(found.flux) == pytest.approx(500, rel=0.01)
    assert bool(found.is_psf)
    assert float(found.chisq[0]) < 0.1


@pytest.mark.parametrize("offset", [(0.3, 0.0), (-0.3, 0.0), (0.0, 0.3), (-0.2, 0.25)])
def test_one_step_leads_to_the_true_position(offset):
    """The step is against the sign of amplitude / flux of a derivative with respect to the pixel's position."""
    found = fit(around(3000 * point(offset) + sky()))
    assert np.abs(np.asarray(found.step) - offset).max() < 0.05
    assert bool(found.is_psf)
    assert int(found.flags) & SingleBandFlag.PSF_FIT_MOVED
    assert found.chisq[2] < 0.1 * found.chisq[0]
    np.testing.assert_allclose(found.offset, found.step)


def test_chi_squared_is_that_of_noise(rng):
    noise = rng.normal(0, 2, (200, EDGE, EDGE))
    stamps = full(1000 * point((0, 0))[None] + noise)
    found = jax.vmap(lambda stamp: fit(around_stamp(stamp)))(stamps)
    assert float(found.chisq[:, 0].mean()) == pytest.approx(1, abs=0.05)
    assert float(found.chisq[:, 1].mean()) == pytest.approx(1, abs=0.05)
    assert float(found.is_psf.mean()) > 0.95
    y, x = np.mgrid[:EDGE, :EDGE] - EDGE // 2
    ramp = np.clip((6 - np.hypot(y, x)) / 2, 0, 1)
    assert float(found.dof[0]) == pytest.approx(ramp.sum() - 4, rel=1e-4)


def around_stamp(stamp):
    template = around(np.zeros((EDGE, EDGE)), variance=4.0)
    return psf_template.Surroundings(
        stamp, template.variance, template.usable, template.offset, template.neighbors, template.near
    )


def test_a_galaxy_is_no_point_source():
    y, x = np.mgrid[:EDGE, :EDGE] - EDGE // 2
    found = fit(around(100 * np.exp(-np.hypot(y, x) / 4)))
    assert not bool(found.is_psf)
    assert not int(found.flags) & SingleBandFlag.DEBLENDED_AS_PSF


def test_a_psf_a_pixel_away_is_left_where_it_is():
    found = fit(around(300 * point((2.0, 0.0)), variance=4.0))
    assert float(found.offset[0]) == 0 or abs(float(found.step[0])) < 1


@pytest.mark.parametrize("n_pixels, flag", [(0, "NO_VALID_PIXELS"), (3, "PSF_FIT_BAD_DOF")])
def test_too_few_pixels_are_flagged(n_pixels, flag):
    usable = np.zeros((EDGE, EDGE), bool)
    usable[EDGE // 2, 5 : 5 + n_pixels] = True
    found = fit(around(500 * point((0, 0)), usable=usable))
    assert int(found.flags) & SingleBandFlag[flag]
    assert not bool(found.is_psf)
    assert np.isfinite(found.flux)


def test_both_fits_are_least_squares_and_unused_terms_change_nothing(rng):
    terms, stamp = rng.normal(size=(5, 5, 5)), rng.normal(size=(5, 5))
    weight = rng.uniform(0.5, 1, (5, 5))
    active = np.array([True, False, True, True, True])
    found, chi2 = psf_template.weighted_fits(full(terms), jnp.asarray(active), full(stamp), full(weight), last=2)
    for number, used in enumerate((active & (np.arange(5) < 3), active)):
        matrix = (terms * weight)[used].reshape(used.sum(), -1).T
        expected, residual, *_ = np.linalg.lstsq(matrix, (stamp * weight).reshape(-1))
        np.testing.assert_allclose(np.asarray(found)[number][used], expected, rtol=1e-4)
        np.testing.assert_array_equal(np.asarray(found)[number][~used], 0)
        assert float(chi2[number]) == pytest.approx(float(residual[0]), rel=1e-4)
