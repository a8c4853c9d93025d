"""Kernels between PSFs, against analytic ones, against SciPy, and against published figures for real PSFs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.signal

import jaxdeblend as jd
from jaxdeblend.psf_match.checks import recentered
from jaxdeblend.psf_match.match import SOLVERS
from jaxdeblend.psf_match.solvers import least_squares


def gaussian(sigma, edge=51):
    return np.asarray(jd.GaussianPSF(sigma).stamp(edge)[0], dtype=float)


def widths(kernel):
    offset = np.arange(kernel.shape[-1]) - kernel.shape[-1] // 2
    return np.sqrt([(kernel * offset[:, None] ** 2).sum(), (kernel * offset[None, :] ** 2).sum()])


def convolution_matrix(stamp, edge):
    """K -> K * S on all pixels that it reaches, column by column."""
    columns = [scipy.signal.convolve2d(unit.reshape(edge, edge), stamp) for unit in np.eye(edge**2)]
    return np.stack([column.reshape(-1) for column in columns], axis=1)


@pytest.mark.parametrize("method", SOLVERS)
def test_between_gaussians_lies_a_gaussian(method):
    matched = jd.match_psf(gaussian(3.0), gaussian(5.0), edge=43, method=method)
    np.testing.assert_allclose(
        widths(np.asarray(matched.kernel.image[0])), 4.0, atol=2e-2 if method == "fourier" else 1e-3
    )
    quality = matched.quality
    assert float(quality.l2[0]) < (1e-2 if method == "fourier" else 1e-5)
    assert float(quality.negative_lobe[0]) < 0.01 and abs(float(quality.sum_error[0])) < 1e-12


def test_least_squares_is_the_constrained_minimum():
    """SciPy's solution of the whole system with a Lagrange multiplier, rows written out one by one."""
    rng = np.random.default_rng(5)
    edge, strength = 7, 1e-3
    source = gaussian(1.3, 11) * (1 + 0.1 * rng.normal(size=(11, 11)))
    target = gaussian(1.9, 11) * (1 + 0.1 * rng.normal(size=(11, 11)))
    design = convolution_matrix(source, edge)
    laplacian = convolution_matrix(np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0.0]]), edge)
    normal = design.T @ design + strength * laplacian.T @ laplacian
    right = design.T @ np.pad(target, edge // 2).reshape(-1)
    ones = np.ones((edge**2, 1))
    system = np.block([[normal, ones], [ones.T, np.zeros((1, 1))]])
    expected = scipy.linalg.solve(system, np.append(right, 1.0))[:-1].reshape(edge, edge)
    with jax.enable_x64(True):
        found = least_squares(jnp.asarray(source), jnp.asarray(target), edge, strength)
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


def test_quality_is_what_it_says():
    source, target = gaussian(1.5, 21), gaussian(2.0, 21)
    matched = jd.match_psf(source, target, edge=9, method=jd.LeastSquares(1e-3))
    kernel = np.asarray(matched.kernel.image[0], dtype=float)
    source, target = source / source.sum(), target / target.sum()
    residual = scipy.signal.convolve2d(kernel, source, mode="full")[4:-4, 4:-4] - target
    quality = matched.quality
    np.testing.assert_allclose(quality.l2[0], np.linalg.norm(residual) / np.linalg.norm(target), rtol=1e-3)
    np.testing.assert_allclose(quality.linf[0], np.abs(residual).max() / target.max(), rtol=1e-3)
    np.testing.assert_allclose(quality.difference[0], np.abs(residual).sum(), rtol=1e-3)
    y, x = np.mgrid[-10:11, -10:11]
    enclosed = max(abs(residual[np.hypot(y, x) <= radius].sum()) for radius in range(1, 11))
    np.testing.assert_allclose(quality.encircled_energy[0], enclosed, rtol=1e-2)
    np.testing.assert_allclose(quality.negative_lobe[0], -kernel[kernel < 0].sum(), atol=1e-6)
    np.testing.assert_allclose(quality.noise_gain[0], np.sqrt((kernel**2).sum()), rtol=1e-5)
    np.testing.assert_allclose(quality.largest_gain[0], np.abs(np.fft.fft2(kernel, s=(64, 64))).max(), rtol=1e-2)


def test_bands_are_matched_each_for_itself():
    both = jd.match_psf(jd.GaussianPSF(1.2), jd.GaussianPSF([1.6, 2.2]), edge=15)
    for band, sigma in enumerate((1.6, 2.2)):
        alone = jd.match_psf(jd.GaussianPSF(1.2).stamp(23), jd.GaussianPSF(sigma).stamp(23), edge=15)
        np.testing.assert_allclose(both.kernel.image[band], alone.kernel.image[0], atol=2e-5)


def test_the_sum_is_what_was_asked_for():
    one, three = (
        jd.match_psf(gaussian(1.5, 21), gaussian(2.0, 21), kernel_sum=total).kernel.image for total in (1.0, 3.0)
    )
    np.testing.assert_allclose(three, 3 * np.asarray(one), rtol=1e-6)


def test_smaller_stamps_are_padded():
    wide = gaussian(2.0, 31)
    small = np.asarray(jd.GaussianPSF(1.2).stamp(15)[0])
    padded = np.pad(small, 8)
    one, two = (jd.match_psf(psf, wide, edge=15).kernel.image for psf in (small, padded))
    np.testing.assert_allclose(one, two, atol=1e-7 * np.max(two))
    assert jd.match_psf(small, wide, edge=15).psf_edges == (15, 31)


@pytest.mark.filterwarnings("ignore:match_psf")
def test_automatic_regularization_is_the_weakest_that_is_safe():
    rng = np.random.default_rng(2)
    source = gaussian(1.8, 31) * (1 + 0.02 * rng.normal(size=(31, 31)))
    matched = jd.match_psf(source, gaussian(2.0, 31), edge=21, method=jd.LeastSquares("auto"))
    assert 0.2 < float(matched.quality.negative_lobe[0]) <= 0.3 + 1e-6
    weaker = jd.match_psf(
        source,
        gaussian(2.0, 31),
        edge=21,
        method=jd.LeastSquares(float(matched.regularization[0]) / 1.1),
        allow_deconvolution=True,
    )
    assert float(weaker.quality.negative_lobe[0]) > 0.3


def test_an_observation_takes_the_kernels():
    psf = jd.MoffatPSF([3.0, 4.0], 3.0)
    kernel = jd.match_psf(jd.GaussianPSF(0.8), psf).kernel
    obs = jd.Observation(np.zeros((2, 32, 32)), np.ones((2, 32, 32)), psf, bands=("g", "r"), kernel=kernel)
    star = jd.Blend.of([jd.PointSource((16, 16), [1.0, 1.0])], frame=(32, 32))
    expected = np.asarray(psf.stamp(31))
    np.testing.assert_allclose(np.asarray(jd.render(star, obs))[:, 1:, 1:], expected, atol=2e-3 * expected.max())


def test_single_precision_agrees_with_double():
    """Inside a transformation everything is computed in the precision of the arrays."""
    narrow, wide = gaussian(1.5, 21), gaussian(2.0, 21)
    double = jd.match_psf(narrow, wide, edge=15).kernel.image
    single = jax.jit(lambda s, t: jd.match_psf(s, t, edge=15).kernel.image)(jnp.asarray(narrow), jnp.asarray(wide))
    np.testing.assert_allclose(single, double, atol=2e-3 * np.abs(double).max())


def test_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        narrow, wide = (jnp.asarray(gaussian(sigma, 15), dtype=float) for sigma in (1.2, 1.7))
        direction = jnp.asarray(np.random.default_rng(1).normal(size=(15, 15))) * narrow

        def peak(psf):
            return jd.match_psf(psf, wide, edge=9, method=jd.LeastSquares(1e-4)).kernel.image[0, 4, 4]

        slope = jnp.vdot(jax.grad(peak)(narrow), direction)
        h = 1e-4
        difference = (peak(narrow + h * direction) - peak(narrow - h * direction)) / (2 * h)
        np.testing.assert_allclose(slope, difference, rtol=1e-5)


NAN = np.full((5, 5), np.nan)
BAD = [
    (dict(source=np.ones((4, 4))), "psf: got stamps of even edge"),
    (dict(source=np.ones(5)), r"psf: got an array of shape \(5,\)"),
    (dict(source=NAN), "psf: got 25 pixels that are NaN or infinite"),
    (dict(target=np.zeros((5, 5))), "psf: got stamps of sum 0.0"),
    (dict(source=np.ones((2, 5, 5)), target=np.ones((3, 5, 5))), "target: got 3 bands for a source of 2"),
    (
        dict(method="magic"),
        "method: got 'magic'; give a solver, or one of 'lsq', 'fourier', 'sparse', 'basis', 'delta'",
    ),
    (dict(edge=4), "edge: got 4; give an odd number of pixels up to 21"),
    (dict(edge=23), "edge: got 23; give an odd number of pixels up to 21, the edge of the PSFs"),
    (
        dict(source=gaussian(2.0, 21), target=gaussian(1.2, 21)),
        r"target: the kernel would deconvolve: the target is narrower .* noise gain",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:24] for _, message in BAD])
