import numpy as np
import pytest

from jaxdeblend.view import AsinhNorm, asinh_norm
from jaxdeblend.view.norms import check_images, noise_of


def noise(sigma=(2.0, 5.0, 1.0), seed=0, edge=64):
    return np.random.default_rng(seed).normal(0, np.array(sigma)[:, None, None], (3, edge, edge))


def test_norm_is_asinh():
    norm = AsinhNorm(np.ones(1), softening=2.0, white=50.0, black=1.0)
    intensity = np.array([-3.0, 1.0, 7.0, 50.0])
    np.testing.assert_allclose(norm(intensity), np.arcsinh((intensity - 1) / 2) / np.arcsinh(49 / 2))
    assert norm(np.array([1.0, 50.0])).tolist() == [0.0, 1.0]


def test_norm_is_linear_for_the_faint():
    norm = AsinhNorm(np.ones(1), softening=2.0, white=50.0)
    faint = np.array([0.01, 0.02])
    assert norm(faint)[1] == pytest.approx(2 * norm(faint)[0], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": np.zeros(2)}, r"`scales` must be positive, one for each band, got \[0\. 0\.\]"),
        ({"scales": np.ones((2, 2))}, "`scales` must be positive"),
        ({"softening": 0.0}, "`softening` must be positive, got 0"),
        ({"white": 0.0}, "`white` must be above `black`, got 0.0 and 0.0"),
    ],
)
def test_bad_norms(options, message):
    with pytest.raises(ValueError, match=message):
        AsinhNorm(**{"scales": np.ones(2), "softening": 2.0, "white": 30.0, **options})


def test_noise_is_found():
    images = noise()
    images[1, 20:30, 20:30] += 1e4
    images[2, 5] = np.nan
    assert noise_of(images) == pytest.approx([2.0, 5.0, 1.0], rel=0.08)


def test_noise_of_the_noiseless():
    images = np.zeros((3, 20, 20))
    images[0, 10, 10], images[2] = 7.0, np.nan
    assert noise_of(images).tolist() == [0.007, 1.0, 1.0]


@pytest.mark.parametrize("full", [True, False])
def test_scales_come_from_the_variance_of_the_sky(full):
    sky = np.array([4.0, 25.0, 1.0])
    variance = np.broadcast_to(sky[:, None, None], (3, 64, 64)).copy()
    variance[:, :8], variance[:, 8:16], variance[:, 16:20] = np.inf, 0, 1e6
    assert asinh_norm(noise(), variance if full else sky).scales == pytest.approx([2.0, 5.0, 1.0])


def test_sources_set_the_white_level_and_balance():
    images = noise((1.0, 1.0, 1.0))
    images[:, 20:40, 20:40] += np.array([400.0, 200.0, 100.0])[:, None, None]
    raw, balanced = (asinh_norm(images, np.ones(3), balance=balance) for balance in (0.0, 1.0))
    assert raw.white == pytest.approx(700 / 3, rel=0.02)
    scaled = images[:, 20:40, 20:40].mean((1, 2)) / balanced.scales
    np.testing.assert_allclose(scaled, scaled.mean(), rtol=0.02)


def test_noise_alone_stays_dark():
    assert asinh_norm(noise()).white == 30
    assert asinh_norm(np.full((1, 4, 4), np.nan)).white == 30


def test_bad_input():
    with pytest.raises(ValueError, match=r"`images` must be \(band, y, x\) and not empty, got shape \(4, 4\)"):
        check_images(np.zeros((4, 4)))
    with pytest.raises(
        ValueError, match=r"`variance` must be of shape \(3, 64, 64\) or \(3,\), like `images`, got \(2,\)"
    ):
        asinh_norm(noise(), np.ones(2))
