"""Bases of kernels, against formulas written out, and the kernels that are built from them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.signal

import jaxdeblend as jd
from jaxdeblend.psf_match.basis import (
    DIFFERENCES,
    PRESETS,
    DeltaBasis,
    GaussianBasis,
    delta_basis,
    difference_matrix,
    gaussian_basis,
    kernel_edge,
    matched_widths,
    principal_basis,
)

SIGMAS, DEGREES = (0.7, 1.5, 3.0), (4, 2, 2)
CUBIC = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)]  # powers of u and v


def gaussian(sigma, edge=31):
    return np.asarray(jd.GaussianPSF(sigma).stamp(edge)[0], dtype=float)


def host(array):
    return np.asarray(array, dtype=float)


def double(make, *arguments, **options):
    """In double precision, in one program: much faster than one after the other."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda: make(*arguments, **options))())


def solved(solver, source, target, edge, x64=True):
    with jax.enable_x64(x64):
        return jax.tree.map(np.asarray, eqx.filter_jit(solver.solve)(jnp.asarray(source), jnp.asarray(target), edge))


def error_of(kernel, source, target):
    return np.linalg.norm(scipy.signal.convolve2d(source, kernel, mode="same") - target) / np.linalg.norm(target)


def test_the_gaussians_written_out():
    v, u = np.mgrid[-9:10, -9:10] / 9
    first = np.exp(-0.5 * (u**2 + v**2) * 81 / 9)
    expected = [first / first.sum()]
    for a, b in CUBIC[1:]:
        term = first * u**a * v**b
        if abs(term.sum()) > 1.2e-7:
            term = term / term.sum() - expected[0]
        expected.append(term / np.linalg.norm(term))
    np.testing.assert_allclose(double(gaussian_basis, 19, [3.0], [3]), expected, atol=1e-14)


def test_hotpants_has_its_own_order_and_scale():
    """Numbers that relate the terms that HOTPANTS uses to those of unit norm, found from its output."""
    order = [0, 2, 5, 9, 1, 4, 8, 3, 7, 6]
    norms = [1, 8.866037e-02, 1.218095e01, 5.099318e-03, 8.866037e-02, 4.179772e-02]
    norms += [1.138120e-02, 1.218095e01, 1.138120e-02, 5.099318e-03]
    basis, ours = (double(gaussian_basis, 19, [3.0], [3], ordering=ordering) for ordering in ("hotpants", "lsst"))
    np.testing.assert_allclose(basis, ours[order] / np.array(norms)[:, None, None], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("preset", "edge", "x64"), [(27, 21, True), (49, 21, True), (77, 31, True), (77, 31, False)])
def test_only_the_first_term_carries_flux(preset, edge, x64):
    sigmas, degrees = PRESETS[preset]
    with jax.enable_x64(x64):
        basis = jax.jit(lambda sigmas: gaussian_basis(edge, sigmas, degrees))(jnp.array(sigmas))
    assert basis.shape == (preset, edge, edge) and basis.dtype == (np.float64 if x64 else np.float32)
    np.testing.assert_allclose(host(basis).sum((1, 2)), [1] + [0] * (preset - 1), atol=1e-13 if x64 else 2e-6)
    np.testing.assert_allclose(np.linalg.norm(host(basis[1:]), axis=(1, 2)), 1, rtol=1e-12 if x64 else 1e-5)


def test_both_orderings_span_the_same_kernels():
    both = (double(gaussian_basis, 21, SIGMAS, DEGREES, ordering=ordering) for ordering in ("lsst", "hotpants"))
    one, other = (basis.reshape(27, -1).T / np.linalg.norm(basis, axis=(1, 2)) for basis in both)
    for a, b in ((one, other), (other, one)):
        left = b - a @ scipy.linalg.lstsq(a, b)[0]
        assert np.abs(left).max() < 1e-9


def test_widths_follow_the_psfs():
    scale = 2 * np.sqrt(2 * np.log(2))
    np.testing.assert_allclose(matched_widths(3 * scale, 5 * scale, 3), [2, 4, 8], rtol=1e-5)
    np.testing.assert_allclose(matched_widths(5 * scale, 3 * scale, 2, ratio=1.6), [2.5, 4], rtol=1e-5)
    np.testing.assert_allclose(matched_widths(3.0, 3.0, 2), [0.7, 1.4], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda w: matched_widths(3 * scale, w, 1))(5 * scale), [2], rtol=1e-5)
    assert [kernel_edge(sigma) for sigma in (1.0, 3.6, 4.0, 8.0)] == [21, 23, 25, 35]
    assert kernel_edge(8.0, largest=51) == 49