def test_bad_input(changes, message):
    arguments = {"source": gaussian(1.5, 21), "target": gaussian(2.0, 21)} | changes
    with pytest.raises(ValueError, match=message):
        jd.match_psf(arguments.pop("source"), arguments.pop("target"), **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.LeastSquares(0.0), "regularization: got 0.0; give a positive number"),
        (lambda: jd.Fourier("none"), "regularization: got 'none'; give a positive number"),
        (lambda: jd.Fourier(order=-1), "order: got -1; give 0"),
        (lambda: jd.Fourier(taper=-1), "taper: got -1; give a number of pixels"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.filterwarnings("ignore:match_psf")
def test_deconvolution_must_be_allowed():
    matched = jd.match_psf(gaussian(2.0, 21), gaussian(1.6, 21), method=jd.LeastSquares(1e-4), allow_deconvolution=True)
    assert float(matched.quality.noise_gain[0]) > 0.5 and float(matched.quality.largest_gain[0]) > 1.5


def test_a_kernel_that_is_cut_off_warns():
    with pytest.warns(UserWarning, match="match_psf: the kernels leave .* of the encircled energy"):
        jd.match_psf(gaussian(1.5, 41), gaussian(5.0, 41), edge=7, allow_deconvolution=True)


def test_a_psf_that_dips_below_zero_warns():
    source = gaussian(1.5, 21)
    source[3, 3] = -0.05 * source.max()
    with pytest.warns(UserWarning, match="source: negative pixels of the PSF reach 0.050 of its maximum"):
        jd.match_psf(source, gaussian(2.0, 21), allow_deconvolution=True)


def test_the_kernel_takes_up_an_offset_or_leaves_it():
    """A PSF a pixel off its middle: the kernel moves sources, and says so, unless PSFs are centred first."""
    source, target = gaussian(1.5, 31), np.roll(gaussian(2.0, 31), 1, axis=0)
    with pytest.warns(UserWarning, match="target: its centroid is up to 1.00 pixels from that of the source"):
        moving = np.asarray(jd.match_psf(source, target).kernel.image[0])
    still = np.asarray(jd.match_psf(source, target, recenter=True).kernel.image[0])
    offset = np.arange(31) - 15
    np.testing.assert_allclose([(k * offset[:, None]).sum() for k in (moving, still)], [1.0, 0.0], atol=5e-3)
    np.testing.assert_allclose([(k * offset[None, :]).sum() for k in (moving, still)], [0.0, 0.0], atol=5e-3)


def test_half_a_pixel_is_recentred():
    """Against a profile that is drawn in the middle."""
    offset = np.arange(31) - 15.0
    moved = np.exp(-0.5 * ((offset[:, None] - 0.4) ** 2 + (offset[None, :] + 0.3) ** 2) / 2.0**2)
    centred = np.exp(-0.5 * (offset[:, None] ** 2 + offset[None, :] ** 2) / 2.0**2)
    np.testing.assert_allclose(recentered(moved), centred / centred.sum(), atol=2e-4 * centred.max() / centred.sum())


@pytest.mark.filterwarnings("ignore:match_psf")
@pytest.mark.parametrize("method", SOLVERS)
def test_every_solver_serves(method):
    """Unit sums, and stars of the wanted width."""
    matched = jd.match_psf(jd.GaussianPSF([1.4, 1.5]).stamp(21), jd.GaussianPSF(2.0).stamp(21), edge=15, method=method)
    np.testing.assert_allclose(matched.kernel.image.sum(axis=(1, 2)), 1.0, atol=1e-5)
    assert float(matched.quality.l2.max()) < 0.05 and float(matched.quality.negative_lobe.max()) < 0.5


REAL = [  # source, target, edge, λ, and the largest L2, encircled-energy error and W₋
    ("model", "g", 43, 1e-8, 5e-5, 1e-5, 0.2),
    ("model", "r", 43, 1e-8, 5e-5, 1e-5, 0.2),
    ("r", "g", 43, 1e-6, 1.2e-3, 5e-5, 0.2),
    ("g", "moffat", 43, 1e-6, 1.3e-3, 2e-4, 0.15),
    ("r", "g", 21, 1e-6, 3e-3, 2e-3, 0.2),
]


@pytest.mark.parametrize(("source", "target", "edge", "strength", "l2", "energy", "lobe"), REAL)
def test_real_psfs(shared_data, source, target, edge, strength, l2, energy, lobe):
    data = np.load(shared_data("hsc_cosmos_35.npz"))
    psfs = dict(zip((str(band) for band in data["filters"]), data["psfs"], strict=True))
    psfs |= {"model": jd.GaussianPSF(0.8), "moffat": jd.MoffatPSF(5.37, 3.0).stamp(43)}
    quality = jd.match_psf(psfs[source], psfs[target], edge=edge, method=jd.LeastSquares(strength)).quality
    assert float(quality.l2[0]) <= l2 and float(quality.encircled_energy[0]) <= energy
    assert float(quality.negative_lobe[0]) <= lobe and abs(float(quality.sum_error[0])) < 1e-12


@pytest.mark.parametrize("method", SOLVERS)
def test_the_same_psf_needs_a_kernel_of_one(method):
    psf = jd.MoffatPSF(3.4, 3.0, (0.1, -0.05)).stamp(21)
    kernel = np.asarray(jd.match_psf(psf, 7 * np.asarray(psf), edge=11, method=method).kernel.image[0])
    delta = np.zeros((11, 11))
    delta[5, 5] = 1.0
    np.testing.assert_allclose(kernel, delta, atol=1e-6)


# a basis of pixels has no penalty that could take the place of ringing
@pytest.mark.parametrize("method", [method for method in SOLVERS if method != "delta"])
@pytest.mark.parametrize("ratio", [1.005, 1.02, 1.05])
def test_bands_are_matched_to_one_that_is_little_broader(method, ratio):
    """The kernel lies between a delta and the Gaussian, and stars get the wanted PSF."""
    source, target = gaussian(2.0, 21), gaussian(2.0 * ratio, 21)
    matched = jd.match_psf(source, target, method=method)
    kernel = np.asarray(matched.kernel.image[0], float)
    seen = scipy.signal.convolve2d(kernel, source, mode="same")
    assert np.abs(seen - target).max() < 0.01 * target.max()
    assert float(matched.quality.negative_lobe[0]) < 0.5 and float(matched.quality.noise_gain[0]) < 1.05


def test_a_set_of_bands_is_matched_to_its_broadest():
    bands = np.asarray(jd.MoffatPSF([3.1, 3.5, 4.4, 4.35], 3.0).stamp(31))
    matched = jd.match_psf(bands, bands[2])
    np.testing.assert_allclose(matched.kernel.image[2, 15, 15], 1.0, atol=1e-6)
    assert float(matched.quality.negative_lobe.max()) < 0.4 and float(matched.quality.l2.max()) < 5e-3


def test_a_profile_is_the_same_as_its_stamp():
    """The FWHM that a profile states is that before the pixel: it is not narrower than its own stamp."""
    psf = jd.GaussianPSF(0.8)
    np.testing.assert_allclose(jd.match_psf(psf.stamp(9), psf).kernel.image[0, 4, 4], 1.0, atol=1e-6)


@pytest.mark.parametrize("factor", [1e-60, 1e-30, 1e30, 1e200])
def test_the_unit_of_a_stamp_does_not_matter(factor):
    source, target = gaussian(1.5, 21), gaussian(2.0, 21)
    usual = jd.match_psf(source, target).kernel.image
    np.testing.assert_allclose(jd.match_psf(factor * source, target / factor).kernel.image, usual, atol=1e-6)
