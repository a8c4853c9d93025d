import numpy as np
import pytest
import scipy.signal
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter, maximum_filter

from jaxdeblend.detection.peaks import hills, refine, separate


def peaks_of(label):
    return np.unique(label[label >= 0])


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(1, 20))
def test_peaks_are_the_local_maxima(seed, height, width):
    image = np.random.default_rng(seed).normal(size=(height, width))
    label = hills(image, np.ones(image.shape, dtype=bool))
    expected = np.flatnonzero(image == maximum_filter(image, 3, mode="constant", cval=-np.inf))
    assert peaks_of(label).tolist() == expected.tolist()


@given(st.integers(0, 1000), st.integers(3, 60), st.floats(0, 5))
def test_prominence_is_that_of_scipy(seed, length, limit):
    walk = np.random.default_rng(seed).normal(size=length).cumsum()
    # scipy's prominence looks for bases up to the ends of the signal: make these the lowest.
    signal = np.pad(walk, 1, constant_values=walk.min() - 100)
    peaks, _ = scipy.signal.find_peaks(signal)
    prominence = scipy.signal.peak_prominences(signal, peaks)[0]
    label = hills(signal[None, :], np.ones((1, length + 2), dtype=bool), prominence=limit)
    assert peaks_of(label).tolist() == peaks[prominence > limit].tolist()


@given(hnp.arrays(np.int8, (8, 9), elements=st.integers(0, 3)))
def test_plateaus_have_one_peak(image):
    mask = image > 0
    label = hills(image.astype(float), mask)
    assert ((label >= 0) == mask).all()
    # Each peak is the highest pixel of its hill, and the summit of itself.
    for peak in peaks_of(label):
        assert image.ravel()[peak] == image[label == peak].max()
        assert label.ravel()[peak] == peak
    # Connected pixels of one height are never two peaks.
    for level in (1, 2, 3):
        tops = [peak for peak in peaks_of(label) if image.ravel()[peak] == level]
        regions = scipy.ndimage.label(image == level, np.ones((3, 3)))[0].ravel()[tops]
        assert len(set(regions.tolist())) == len(tops)


def test_masked_pixels_part_hills():
    row = np.array([[1.0, 3.0, 2.0, 2.5, 1.0]])
    whole = hills(row, np.ones(row.shape, dtype=bool), prominence=1.0)
    parted = hills(row, np.array([[True, True, False, True, True]]), prominence=1.0)
    assert whole.tolist() == [[1, 1, 1, 1, 1]]
    assert parted.tolist() == [[1, 1, -1, 3, 3]]


def test_no_pixel_takes_part():
    assert (hills(np.ones((3, 4)), np.zeros((3, 4), dtype=bool)) == -1).all()


@settings(max_examples=30)
@given(st.integers(0, 100), st.floats(0.01, 1.0))
def test_joining_hills_keeps_their_pixels_together(seed, prominence):
    image = gaussian_filter(np.random.default_rng(seed).normal(size=(30, 30)), 1.0)
    mask = image > 0
    fine, coarse = hills(image, mask), hills(image, mask, prominence=prominence)
    assert set(peaks_of(coarse)) <= set(peaks_of(fine))
    for peak in peaks_of(fine):
        assert len(np.unique(coarse[fine == peak])) == 1


@given(st.floats(-0.45, 0.45), st.floats(-0.45, 0.45), st.floats(0.8, 3), st.floats(0.8, 3), st.floats(-0.6, 0.6))
def test_refine_is_exact_for_gaussians(dy, dx, a, b, twist):
    y, x = np.mgrid[:11, :11] - 5.0
    y, x = y - dy, x - dx
    image = 20 * np.exp(-0.5 * (y**2 / a**2 + x**2 / b**2 - 2 * twist * y * x / (a * b)) / (1 - twist**2))
    peak = np.unravel_index(image.argmax(), image.shape)
    assume(image[peak[0] - 1 : peak[0] + 2, peak[1] - 1 : peak[1] + 2].min() > 0.1 * image.max())
    position, _ = refine(image, np.array([peak]), noise_curvature=0.25)
    expected = np.array([5 + dy, 5 + dx])
    if np.abs(expected - peak).max() < 0.75:
        np.testing.assert_allclose(position[0], expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 3.0])
def test_the_error_of_a_star_is_the_cramer_rao_bound(sigma):
    y, x = np.mgrid[:21, :21] - 10.0
    ratio = 30.0
    match = ratio * np.exp(-(y**2 + x**2) / (4 * sigma**2))
    _, error = refine(match, np.array([[10, 10]]), noise_curvature=1 / (2 * sigma**2))
    assert error[0] == pytest.approx(np.sqrt(2) * sigma / ratio, rel=1e-6)


def test_refine_survives_flat_and_jagged_neighbourhoods():
    flat, jagged = np.ones((5, 5)), np.zeros((5, 5))
    jagged[2, 2], jagged[3, 3] = 9.0, 8.0
    for image in (flat, jagged):
        position, error = refine(image, np.array([[2, 2]]), noise_curvature=0.5)
        assert np.abs(position - 2).max() <= 0.75 and np.isfinite(error).all() and (error > 0).all()


def test_refine_nothing():
    position, error = refine(np.ones((5, 5)), np.zeros((0, 2), dtype=int), noise_curvature=0.5)
    assert position.shape == (0, 2) and error.shape == (0,)


@given(
    hnp.arrays(float, st.tuples(st.integers(0, 25), st.just(2)), elements=st.integers(0, 40).map(float)),
    st.sampled_from([0.0, 1.0, 2.5, 7.5]),
)
def test_separate(position, distance):
    height = np.random.default_rng(0).permutation(len(position)).astype(float)
    keep = separate(position, height, distance=distance)
    gap = np.hypot(*np.moveaxis(position[:, None] - position[None, :], -1, 0))
    near = (gap <= distance) & ~np.eye(len(position), dtype=bool) & (distance > 0)
    assert not near[np.ix_(keep, keep)].any()
    for lost in np.flatnonzero(~keep):
        assert (near[lost] & keep & (height > height[lost])).any()