STENCILS = {
    "laplacian5": [np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])],
    "laplacian9": [np.array([[1, 4, 1], [4, -20, 4], [1, 4, 1]]) / 6],
    "forward1": [np.array([[0, 0, 0], [0, -1, 0], [0, 1, 0]]), np.array([[0, 0, 0], [0, -1, 1], [0, 0, 0]])],
    "forward2": [np.array([[1], [-2], [1]]), np.array([[1, -2, 1]])],
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_differences_are_those_of_the_kernel_continued_by_zeros(rng, kind):
    kernel = rng.normal(size=(7, 7))
    padded = np.pad(kernel, 3)
    images = [scipy.ndimage.correlate(padded, stencil.astype(float), mode="constant") for stencil in STENCILS[kind]]
    found = double(difference_matrix, 7, kind) @ kernel.reshape(-1)
    expected = np.concatenate([image[image != 0] for image in images])
    np.testing.assert_allclose(found[found != 0], expected, atol=1e-12)


def test_principal_components_span_what_kernels_differ_by(rng):
    """Candidates made of a mean and two patterns, of any sum, against the eigenvectors of their covariance."""
    mean, *patterns = double(gaussian_basis, 11, [1.5], [2])[[0, 1, 3]]
    amounts = rng.normal(size=(20, 2)) * [0.3, 0.05]
    kernels = mean + np.einsum("ca,ayx->cyx", amounts, patterns)
    basis, variances = jax.jit(lambda kernels: principal_basis(kernels, 3))(kernels * rng.uniform(1, 5, (20, 1, 1)))
    basis, variances = host(basis), host(variances)
    values, vectors = np.linalg.eigh(np.cov(kernels.reshape(20, -1).T))
    np.testing.assert_allclose(variances, values[::-1][:3], atol=1e-6 * values.max())
    np.testing.assert_allclose(basis[0], kernels.mean(0), atol=1e-6)
    for found, expected in zip(basis[1:3], vectors.T[::-1], strict=False):
        assert abs(np.vdot(found, expected)) == pytest.approx(1, abs=1e-4) and found.max() == np.abs(found).max()
    np.testing.assert_allclose(basis.sum((1, 2)), [1, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(basis[1:], axis=(1, 2)), 1, rtol=1e-5)


def test_one_function_for_each_pixel():
    np.testing.assert_array_equal(delta_basis(3).reshape(9, 9), np.eye(9))


# ------------------------------------------------------------------------------------------------------------- solvers


def test_the_kernel_between_gaussians_is_found():
    """σ 1.5 to 2.5 is a Gaussian of σ 2; the widths that are chosen by FWHM contain it too, as exact as these are."""
    y, x = np.mgrid[-10:11, -10:11]
    expected = np.exp(-(x**2 + y**2) / 8) / (8 * np.pi)
    found = solved(GaussianBasis((1.0, 2.0), (2, 2)), gaussian(1.5), gaussian(2.5), 21).kernel
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
    assert abs(found.sum() - 1) < 1e-12
    scaled = solved(GaussianBasis(ordering="hotpants"), gaussian(1.5), gaussian(2.5), 21).kernel
    assert error_of(scaled, gaussian(1.5), gaussian(2.5)) < 1e-4


@pytest.mark.parametrize("kind", ["laplacian9", "forward1"])
def test_delta_functions_are_the_constrained_minimum(rng, kind):
    edge, strength = 7, 1e-3
    source = gaussian(1.3, 11) * (1 + 0.1 * rng.normal(size=(11, 11)))
    target = gaussian(1.9, 11) * (1 + 0.1 * rng.normal(size=(11, 11)))
    columns = [scipy.signal.convolve2d(unit.reshape(edge, edge), source) for unit in np.eye(edge**2)]
    design = np.stack([column.reshape(-1) for column in columns], axis=1)
    differences = double(difference_matrix, edge, kind)
    normal = design.T @ design + strength * differences.T @ differences
    ones = np.ones((edge**2, 1))
    system = np.block([[normal, ones], [ones.T, np.zeros((1, 1))]])
    right = np.append(design.T @ np.pad(target, edge // 2).reshape(-1), 1.0)
    expected = scipy.linalg.solve(system, right)[:-1].reshape(edge, edge)
    found = solved(DeltaBasis(strength, kind), source, target, edge).kernel
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())
    if kind != "laplacian9":
        return
    relative = solved(DeltaBasis("relative", kind), source, target, edge).regularization
    trace = np.trace(design.T @ design) / np.trace(differences.T @ differences)
    np.testing.assert_allclose(relative, 1e-4 * trace, rtol=1e-9)


@pytest.mark.parametrize(("rule", "noise"), [("unbiased", 3e-3), ("biased", None)])
def test_the_strength_of_least_risk_suits_the_noise(rng, rule, noise):
    """The kernel is nearer to the true one than with a hundredth of λ."""
    true = gaussian(0.9, 11)
    source = gaussian(0.45, 21)
    target = scipy.signal.convolve2d(source, true, mode="same") + 3e-3 * rng.normal(size=(21, 21))
    chosen = solved(DeltaBasis(rule, noise=noise), source, target, 11)
    strength = float(chosen.regularization)
    weaker = solved(DeltaBasis(0.01 * strength), source, target, 11)
    error, other = (np.linalg.norm(solution.kernel - true) for solution in (chosen, weaker))
    assert 0.1 <= strength / 3e-3**2 <= 300 and error < 0.3 * np.linalg.norm(true) and error < other


REAL = [  # source, target, solver, edge, and the published L2 and W₋, r to g of HSC and g to a Moffat profile
    ("r", "g", GaussianBasis.preset(27), 21, 9.4e-3, 0.01),
    ("g", "moffat", GaussianBasis.preset(27), 21, 5.4e-3, 0.25),
    ("r", "g", GaussianBasis.preset(49), 21, 4.4e-3, 0.01),
    ("r", "g", GaussianBasis.preset(77), 31, 2.3e-3, 0.01),
    ("g", "moffat", GaussianBasis.preset(77), 31, 1.4e-3, 0.1),
    ("r", "g", DeltaBasis(), 21, 2.6e-3, 0.2),
]


@pytest.mark.parametrize(("source", "target", "solver", "edge", "l2", "lobe"), REAL)
def test_real_psfs(shared_data, source, target, solver, edge, l2, lobe):
    data = np.load(shared_data("hsc_cosmos_35.npz"))
    psfs = dict(zip((str(band) for band in data["filters"]), data["psfs"], strict=True))
    psfs["moffat"] = jd.MoffatPSF(5.37, 3.0).stamp(43)
    quality = jd.match_psf(psfs[source], psfs[target], edge=edge, method=solver).quality
    assert float(quality.l2[0]) <= 1.2 * l2 and float(quality.negative_lobe[0]) <= lobe
    assert abs(float(quality.sum_error[0])) < 1e-12


def test_single_precision_agrees_with_double():
    psfs = [host(jd.MoffatPSF(fwhm, 3.5).stamp(21)[0]) for fwhm in (3.5, 5.0)]
    for solver in (GaussianBasis((0.7, 1.5), (6, 4)), DeltaBasis()):
        double, single = (solved(solver, *psfs, 15, x64).kernel for x64 in (True, False))
        assert single.dtype == np.float32 and abs(single.sum() - 1) < 1e-5
        np.testing.assert_allclose(error_of(single, *psfs), error_of(double, *psfs), rtol=1e-2)


@pytest.mark.parametrize("solver", [GaussianBasis(degrees=(2, 1)), DeltaBasis(1e-4)])
def test_gradients_agree_with_finite_differences(solver):
    with jax.enable_x64(True):
        narrow, wide = (jnp.asarray(gaussian(sigma, 15)) for sigma in (1.2, 1.7))
        direction = jnp.asarray(np.random.default_rng(1).normal(size=(15, 15))) * narrow

        def peak(step):
            return solver.solve(narrow + step * direction, wide, 9).kernel[4, 4]

        slope, h = jax.jit(jax.value_and_grad(peak)), 1e-4
        np.testing.assert_allclose(slope(0.0)[1], (slope(h)[0] - slope(-h)[0]) / (2 * h), rtol=1e-3)


BAD = [
    (lambda: gaussian_basis(20, [1.0], [2]), "edge: got 20; give an odd number of pixels"),
    (lambda: gaussian_basis(21, [1.0, 2.0], [2]), "sigmas: got 2 widths for 1 degrees; give as many"),
    (lambda: gaussian_basis(21, [1.0], [-1]), r"degrees: got \(-1,\); give a degree of 0 or more"),
    (lambda: gaussian_basis(21, [1.0], [2], ordering="sdss"), "ordering: got 'sdss'; give one of 'lsst', 'hotpants'"),
    (lambda: matched_widths(3.0, 4.0, 0), "n: got 0; give the number of Gaussians"),
    (lambda: matched_widths(3.0, 4.0, 2, ratio=0.5), "ratio, smallest: got 0.5 and 0.7"),
    (lambda: difference_matrix(5, "backward"), "kind: got 'backward'; give one of 'laplacian5'"),
    (lambda: principal_basis(np.ones((3, 5, 5)), 3), "n: got 3 components of 3 kernels; give at most 2"),
    (lambda: GaussianBasis((1.0, 2.0)), "sigmas: got 2 widths for 3 degrees"),
    (lambda: GaussianBasis.preset(30), "n_terms: got 30; give one of 27, 49, 77"),
    (lambda: DeltaBasis(0.0), "strength: got 0.0; give a positive number, or one of 'relative'"),
    (lambda: DeltaBasis("auto"), "strength: got 'auto'; give a positive number, or one of 'relative'"),
    (lambda: DeltaBasis(kind="none"), "kind: got 'none'"),
    (lambda: DeltaBasis(noise=-1.0), "noise: got -1.0; give a positive number, or None"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:24] for _, message in BAD])
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
