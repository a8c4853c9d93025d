"""Kernels with few pixels, against SciPy's constrained solution, and against published figures for real PSFs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.signal

import jaxdeblend as jd
from jaxdeblend.psf_match.narrow import narrow_kernel
from jaxdeblend.psf_match.normal import NormalEquations
from jaxdeblend.psf_match.solvers import least_squares
from jaxdeblend.psf_match.sparse import Sparse, _thresholded

COARSE = Sparse(3e-3, regularization=1e-4)


def gaussian(sigma, edge=21):
    return np.asarray(jd.GaussianPSF(sigma).stamp(edge)[0], dtype=float)


def convolution_matrix(stamp, edge):
    """K -> K * S on all pixels that it reaches, column by column."""
    columns = [scipy.signal.convolve2d(unit.reshape(edge, edge), stamp) for unit in np.eye(edge**2)]
    return np.stack([column.reshape(-1) for column in columns], axis=1)


def used(kernel):
    return int((np.asarray(kernel) != 0).sum())


@eqx.filter_jit
def compiled(method, source, target, edge):
    return method.solve(source, target, edge).kernel


def solved(method, source, target, edge):
    """Kernel in double precision."""
    with jax.enable_x64(True):
        return np.asarray(
            compiled(method, *(jnp.asarray(psf / psf.sum(), dtype=float) for psf in (source, target)), edge)
        )


@pytest.fixture(scope="module")
def pair():
    """PSFs of some structure."""
    rng = np.random.default_rng(5)
    return [gaussian(sigma, 11) * (1 + 0.1 * rng.normal(size=(11, 11))) for sigma in (1.0, 1.5)]


@pytest.mark.parametrize("positive", [False, True])
def test_values_are_the_constrained_minimum_on_the_support(pair, positive):
    """SciPy's solution of the dense system of the pixels in use, with a Lagrange multiplier."""
    edge, strength = 9, 1e-4
    kernel = solved(Sparse(5e-3, regularization=strength, positive=positive), *pair, edge)
    support = kernel.reshape(-1) != 0
    assert 5 < used(kernel) < 70
    source, target = (psf / psf.sum() for psf in pair)
    design = convolution_matrix(source, edge)[:, support]
    everywhere = convolution_matrix(np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]]), edge)
    laplacian = everywhere[:, support]
    with jax.enable_x64(True):  # roughness counts from the Gaussian that is as wide as the kernel
        narrow = np.asarray(narrow_kernel(jnp.asarray(source), jnp.asarray(target), edge)).reshape(-1)
    ones = np.ones((support.sum(), 1))
    system = np.block([[design.T @ design + strength * laplacian.T @ laplacian, ones], [ones.T, np.zeros((1, 1))]])
    right = design.T @ np.pad(target, edge // 2).reshape(-1) + strength * laplacian.T @ (everywhere @ narrow)
    expected = scipy.linalg.solve(system, np.append(right, 1.0))[:-1]
    np.testing.assert_allclose(kernel.reshape(-1)[support], expected, atol=1e-9)
    assert abs(kernel.sum() - 1) < 1e-12
    assert (kernel >= 0).all() or not positive


def test_threshold_is_in_units_of_the_kernel(pair):
    """Proximal gradients end where no pixel below it is left, and where none outside would rise above it."""
    edge, strength, threshold = 9, 1e-4, 5e-3
    kernel = solved(Sparse(threshold, regularization=strength, refit=False), *pair, edge)
    assert np.abs(kernel[kernel != 0]).min() >= threshold
    design = convolution_matrix(pair[0] / pair[0].sum(), edge)
    laplacian = convolution_matrix(np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]]), edge)
    normal = design.T @ design + strength * laplacian.T @ laplacian
    right = design.T @ np.pad(pair[1] / pair[1].sum(), edge // 2).reshape(-1)
    step = (right - normal @ kernel.reshape(-1)).reshape(edge, edge)  # 1 / L is very nearly 1 here
    assert np.abs(step[kernel == 0]).max() < threshold
    assert np.abs(step[kernel != 0]).max() < 0.05 * threshold


def test_error_is_kept_with_the_fewest_pixels():
    """SciPy finds the same threshold by bisection; one that is larger by 30 % breaks the error."""
    edge, wanted = 15, 5e-3
    method = Sparse(error=wanted)
    with jax.enable_x64(True):
        source, target = (jnp.asarray(gaussian(sigma) / gaussian(sigma).sum(), dtype=float) for sigma in (1.0, 1.6))
        system = NormalEquations.of(source, target, edge, method.regularization)
        start = least_squares(source, target, edge, method.regularization)
        refitted = jax.jit(lambda tau: system.constrained(method._thinned(system, start, tau) != 0))

        def error(kernel):
            cut = (edge // 2, -(edge // 2))
            residual = scipy.signal.convolve2d(kernel, source)[slice(*cut), slice(*cut)] - target
            return float(np.linalg.norm(residual) / np.linalg.norm(target))

        largest = 10 ** scipy.optimize.bisect(lambda x: error(refitted(10**x)) - wanted, -5, -1, xtol=1e-3)
        found = np.asarray(compiled(method, source, target, edge))
        assert error(found) <= wanted < error(refitted(1.3 * largest))
        assert used(refitted(1.03 * largest)) <= used(found) <= used(refitted(0.95 * largest)) < edge**2 / 2


def test_match_psf_takes_it():
    matched = jd.match_psf(jd.GaussianPSF(1.0), jd.GaussianPSF([1.4, 1.8]), edge=15, method=Sparse(1e-4))
    assert matched.kernel.image.shape == (2, 15, 15)
    counts = [used(kernel) for kernel in matched.kernel.image]
    assert counts[0] < counts[1] < 15**2
    np.testing.assert_allclose(matched.regularization, 1e-6, rtol=1e-6)
    np.testing.assert_allclose(matched.quality.sum_error, 0.0, atol=1e-12)
    assert (np.asarray(matched.quality.l2) < 5e-3).all()


def test_between_equal_psfs_lies_one_pixel():
    kernel = solved(Sparse(error=5e-3), gaussian(1.5), gaussian(1.5), 15)
    np.testing.assert_allclose(kernel, np.pad([[1.0]], 7), atol=1e-12)
    assert used(kernel) == 1


def test_the_largest_pixel_stays():
    image = jnp.array([[0.1, -0.4], [0.2, 0.0]])
    np.testing.assert_allclose(_thresholded(image, 10.0, False), [[0, -0.4], [0, 0]])
    np.testing.assert_allclose(_thresholded(image, 10.0, True), [[0, 0], [0.2, 0]])
    np.testing.assert_allclose(_thresholded(image, 0.15, False), [[0, -0.4], [0.2, 0]])


def test_single_precision_agrees_with_double():
    """Inside a transformation everything is computed in the precision of the arrays."""
    narrow, wide = gaussian(1.2, 15), gaussian(1.7, 15)
    double = solved(COARSE, narrow, wide, 9)
    single = compiled(COARSE, *(jnp.asarray(psf / psf.sum(), jnp.float32) for psf in (narrow, wide)), 9)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, atol=2e-3 * double.max())
    np.testing.assert_array_equal(np.asarray(single) != 0, double != 0)


def test_gradients_agree_with_finite_differences():
    """Where the support stays as it is."""
    with jax.enable_x64(True):
        narrow, wide = (jnp.asarray(gaussian(sigma, 15), dtype=float) for sigma in (1.2, 1.7))
        direction = jnp.asarray(np.random.default_rng(1).normal(size=(15, 15))) * narrow
        h = 1e-5
        above, below = (compiled(COARSE, narrow + step * direction, wide, 9) for step in (h, -h))
        assert used(above) < 81 and bool(((above != 0) == (below != 0)).all())
        slope = jnp.vdot(jax.jit(jax.grad(lambda psf: COARSE.solve(psf, wide, 9).kernel[4, 4]))(narrow), direction)
        np.testing.assert_allclose(slope, (above - below)[4, 4] / (2 * h), rtol=1e-5)


def test_real_psfs(shared_data):
    """The largest |ΣK - 1| before the refit, L2 and share of pixels are those of the reference."""
    psfs = hsc(shared_data)
    source = np.stack([np.asarray(psfs[band]) for band in ("model",) * 5 + ("r",)])
    target = np.stack([psfs[band] for band in "grizyg"])
    before = jd.match_psf(source, target, method=Sparse(refit=False)).quality
    after = jd.match_psf(source, target, method=Sparse())
    assert (np.abs(before.sum_error) <= 5e-4).all()
    assert (np.asarray(after.quality.l2) <= 2e-3).all() and (np.asarray(after.quality.encircled_energy) <= 5e-4).all()
    assert ((np.asarray(after.kernel.image) != 0).mean(axis=(1, 2)) <= 0.5).all()
    assert (np.abs(after.quality.sum_error) < 1e-12).all()


def test_real_psfs_for_an_error(shared_data):
    psfs = hsc(shared_data)
    matched = jd.match_psf(psfs["r"], psfs["g"], method=Sparse(error=2e-3))
    assert float(matched.quality.l2[0]) <= 2e-3 and used(matched.kernel.image) <= 0.15 * 43**2


def hsc(shared_data):
    data = np.load(shared_data("hsc_cosmos_35.npz"))
    psfs = dict(zip((str(band) for band in data["filters"]), data["psfs"], strict=True))
    return psfs | {"model": jd.GaussianPSF(0.8).stamp(43)[0]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(threshold=1e-5, error=1e-3), "error: got 0.001 and threshold 1e-05; give one of them"),
        (dict(threshold=0.0), "threshold: got 0.0; give a positive number"),
        (dict(threshold=float("nan")), "threshold: got nan; give a positive number"),
        (dict(error=-1e-3), "error: got -0.001; give a positive number"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Sparse(**settings)
