import numpy as np
import pytest
from astropy.visualization import LuptonAsinhStretch, ManualInterval
from astropy.visualization.lupton_rgb import RGBImageMappingLupton
from hypothesis import given
from hypothesis import strategies as st

from jaxdeblend.view import AsinhNorm, channel_weights, rgb

SIX = ("u", "g", "r", "i", "z", "y")


def sky(n_bands=3, edge=24, seed=0):
    images = np.random.default_rng(seed).normal(0, 1, (n_bands, edge, edge))
    y, x = np.indices((edge, edge)) - edge / 2
    return images + 200 * np.exp(-(y**2 + x**2) / 18) * np.linspace(0.5, 1.5, n_bands)[:, None, None]


def test_agrees_with_astropy():
    images = np.abs(sky())
    stretch, quality = 5.0, 8.0
    mapping = RGBImageMappingLupton(ManualInterval(vmin=0), LuptonAsinhStretch(stretch=stretch, Q=quality))
    expected = mapping.make_rgb_image(*images[::-1], output_dtype=float)
    softening = stretch / quality
    white = softening * np.sinh(10 * np.arcsinh(0.1 * quality))
    norm = AsinhNorm(np.ones(3), softening=softening, white=white)
    np.testing.assert_allclose(rgb(images, norm=norm, saturation=1.0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_bands", [1, 2, 3, 4, 5, 6])
def test_any_number_of_bands(n_bands):
    picture = rgb(sky(n_bands), bands=SIX[:n_bands])
    assert picture.shape == (24, 24, 3)
    assert picture.min() >= 0 and picture.max() <= 1 and np.isfinite(picture).all()
    assert picture[12, 12].max() > 0.8
    assert np.median(picture) < 0.1
    if n_bands == 1:
        np.testing.assert_allclose(picture, picture[..., :1].repeat(3, -1))


@pytest.mark.parametrize("n_bands", [1, 2, 3, 4, 5, 6, 9])
def test_channel_weights(n_bands):
    weights = channel_weights(n_bands)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert np.all(weights >= 0) and np.all(weights.sum(0) > 0)
    red, green, blue = weights @ np.arange(n_bands)
    assert (red > green > blue) or n_bands == 1
    np.testing.assert_allclose(weights[0], weights[2, ::-1], atol=1e-12)


def test_known_bands_are_put_in_order():
    images = sky()
    norm = AsinhNorm(np.ones(3), softening=2.0, white=100.0)
    ordered, shuffled = (
        rgb(images, bands=("g", "r", "i"), norm=norm),
        rgb(images[::-1], bands=("i", "r", "g"), norm=norm),
    )
    np.testing.assert_allclose(ordered, shuffled)
    unknown = rgb(images[::-1], bands=("F814W", "F606W", "F435W"), norm=norm)
    np.testing.assert_allclose(unknown, ordered[..., ::-1])


@given(st.floats(1.0, 1e5), st.floats(0.2, 1.0), st.floats(0.2, 1.0))
def test_hue_is_the_same_at_any_brightness(brightness, green, blue):
    images = brightness * np.array([blue, green, 1.0])[:, None, None]
    picture = rgb(images, norm=AsinhNorm(np.ones(3), softening=2.0, white=100.0), saturation=1.0)[0, 0]
    np.testing.assert_allclose(picture / picture[0], [1.0, green, blue], rtol=1e-6)


def test_brighter_is_never_darker():
    brightness = np.geomspace(1e-2, 1e5, 200)
    picture = rgb(np.stack([brightness] * 3)[:, None], norm=AsinhNorm(np.ones(3), softening=2.0, white=100.0))
    assert np.all(np.diff(picture[0], axis=0) >= -1e-12) and picture.max() == pytest.approx(1)


def test_saturation():
    images, norm = sky(), AsinhNorm(np.ones(3), softening=2.0, white=100.0)
    grey = rgb(images, norm=norm, saturation=0.0)
    np.testing.assert_allclose(grey, grey[..., :1].repeat(3, -1), atol=1e-12)
    spread = [np.ptp(rgb(images, norm=norm, saturation=s)[12, 12]) for s in (0.5, 1.0)]
    assert spread[0] < spread[1]


def test_missing_pixels_take_their_colour_from_the_other_bands():
    images = np.full((3, 4, 4), 50.0)
    norm = AsinhNorm(np.ones(3), softening=2.0, white=100.0)
    whole = rgb(images, norm=norm)
    images[1, 1, 1], images[:, 2, 2] = np.nan, np.inf
    picture = rgb(images, norm=norm)
    np.testing.assert_allclose(picture[1, 1], whole[1, 1])
    assert picture[2, 2].tolist() == [0, 0, 0]


def test_empty_sky_is_black():
    assert rgb(np.zeros((3, 8, 8))).max() == 0


def test_own_channels():
    images, norm = sky(4), AsinhNorm(np.ones(4), softening=2.0, white=100.0)
    channels = np.eye(4)[[3, 1, 0]]
    picture = rgb(images, norm=norm, channels=channels)
    kept = AsinhNorm(np.ones(3), softening=2.0, white=100.0)
    np.testing.assert_allclose(picture, rgb(images[[0, 1, 3]], norm=kept))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"channels": np.ones((3, 2))},
            r"`channels` must be \(3, 3\), red, green and blue of each band, got \(3, 2\)",
        ),
        ({"bands": ("g", "r")}, r"`bands` must name each of the 3 bands, got \('g', 'r'\)"),
        (
            {"norm": AsinhNorm(np.ones(2), softening=1.0, white=9.0)},
            "`norm` is for 2 bands, but there are 3 images",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        rgb(sky(), **options)
