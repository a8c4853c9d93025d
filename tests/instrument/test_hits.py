import numpy as np
import pytest
from scipy.special import erf

import jaxdeblend as jd
from jaxdeblend.instrument.hits import find_hits, without_pixels


def gaussian(shape, center, sigma):
    axes = [np.arange(n) - c for n, c in zip(shape, center, strict=True)]
    y, x = (0.5 * (erf((a + 0.5) / sigma / 2**0.5) - erf((a - 0.5) / sigma / 2**0.5)) for a in axes)
    return y[:, None] * x[None, :]


def observe(image, sigma, variance=None):
    variance = np.ones_like(image) if variance is None else variance
    psf = gaussian((25, 25), (12, 12), sigma)[None]
    return jd.Observation(image[None], variance[None], psf, bands=["r"])


@pytest.mark.parametrize("sigma", [0.51, 0.8, 1.4, 2.2])
def test_stars_and_galaxies_have_none(sigma):
    """50 scenes of stars of S/N up to 1000 and bright galaxies: no false alarm."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        image = 1e4 * gaussian((48, 48), rng.uniform(10, 38, 2), np.hypot(sigma, 2))
        image += 10 ** rng.uniform(1, 6) * gaussian((48, 48), rng.uniform(10, 38, 2), sigma)
        variance = 1 + image
        noisy = image + rng.normal(size=image.shape) * np.sqrt(variance)
        assert not find_hits(observe(noisy, sigma, variance)).any()


@pytest.mark.parametrize("height", [30.0, 1e3, 1e5])
def test_hits_are_found(height):
    """Single pixels and short tracks, on sky and beside a star of S/N 200; the star keeps its pixels."""
    rng = np.random.default_rng(2)
    star = 1e3 * gaussian((48, 48), (24.3, 23.8), 1.4)
    n_found = 0
    for _ in range(50):
        image = star + rng.normal(size=star.shape)
        y, x = rng.integers(5, 43, 2)
        length = rng.integers(1, 4)
        image[y, x : x + length] += height
        found = find_hits(observe(image, 1.4))[0]
        n_found += found[y, x : x + length].all()
        found[y, x : x + length] = False
        assert not found.any()
    assert n_found >= 48


@pytest.mark.parametrize("sigma", [1.4, 1.7])
@pytest.mark.parametrize("step", [(0, 1), (1, 0), (1, 1), (1, -1)])
def test_faint_tracks_on_a_star_are_found(sigma, step):
    """Tracks of 20 σ a pixel, in any direction, within three pixels of the centre of a star of S/N 100."""
    rng = np.random.default_rng(3)
    star = 100 * sigma * np.sqrt(4 * np.pi) * gaussian((48, 48), (23.3, 22.8), sigma)
    n_found = 0
    for _ in range(40):
        image = star + rng.normal(size=star.shape)
        y, x = rng.integers(20, 27, 2)
        for k in range(rng.integers(1, 4)):
            image[y + k * step[0], x + k * step[1]] += 20
        n_found += find_hits(observe(image, sigma)).any()
    assert n_found >= 38


@pytest.mark.parametrize("error", [0.9, 1.2])
def test_a_psf_that_is_wrong_by_a_tenth_makes_no_hits(error):
    image = 1e6 * gaussian((48, 48), (23.3, 22.8), 1.4 * error)
    assert not find_hits(observe(image, 1.4, 1 + image)).any()


@pytest.mark.parametrize("star", [0.0, 1e4])
def test_cold_pixels_are_found(star):
    """On sky, and in the core of a star, whose other pixels are kept."""
    image = star * gaussian((20, 20), (5.0, 5.0), 1.4)
    image[4, 5] = -50.0 if star == 0 else 0.0
    assert np.argwhere(find_hits(observe(image, 1.4, 1 + np.abs(image)))).tolist() == [[0, 4, 5]]


def test_unusable_pixels_are_none_and_say_nothing_of_others():
    image, mask = np.zeros((20, 20)), np.zeros((1, 20, 20), bool)
    image[4, 5], image[4, 6], image[0, 3] = 1e4, 100.0, 100.0
    mask[0, 4, 5] = True
    obs = jd.Observation(image[None], np.ones((1, 20, 20)), jd.GaussianPSF(1.4), bands=["r"], mask=mask)
    assert np.argwhere(find_hits(obs)).tolist() == [[0, 0, 3], [0, 4, 6]]


def test_pixels_are_taken_out():
    obs = observe(np.ones((8, 8)), 1.4)
    hits = np.zeros((1, 8, 8), bool)
    hits[0, 2, 3] = True
    left = without_pixels(obs, hits)
    assert left.images[0, 2, 3] == 0 and left.weights[0, 2, 3] == 0
    assert (left.weights > 0).sum() == 63 and left.images.dtype == obs.images.dtype


@pytest.mark.parametrize("sigma", [0.8, 1.4, 2.0])
def test_the_rim_of_a_masked_core_is_no_hit(sigma):
    """Where the core of a bright star is masked, no pixel has its brighter neighbour."""
    image = gaussian((41, 41), (20.3, 19.8), sigma) * 1e6
    y, x = np.indices(image.shape)
    mask = np.hypot(y - 20.3, x - 19.8) < 2 * sigma
    obs = jd.Observation(image[None], 1 + image[None], jd.GaussianPSF(sigma), bands=["r"], mask=mask)
    assert not find_hits(obs).any()
