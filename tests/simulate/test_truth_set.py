import hashlib

import numpy as np
import pytest

from jaxdeblend.simulate import save_truth_set, simulate_blend, truth_set
from jaxdeblend.simulate.truth_set import blendedness


@pytest.fixture(scope="module")
def scenes():
    return [simulate_blend(seed, shape=(40, 40), bands=("g", "i"), n_sources=2 + seed) for seed in range(3)]


def test_rows_follow_the_offsets(scenes):
    arrays = truth_set(scenes)
    assert arrays["offsets"].tolist() == [0, 2, 5, 9]
    assert arrays["src_blend"].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert arrays["blend_q"].shape == (3, 2, 40, 40) and arrays["iso_q"].shape == (9, 2, 40, 40)
    np.testing.assert_array_equal(arrays["src_y"][2:5], scenes[1].centers[:, 0])
    np.testing.assert_array_equal(arrays["src_x"][2:5], scenes[1].centers[:, 1])


def test_quantization_is_far_below_the_noise(scenes):
    arrays = truth_set(scenes)
    sigma = np.sqrt(scenes[0].survey.sky_variance)[:, None, None]
    images = arrays["blend_q"] * arrays["blend_step"][:, None, None]
    truth = arrays["iso_q"] * arrays["iso_step"][:, None, None]
    assert np.max(np.abs(images[1] - scenes[1].images) / sigma) <= 1 / 63
    assert np.max(np.abs(truth[2:5] - scenes[1].truth) / sigma) <= 1 / 255


def test_magnitudes_and_fluxes(scenes):
    arrays = truth_set(scenes)
    np.testing.assert_allclose(10 ** (-0.4 * (arrays["src_mag"] - arrays["zeropoint"])), arrays["src_flux_cat"])
    assert np.all(arrays["src_flux_stamp"] < 1.003 * arrays["src_flux_cat"])


def test_blendedness_of_twins_and_hermits():
    y, x = np.indices((64, 64))
    blob = np.exp(-((y - 20) ** 2 + (x - 20) ** 2) / 8.0)
    far = np.roll(blob, (30, 30), (0, 1))
    images = np.stack([blob, 3 * blob, far])[:, None]
    np.testing.assert_allclose(blendedness(images)[:, 0], [0.75, 0.25, 0.0], atol=1e-6)


def test_the_same_scenes_give_the_same_bytes(tmp_path, scenes):
    digests = []
    for name in ("a.npz", "b.npz"):
        save_truth_set(tmp_path / name, scenes, meta={"n": 3})
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_files_hold_no_pickles(tmp_path, scenes):
    save_truth_set(tmp_path / "set.npz", scenes)
    with np.load(tmp_path / "set.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_bad_paths_and_unlike_scenes(tmp_path, scenes):
    with pytest.raises(ValueError, match=r"`path` must end in \.npz, got"):
        save_truth_set(tmp_path / "set.dat", scenes)
    with pytest.raises(ValueError, match="`scenes` is empty"):
        truth_set([])
    other = simulate_blend(1, shape=(48, 40), bands=("g", "i"), n_sources=2)
    with pytest.raises(ValueError, match="`scenes` must share shape, bands, PSFs and sky, but number 1 differs"):
        truth_set([scenes[0], other])
