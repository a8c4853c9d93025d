"""Images matched by their stars: pairs whose kernel, scale and background are known."""

import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.psf_match.decorrelate import decorrelation_kernel

SIZE, SCALE = 240, 1.3
NARROW, WIDE = 1.5, 2.1
rng = np.random.default_rng(12)
STARS = np.stack(np.meshgrid(np.arange(30, 220, 30), np.arange(30, 220, 30)), axis=-1).reshape(-1, 2)
STARS = STARS + rng.integers(-3, 4, STARS.shape)
FLUX = rng.uniform(3e3, 3e4, len(STARS))
CONFIG = jd.ImageMatchConfig(
    kernel_edge=15, stamp_edge=33, sigmas=(1.0, 2.0), degrees=(2, 2), order=1, stars_per_cell=50
)


def sky(sigma, flux):
    images = np.zeros((1, SIZE, SIZE))
    y, x = np.mgrid[:SIZE, :SIZE]
    for (sy, sx), f, s in zip(STARS, flux, np.broadcast_to(sigma, len(STARS)), strict=True):
        stamp = np.asarray(jd.GaussianPSF(float(s)).stamp(25)[0])
        images[0, sy - 12 : sy + 13, sx - 12 : sx + 13] += f * stamp
    return images


def background():
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    return 5 + 3 * y - 2 * x


def exposure(images, sigma=NARROW, variance=4.0, **options):
    noise = np.random.default_rng(options.pop("seed", 0)).normal(0, np.sqrt(variance), images.shape)
    return jd.Exposure(images + noise, [variance], jd.GaussianPSF(sigma), bands=["r"], **options)


@pytest.fixture(scope="module")
def pair():
    return exposure(sky(NARROW, FLUX)), exposure(SCALE * sky(WIDE, FLUX) + background(), WIDE, 9.0, seed=1)


@pytest.fixture(scope="module")
def matched(pair):
    return jd.match_images(*pair, STARS, CONFIG)


def test_scale_and_background_are_found(matched):
    np.testing.assert_allclose(matched.kernel.images[0, 0].sum(), SCALE, rtol=3e-3)
    np.testing.assert_allclose(matched.background[0], background(), atol=0.3)
    assert np.isfinite(matched.condition).all() and np.asarray(matched.candidates.good).mean() > 0.9


def test_stars_are_gone(pair, matched):
    difference = matched.difference
    pulls = (difference.images / np.sqrt(difference.variance))[0]
    near = np.zeros((SIZE, SIZE), bool)
    for y, x in STARS:
        near[y - 5 : y + 6, x - 5 : x + 6] = True
    usable = ~difference.mask[0]
    assert abs(pulls[near & usable].std() - 1) < 0.07 and abs(pulls[usable].std() - 1) < 0.03
    plain = (pair[1].images - pair[0].images)[0] / np.sqrt(13.0)
    assert plain[near].std() > 5


def test_what_changed_is_left(pair):
    """A transient in the reference appears with its flux."""
    changed = np.array(pair[1].images)
    stamp = np.asarray(jd.GaussianPSF(WIDE).stamp(25)[0])
    changed[0, 105:130, 107:132] += 5000 * stamp
    reference = jd.Exposure(changed, pair[1].variance, jd.GaussianPSF(WIDE), bands=["r"])
    difference = jd.match_images(pair[0], reference, STARS, CONFIG).difference
    seen = difference.images[0, 105:130, 107:132]
    flux = (seen * stamp).sum() / (stamp**2).sum()
    error = np.sqrt(np.median(difference.variance) / (stamp**2).sum())
    assert abs(flux - 5000) < 5 * error


def test_stars_that_changed_are_rejected(pair):
    flux = FLUX.copy()
    flux[[3, 20]] *= [1.5, 0.3]
    reference = exposure(SCALE * sky(WIDE, flux) + background(), WIDE, 9.0, seed=1)
    candidates = jd.match_images(pair[0], reference, STARS, CONFIG).candidates
    good, where = np.asarray(candidates.good)[:, 0], np.asarray(candidates.positions)
    bad = (where[:, None] == STARS[[3, 20]][None]).all(axis=2).any(axis=1)
    assert bad.sum() == 2 and not good[bad].any() and good.mean() > 0.85


def test_a_kernel_that_varies_is_followed():
    """Widths grow with x; a constant kernel leaves more."""
    sigma = 1.9 + 0.4 * STARS[:, 1] / SIZE
    exposures = exposure(sky(NARROW, FLUX)), exposure(sky(sigma, FLUX), WIDE, 9.0, seed=1)
    loose = dict(kernel_edge=15, stamp_edge=33, sigmas=(1.0, 2.0), degrees=(2, 2), cell=80, max_rms=20.0, max_mean=20.0)
    left = []
    for order in (0, 1):
        config = jd.ImageMatchConfig(order=order, clip=50.0, **loose)
        difference = jd.match_images(*exposures, STARS, config).difference
        left.append(np.where(difference.mask, 0, difference.images / np.sqrt(difference.variance)).std())
    assert left[1] < 1.1 < left[0]


def test_principal_components_serve_as_a_basis(pair, matched):
    """Two of them do what twelve functions did."""
    config = jd.ImageMatchConfig(15, 33, sigmas=(1.0, 2.0), degrees=(2, 2), n_components=2, order=1, stars_per_cell=50)
    difference = jd.match_images(*pair, STARS, config).difference
    pulls = (difference.images / np.sqrt(difference.variance))[~difference.mask]
    assert abs(pulls.std() - 1) < 0.03


