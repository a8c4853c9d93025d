"""What every PSF field must do."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from tests.conformance.families import members

NARROW, WIDE = (np.asarray(jd.GaussianPSF([sigma, 1.1 * sigma]).stamp(17)) for sigma in (1.3, 1.8))
TERMS = np.stack([WIDE, 0.3 * (NARROW - WIDE), 0.2 * (WIDE - NARROW)], axis=1)


def function(y, x):
    return jd.GaussianPSF(jnp.stack([1.3 + y / 200, 1.4 + x / 200])).stamp(17)


# each varies over 100 x 100 pixels
CASES = {
    "constant": (jd.ConstantPSFField, lambda: jd.ConstantPSFField(jd.MoffatPSF([2.5, 3.0]))),
    "grid": (
        jd.GridPSFField,
        lambda: jd.GridPSFField([[NARROW, WIDE], [WIDE, NARROW], [WIDE, WIDE]], [0, 60, 100], [0, 100]),
    ),
    "polynomial": (
        jd.PolynomialPSFField,
        lambda: jd.PolynomialPSFField(
            TERMS,
            zero_point=(50, 40),
            scale=[(50, 60), (60, 50)],
            sampling=[0.9, 1.1],
        ),
    ),
    "function": (jd.FunctionPSFField, lambda: jd.FunctionPSFField(function, 17, 2)),
    "shifted": (
        jd.ShiftedPSFField,
        lambda: jd.ShiftedPSFField(
            jd.GridPSFField([[NARROW, WIDE], [WIDE, NARROW], [WIDE, WIDE]], [10, 70, 110], [20, 120]), (10, 20)
        ),
    ),
    "matched": (
        jd.MatchedPSFField,
        lambda: jd.MatchedPSFField(
            jd.ConstantPSFField(NARROW),
            jd.SpatialKernel(jnp.asarray(TERMS, dtype=float), jd.Box((0, 0), (100, 100)), 1),
        ),
    ),
}
PLACES = [[20.0, 31.0], [70.5, 8.25], [99.0, 99.0]]


def test_every_field_is_in_this_suite():
    assert {cls for cls, _ in CASES.values()} == {*members(jd.AbstractPSFField)}


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def make(case):
    return CASES[case][1]()


@eqx.filter_jit
def stamps_of(field, positions):
    return field.stamps(positions)


def test_stamps_are_psfs(case):
    field = make(case)
    stamps = np.asarray(field.stamps(np.array(PLACES)))
    assert isinstance(field.edge, int) and field.edge % 2 == 1 and field.n_bands == 2
    assert stamps.shape == (3, 2, field.edge, field.edge)
    np.testing.assert_allclose(stamps.sum(axis=(2, 3)), 1.0, rtol=1e-5)
    peak = stamps.reshape(6, -1).argmax(axis=1)
    np.testing.assert_array_equal(peak, field.edge**2 // 2)


def test_they_vary_unless_they_are_constant(case):
    stamps = np.asarray(make(case).stamps(np.array(PLACES)))
    change = np.abs(stamps[0] - stamps[1]).max(axis=(1, 2)) / stamps.max()
    assert (change == 0).all() if case == "constant" else (change > 0.02).all()


def test_at_is_one_of_the_stamps(case):
    field = make(case)
    psf = field.at(PLACES[1])
    assert isinstance(psf, jd.ImagePSF) and psf.edge == field.edge and psf.n_bands == 2
    np.testing.assert_allclose(psf.stamp(field.edge), field.stamps(np.array(PLACES))[1], atol=1e-6)


def test_stamps_under_jit_and_vmap(case):
    field, positions = make(case), jnp.asarray(PLACES)
    expected = np.asarray(field.stamps(np.array(PLACES)))
    np.testing.assert_allclose(stamps_of(field, positions), expected, atol=1e-6)
    singly = eqx.filter_vmap(stamps_of, in_axes=(None, 0))(field, positions[:, None])
    np.testing.assert_allclose(singly[:, 0], expected, atol=1e-6)


def test_at_under_jit(case):
    field = make(case)
    peak = eqx.filter_jit(lambda field, position: field.at(position).stamps.max())(field, jnp.asarray(PLACES[0]))
    assert float(peak) == pytest.approx(float(np.max(field.at(PLACES[0]).stamps)), rel=1e-5)


def test_gradient_by_the_position_is_that_of_finite_differences(case):
    with jax.enable_x64(True):
        field, positions = make(case), jnp.asarray(PLACES[:2])
        weight = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, field.edge, field.edge)))

        @jax.jit
        def value(positions):
            return jnp.sum(field.stamps(positions) * weight)

        gradient, step = jax.grad(value)(positions), 1e-4
        for k in np.ndindex(2, 2):
            up, down = (value(positions.at[k].add(sign * step)) for sign in (1, -1))
            assert float(gradient[k]) == pytest.approx(float((up - down) / (2 * step)), rel=1e-5, abs=1e-9)


def test_dtype_is_the_default_one(case):
    for x64, dtype in ((False, np.float32), (True, np.float64)):
        with jax.enable_x64(x64):
            field = make(case)
            assert stamps_of(field, jnp.asarray(PLACES)).dtype == field.at(PLACES[0]).stamps.dtype == dtype
            assert field.stamps(np.array(PLACES)).dtype == dtype
