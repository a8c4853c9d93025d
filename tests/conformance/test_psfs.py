"""What every PSF must do."""

import equinox as eqx
import galsim
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.ops import moments
from tests.conformance.families import members

ACCURATE = galsim.GSParams(folding_threshold=1e-5, maxk_threshold=1e-4, kvalue_accuracy=1e-6, maximum_fft_size=16384)


def drawn(profile, edge):
    """Unit-sum stamp by GalSim, integrated over the pixels."""
    stamp = profile.withGSParams(ACCURATE).drawImage(nx=edge, ny=edge, scale=1, dtype=float).array
    return stamp / stamp.sum()


def moffat(fwhm, beta):
    return galsim.Moffat(beta=beta, fwhm=fwhm)


def two_gaussians(core, wing, share):
    return (1 - share) * galsim.Gaussian(sigma=core) + share * galsim.Gaussian(sigma=wing)


PIXEL = galsim.Pixel(1)

# name: class, how to make it, the same by GalSim in each band
CASES = {
    "round Gaussian": (
        jd.GaussianPSF,
        lambda: jd.GaussianPSF([0.8, 2.0]),
        [galsim.Gaussian(sigma=0.8), galsim.Gaussian(sigma=2.0)],
    ),
    "elliptical Gaussian": (
        jd.GaussianPSF,
        lambda: jd.GaussianPSF([1.2, 2.0], [(0.3, -0.2), (-0.1, 0.4)]),
        [galsim.Gaussian(sigma=1.2).shear(e1=0.3, e2=-0.2), galsim.Gaussian(sigma=2.0).shear(e1=-0.1, e2=0.4)],
    ),
    "round Moffat": (jd.MoffatPSF, lambda: jd.MoffatPSF([3.0, 4.0], 3.0), [moffat(3.0, 3.0), moffat(4.0, 3.0)]),
    "elliptical Moffat": (
        jd.MoffatPSF,
        lambda: jd.MoffatPSF(3.5, [2.5, 4.0], (0.2, 0.3)),
        [moffat(3.5, beta).shear(e1=0.2, e2=0.3) for beta in (2.5, 4.0)],
    ),
    "two Gaussians": (
        jd.DoubleGaussianPSF,
        lambda: jd.DoubleGaussianPSF([1.2, 1.6], 3.5, [0.1, 0.3]),
        [two_gaussians(1.2, 3.5, 0.1), two_gaussians(1.6, 3.5, 0.3)],
    ),
    "image": (
        jd.ImagePSF,
        lambda: jd.ImagePSF(np.stack([drawn(moffat(fwhm, 3.0), 31) for fwhm in (4.0, 5.0)])),
        [moffat(4.0, 3.0), moffat(5.0, 3.0)],
    ),
}
ROUND = ("round Gaussian", "round Moffat", "two Gaussians")


def test_every_psf_is_in_this_suite():
    assert {cls for cls, _, _ in CASES.values()} == {*members(jd.AbstractPSF)}


@pytest.fixture(params=CASES)
def case(request):
    return request.param


def make(case):
    return CASES[case][1]()


@eqx.filter_jit
def stamp_of(psf, edge):
    return psf.stamp(edge)


def test_stamp_agrees_with_galsim(case):
    """31 pixels wide, as the image is: cropping must not enter."""
    expected = [drawn(profile, 31) for profile in CASES[case][2]]
    np.testing.assert_allclose(stamp_of(make(case), 31), expected, atol=1e-3 * np.max(expected))


@pytest.mark.parametrize("edge", [1, 31, 37])
def test_stamp_has_unit_sum_and_is_centred(case, edge):
    psf = make(case)
    stamp = jnp.asarray(stamp_of(psf, edge))
    assert stamp.shape == (psf.n_bands, edge, edge) == (2, edge, edge)
    np.testing.assert_allclose(stamp.sum(axis=(1, 2)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(moments.centroid)(stamp), 0.0, atol=1e-4)
    assert (np.asarray(stamp) >= 0).all()


def test_natural_edge_is_odd_and_holds_the_light(case):
    psf = make(case)
    assert isinstance(psf.edge, int) and psf.edge % 2 == 1
    margin = (psf.edge + 1) // 2
    inside = np.asarray(stamp_of(psf, 2 * psf.edge + 1))[:, margin:-margin, margin:-margin].sum(axis=(1, 2))
    assert (inside > 0.98).all()


@pytest.mark.parametrize("edge", [0, 4, -3])
def test_even_edges_are_refused(case, edge):
    with pytest.raises(ValueError, match=rf"edge: got {edge}; .* odd edge"):
        make(case).stamp(edge)


def test_fwhm_agrees_with_galsim(case):
    if case == "image":  # which contains the pixel
        expected = [galsim.Convolve(profile, PIXEL).calculateFWHM(scale=0.1) for profile in CASES[case][2]]
        np.testing.assert_allclose(make(case).fwhm(), expected, rtol=0.03)
    elif case in ROUND:
        np.testing.assert_allclose(make(case).fwhm(), [p.calculateFWHM(scale=0.02) for p in CASES[case][2]], rtol=1e-3)


@pytest.mark.parametrize("case", ["elliptical Gaussian", "elliptical Moffat"])
def test_fwhm_is_the_geometric_mean_of_the_axes(case):
    original = [profile.original.fwhm for profile in CASES[case][2]]
    np.testing.assert_allclose(make(case).fwhm(), original, rtol=1e-5)


def test_stamp_under_jit(case):
    psf = make(case)
    np.testing.assert_allclose(stamp_of(psf, 9), psf.stamp(9), rtol=1e-4, atol=1e-7)


def test_stamps_of_many_psfs_under_vmap(case):
    psf = make(case)
    many = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 3), psf)
    stamps = jax.vmap(lambda psf: stamp_of(psf, 9))(many)
    np.testing.assert_allclose(stamps[2], stamp_of(psf, 9), rtol=1e-4, atol=1e-7)


def test_gradient_of_the_stamp_is_that_of_finite_differences(case):
    with jax.enable_x64(True):
        psf = jax.tree.map(jnp.asarray, make(case))
        leaves, tree = jax.tree.flatten(psf)
        weight = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 9)))

        @jax.jit
        def value(leaves):
            return jnp.sum(jax.tree.unflatten(tree, leaves).stamp(9) * weight)

        gradients = jax.grad(value)(leaves)
        for k, leaf in enumerate(leaves):
            direction, step = jnp.ones_like(leaf), 1e-5
            up, down = (value([*leaves[:k], leaf + sign * step * direction, *leaves[k + 1 :]]) for sign in (1, -1))
            assert float(jnp.sum(gradients[k])) == pytest.approx(float((up - down) / (2 * step)), rel=1e-5, abs=1e-8)


def test_dtype_is_the_default_one(case):
    for x64, dtype in ((False, np.float32), (True, np.float64)):
        with jax.enable_x64(x64):
            psf = make(case)
            assert stamp_of(psf, 7).dtype == dtype and psf.fwhm().dtype == dtype
