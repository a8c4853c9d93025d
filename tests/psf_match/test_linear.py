"""Joint fits, against SciPy's solution of the whole system and against kernels that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.signal

from jaxdeblend.ops import polynomials
from jaxdeblend.psf_match.basis import gaussian_basis
from jaxdeblend.psf_match.linear import fit_joint, fit_single, residuals, risk

EDGE, SIZE, COUNT = 5, 13, 12  # the same in most tests, for few compilations
MODE = {"full": "same", "valid": "valid"}


@pytest.fixture
def scene(rng):
    """Stamps of noise, not related to one another, with weights, a basis and positions."""
    with jax.enable_x64(True):
        basis = np.asarray(gaussian_basis(EDGE, (0.6, 1.2), (2, 1)))
        y, x = rng.uniform(-1, 1, (2, COUNT))
        terms = [np.asarray(polynomials.terms(y, x, order)) for order in (2, 1)]
    source, target = rng.normal(size=(2, COUNT, SIZE, SIZE))
    weights = rng.uniform(0.5, 2.0, (COUNT, SIZE, SIZE)) * (rng.random((COUNT, SIZE, SIZE)) > 0.1)
    return basis, source, target, weights, *terms


def inner(stamps, region):
    margin = 0 if region == "full" else EDGE // 2
    return stamps[..., margin : SIZE - margin, margin : SIZE - margin]


def design(basis, source, of_kernel, of_background, region):
    """Column by column: B_0, every other function times every term of position, the background."""
    columns = [
        np.stack([scipy.signal.convolve2d(stamp, kernel, mode=MODE[region]) for stamp in source]) for kernel in basis
    ]
    one = np.ones_like(columns[0])
    varying = [column * terms[:, None, None] for column in columns[1:] for terms in of_kernel.T]
    background = [one * terms[:, None, None] for terms in of_background.T]
    return np.stack([columns[0], *varying, *background], axis=-1).reshape(-1, 1 + len(varying) + len(background))


@pytest.mark.parametrize(("region", "kernel_sum"), [("full", None), ("valid", None), ("full", 1.5)])
def test_it_is_the_least_squares_solution(scene, region, kernel_sum):
    basis, source, target, weights, of_kernel, of_background = scene
    matrix = design(basis, source, of_kernel, of_background, region)
    root, right = np.sqrt(inner(weights, region)).reshape(-1), inner(target, region).reshape(-1)
    if kernel_sum is None:
        expected = scipy.linalg.lstsq(root[:, None] * matrix, root * right)[0]
    else:
        rest = scipy.linalg.lstsq(root[:, None] * matrix[:, 1:], root * (right - kernel_sum * matrix[:, 0]))[0]
        expected = np.append(kernel_sum, rest)
    with jax.enable_x64(True):
        fit = fit_joint(*scene, region=region, kernel_sum=kernel_sum)
    n = 1 + (len(basis) - 1) * of_kernel.shape[1]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(fit.coefficients[1:].reshape(-1), expected[1:n], atol=1e-10 * scale)
    np.testing.assert_allclose(fit.background, expected[n:], atol=1e-10 * scale)
    assert float(fit.coefficients[0, 0]) == pytest.approx(expected[0]) and not fit.coefficients[0, 1:].any()
    assert 1 < float(fit.condition) < 1e4


@pytest.mark.parametrize("second", [1.2, 0.6 + 1e-7])
@pytest.mark.parametrize("double", [True, False])
def test_a_kernel_that_varies_is_recovered(scene, rng, second, double):
    """Cut-outs of an image that was convolved; also with functions that are all but the same."""
    _, source, _, _, of_kernel, of_background = scene
    with jax.enable_x64(True):
        basis = np.asarray(gaussian_basis(EDGE, (0.6, second), (2, 1)))
    truth = rng.normal(size=(len(basis), of_kernel.shape[1]))
    truth[0] = 0.8, 0, 0, 0, 0, 0
    kernels = np.einsum("cp,tp,tyx->cyx", of_kernel, truth, basis)
    target = np.stack([scipy.signal.convolve2d(*each, mode="same") for each in zip(source, kernels, strict=True)])
    target += (of_background @ [0.3, 0.1, -0.2])[:, None, None]
    with jax.enable_x64(double):
        fit = fit_joint(basis, source, target, None, of_kernel, of_background, region="valid")
        found = fit.kernels(basis, of_kernel)
    tolerance = 1e-8 if double else 1e-3
    np.testing.assert_allclose(found, kernels, atol=tolerance * np.abs(kernels).max())
    np.testing.assert_allclose(fit.background, [0.3, 0.1, -0.2], atol=tolerance)
    if second == 1.2:
        np.testing.assert_allclose(fit.coefficients, truth, atol=tolerance)


def test_unusable_pixels_do_not_count(scene):
    basis, source, target, weights, *terms = scene
    fewer = weights * (np.arange(COUNT) != 3)[:, None, None]
    with jax.enable_x64(True):
        for usable in (weights, fewer):
            spoilt = np.where(usable > 0, target, np.nan)
            clean, same = (fit_joint(basis, source, stamps, usable, *terms) for stamps in (target, spoilt))
            np.testing.assert_array_equal(same.coefficients, clean.coefficients)


def test_each_candidate_alone(scene):
    basis, source, target, weights, *_ = scene
    alone = np.ones((1, 1))
    with jax.enable_x64(True):
        fits = fit_single(basis, source, target, weights, background=True, region="valid")
        for number in range(COUNT):
            root = np.sqrt(inner(weights[number], "valid")).reshape(-1)
            matrix = design(basis, source[number, None], alone, alone, "valid")
            expected = scipy.linalg.lstsq(root[:, None] * matrix, root * inner(target[number], "valid").reshape(-1))[0]
            np.testing.assert_allclose(fits.coefficients[number], expected[:-1], atol=1e-9)
            np.testing.assert_allclose(fits.background[number], expected[-1], atol=1e-9)
        np.testing.assert_allclose(fits.kernels(basis).sum((1, 2)), fits.coefficients[:, 0], atol=1e-9)
    assert (np.asarray(fits.condition) < 1e3).all()


@pytest.mark.parametrize("region", ["full", "valid"])
def test_residuals_are_in_units_of_the_noise(scene, rng, region):
    _, source, target, weights, *_ = scene
    kernels, level = rng.normal(size=(COUNT, EDGE, EDGE)), rng.normal(size=COUNT)
    weights[0] = 0
    with jax.enable_x64(True):
        found = residuals(kernels, source, target, weights, level, region=region)
    for number in range(1, COUNT):
        model = scipy.signal.convolve2d(source[number], kernels[number], mode=MODE[region]) + level[number]
        usable = inner(weights[number], region)
        left = ((model - inner(target[number], region)) * np.sqrt(usable))[usable > 0]
        np.testing.assert_allclose(found.mean[number], left.mean(), atol=1e-12)
        np.testing.assert_allclose(found.rms[number], np.sqrt((left**2).mean()), rtol=1e-12)
    assert float(found.mean[0]) == float(found.rms[0]) == 0


def test_what_is_not_determined_is_told(scene):
    """Fewer candidates than terms of position, two functions that are the same, no data: solutions of least norm."""
    basis, source, target, _, *terms = scene
    twice, once = basis.copy(), basis.copy()
    twice[-1], once[-1] = basis[-2], 0.0
    few = np.ones_like(source) * (np.arange(COUNT) < 3)[:, None, None]
    with jax.enable_x64(True):
        fits = [fit_joint(functions, source, target, None, *terms) for functions in (twice, once)]
        np.testing.assert_allclose(fits[0].images(twice), fits[1].images(once), atol=1e-9)
        np.testing.assert_allclose(fits[0].coefficients[-1], fits[1].coefficients[-2] / 2, atol=1e-9)
        fits += [fit_joint(basis, source, target, weights, *terms) for weights in (few, 0 * few)]
    assert all(np.isinf(float(fit.condition)) and np.isfinite(np.asarray(fit.coefficients)).all() for fit in fits)
    assert not np.asarray(fits[-1].coefficients).any()


def test_it_has_derivatives(scene, rng):
    basis, source, target, weights, of_kernel, of_background = scene
    direction = rng.normal(size=source.shape)
    with jax.enable_x64(True):

        def total(step):
            fit = fit_joint(basis, source + step * direction, target, weights, of_kernel, of_background)
            return jnp.vdot(fit.coefficients, jnp.arange(fit.coefficients.size, dtype=float).reshape(-1, 6) / 50)

        slope, h = jax.jit(jax.grad(total))(0.0), 1e-5
        np.testing.assert_allclose(slope, (total(h) - total(-h)) / (2 * h), rtol=1e-6)


def test_the_risk_is_the_error(rng):
    """Over many draws of the noise, the mean risk is the mean squared error, less that of a kernel of zeros."""
    design, truth, sigma = rng.normal(size=(30, 6)), rng.normal(size=6), 0.5
    strengths = np.array([0.1, 1.0, 10.0])
    data = design @ truth + sigma * rng.normal(size=(4000, 30))
    matrix, penalty = design.T @ design, np.diag(np.arange(1, 7.0))
    found = np.stack([np.linalg.solve(matrix + x * penalty, (data @ design).T).T for x in strengths], axis=1)
    errors = ((found - truth) ** 2).sum(-1).mean(0) - (truth**2).sum()
    with jax.enable_x64(True):
        given = (jnp.asarray(array) for array in (matrix, penalty, strengths, np.array(sigma**2)))
        one = jax.jit(jax.vmap(lambda b, m, h, x, v: risk(m, b, h, x, v), in_axes=(0, None, None, None, None)))
        risks = np.asarray(one(jnp.asarray(data @ design), *given))
    np.testing.assert_allclose(risks.mean(0), errors, atol=5 * np.std(risks, axis=0).max() / np.sqrt(4000))


@pytest.mark.parametrize("condition", [np.inf, 50.0])
def test_the_risk_written_out(rng, condition):
    design, vector = rng.normal(size=(20, 5)) * 10.0 ** -np.arange(5), rng.normal(size=5)
    matrix, penalty, variance = design.T @ design, np.eye(5) + 0.1, 0.3
    _, values, v = np.linalg.svd(matrix)
    kept = v[values > values[0] / condition].T
    inverse = np.linalg.pinv(matrix, rcond=1 / condition)
    expected = []
    for strength in (0.1, 2.0):
        regularised = np.linalg.inv(matrix + strength * penalty)
        a = regularised @ vector
        trace = variance * np.trace(kept @ kept.T @ regularised)
        expected.append(a @ kept @ kept.T @ a + 2 * (trace - a @ inverse @ vector))
    with jax.enable_x64(True):
        arrays = (jnp.asarray(array) for array in (matrix, vector, penalty, np.array([0.1, 2.0]), np.array(variance)))
        np.testing.assert_allclose(risk(*arrays, condition), expected, rtol=1e-6)


BAD = [
    (dict(region="inner"), "region: got 'inner'; give one of 'full', 'valid'"),
    (dict(basis=np.ones((1, 4, 4))), "basis: got kernels of even edge 4"),
    (dict(source=np.ones((1, 8, 8)), target=np.ones((1, 8, 8))), "source: got stamps of even edge 8"),
    (dict(basis=np.ones((1, 11, 11)), region="valid"), "basis: kernels of edge 11 are larger than the stamps of 9"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:20] for _, message in BAD])
def test_bad_input(changes, message):
    stamps = np.ones((1, 9, 9))
    arguments = {"basis": np.ones((1, 3, 3)), "source": stamps, "target": stamps, "region": "full"} | changes
    region = arguments.pop("region")
    with pytest.raises(ValueError, match=message):
        fit_joint(**arguments, weights=None, kernel_terms=np.ones((1, 1)), region=region)
    with pytest.raises(ValueError, match=message):
        fit_single(**arguments, region=region)