def test_stars_that_do_not_determine_the_solution_warn(pair):
    """The same two stars four times: positions on a line."""
    with pytest.warns(UserWarning, match="match_images: the solution is poorly determined"):
        jd.match_images(*pair, np.repeat(STARS[[0, 24]], 4, axis=0), CONFIG)


def test_decorrelated_noise_is_white():
    """Neighbouring pixels of the difference, where most of the noise is of the image that was convolved."""
    pair = exposure(sky(NARROW, FLUX), variance=36.0), exposure(SCALE * sky(WIDE, FLUX), WIDE, 4.0, seed=1)
    difference = jd.match_images(*pair, STARS, CONFIG).difference
    white = jd.match_images(*pair, STARS, CONFIG, decorrelate=True).difference

    def correlation(image):
        inner = np.where(image.mask, 0, image.images)[0, 45:-45, 45:-45]
        return (inner[:, 1:] * inner[:, :-1]).mean() / (inner**2).mean()

    def spread(image):
        return (image.images / np.sqrt(image.variance))[0, 45:-45, 45:-45].std()

    assert correlation(difference) > 0.1 > 0.03 > abs(correlation(white))
    assert abs(spread(white) - 1) < 0.05 and not white.mask[0, 45:-45, 45:-45].any()


def test_decorrelation_kernel_makes_the_power_flat():
    """σ_J² + |K̂|² σ_I² times |D̂|² is σ_J² + (ΣK)² σ_I² at every frequency."""
    kernel = 1.4 * np.asarray(jd.MoffatPSF(3.0).stamp(15))
    whitening = np.asarray(decorrelation_kernel(kernel, 2.0, 3.0, 63))
    power = [
        np.abs(np.fft.rfft2(np.pad(array[0], ((0, 128 - array.shape[-1]),) * 2))) ** 2 for array in (kernel, whitening)
    ]
    np.testing.assert_allclose((3 + 2 * power[0]) * power[1], 3 + 2 * 1.4**2, rtol=5e-3)
    np.testing.assert_allclose(whitening.sum(), 1.0, rtol=1e-5)


def test_masked_pixels(pair):
    """Stars with a masked pixel in the exposure are left out, in the reference only that pixel."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[STARS[8][0], STARS[8][1] + 3] = True
    images = np.where(mask, np.nan, pair[0].images)
    exposed = jd.Exposure(images, pair[0].variance, jd.GaussianPSF(NARROW), bands=["r"], mask=mask)
    matched = jd.match_images(exposed, pair[1], STARS, CONFIG)
    assert not (np.asarray(matched.candidates.positions) == STARS[8]).all(axis=1).any()
    assert matched.difference.mask[0][mask].all() and np.isfinite(matched.difference.images).all()
    other = jd.Exposure(
        np.where(mask, 1e9, pair[1].images), pair[1].variance, jd.GaussianPSF(WIDE), bands=["r"], mask=mask
    )
    np.testing.assert_allclose(
        jd.match_images(pair[0], other, STARS, CONFIG).kernel.images[0, 0].sum(), SCALE, rtol=3e-3
    )


def test_bad_input(pair):
    with pytest.raises(ValueError, match="positions: 2 stars are 16 pixels or more from the border, .* for 3 terms"):
        jd.match_images(*pair, STARS[[0, 30]], CONFIG)
    with pytest.raises(ValueError, match=r"positions: got shape \(2,\); give \(star, 2\)"):
        jd.match_images(*pair, np.zeros(2), CONFIG)
    other = jd.Exposure(np.zeros((1, 50, 50)), [1.0], jd.GaussianPSF(WIDE), bands=["r"])
    with pytest.raises(ValueError, match="reference: got images of shape .* both must have the same pixels"):
        jd.match_images(pair[0], other, STARS, CONFIG)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(kernel_edge=20), "kernel_edge: got 20; give an odd number"),
        (dict(stamp_edge=21), "stamp_edge: got 21; give more than the kernel's 21"),
        (dict(cell=0), "cell: got 0; give the size of a cell"),
        (dict(n_components=0), "n_components: got 0; give a number of principal"),
        (dict(order=-1), "order: got -1; give the degree of the polynomials"),
        (dict(background_order=-2), "background_order: got -2; give the degree"),
        (dict(polynomial="legendre"), "polynomial: got 'legendre'; give one of 'chebyshev', 'power'"),
        (dict(sigmas=(0.7, np.nan), degrees=(2, 2)), "sigmas: got .* give positive widths"),
        (dict(sigmas=(0.7,)), "sigmas: got 1 widths for 3 degrees"),
        (dict(max_rounds=0), "max_rounds: got 0; give a number of rounds"),
        (dict(max_rms=np.nan), "max_rms: got nan; give a number of σ"),
        (dict(mask_share=1.0), "mask_share: got 1.0; give a share"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        jd.ImageMatchConfig(**settings)


def test_exchanged_images_are_named(pair):
    """Bright stars: the wider image cannot be made the narrower one."""
    with pytest.raises(ValueError, match=r"exposure: the exposure has the wider PSF in band r .*; exchange the two"):
        jd.match_images(pair[1], pair[0], STARS, CONFIG)


def test_images_smaller_than_what_is_cut_out(pair):
    tiny = jd.Exposure(np.zeros((1, 31, 31)), [1.0], jd.GaussianPSF(NARROW), bands=["r"])
    with pytest.raises(ValueError, match=r"stamp_edge: got .* pixels for images of shape \(31, 31\)"):
        jd.match_images(tiny, tiny, STARS, CONFIG)
