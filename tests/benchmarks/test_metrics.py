import importlib.util
import pathlib

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio
from skimage.metrics import structural_similarity as skimage_similarity

from benchmarks import make_sets, metrics
from jaxdeblend.simulate import save_truth_set, simulate_blend

SCORE = pathlib.Path(__file__).parents[3] / "shared" / "data" / "btk_score.py"
BANDS = ("g", "r", "i")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    scenes = [simulate_blend(seed, shape=(40, 40), bands=BANDS, n_sources=(3, 5)) for seed in range(5)]
    path = tmp_path_factory.mktemp("sets") / "set.npz"
    save_truth_set(path, scenes, meta={"seed": "0-4"})
    return path


@pytest.fixture(scope="module")
def data(path):
    return metrics.load_truth_set(path)


def perturbed(data, seed=1):
    rng = np.random.default_rng(seed)
    n = len(data.truth)
    return data.truth * rng.normal(1, 0.2, (n, len(data.bands), 1, 1)) + rng.normal(0, 5, data.truth.shape)


def flat(nested, prefix=""):
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_loading(data):
    assert len(data) == 5 and data.bands == BANDS and data.meta == {"seed": "0-4"}
    assert data.images.shape == (5, 3, 40, 40)
    assert data.rows(4).stop == len(data.truth) == len(data.centers)
    again = simulate_blend(0, shape=(40, 40), bands=BANDS, n_sources=(3, 5))
    np.testing.assert_array_equal(data.centers[data.rows(0)], again.centers)
    sigma = np.sqrt(data.sky_variance)[:, None, None]
    assert np.max(np.abs(data.truth[data.rows(0)] - again.truth) / sigma) < 0.005


def test_agrees_with_the_scoring_tool(path, data):
    if not SCORE.exists():
        pytest.skip("the scoring tool is not at ../shared/data/btk_score.py")
    spec = importlib.util.spec_from_file_location("btk_score", SCORE)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    models = perturbed(data)
    models[1] = 0
    models[2, 2, 3, 3] = np.nan
    expected = tool.score(tool.load(path), models)
    found = metrics.score(data, models)
    assert list(found) == list(expected)
    for (key, a), (other, b) in zip(flat(found), flat(expected), strict=True):
        assert key == other and (a == b or a == pytest.approx(b, rel=1e-9, abs=1e-12)), key


def test_image_metrics_agree_with_skimage():
    rng = np.random.default_rng(0)
    truth = rng.random((33, 40))
    model = np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1)
    assert metrics.peak_signal_to_noise(truth, model) == pytest.approx(
        peak_signal_noise_ratio(truth, model, data_range=1)
    )
    expected = skimage_similarity(truth, model, data_range=1)
    assert metrics.structural_similarity(truth, model) == pytest.approx(expected, abs=1e-12)


def test_perfect_models(data):
    found = metrics.score(data, data.truth)
    assert found["flux_mad"] == found["flux_median"] == found["rel_rmse_median"] == found["gi_color_mad"] == 0
    assert found["cosine_p10"] == pytest.approx(1) and found["btk_psnr"] == float("inf")
    assert found["btk_ssim"] == pytest.approx(1) and found["iou_3sigma"] == 1


def test_known_errors(data):
    found = metrics.score(data, 1.2 * data.truth)
    assert found["flux_median"] == found["flux_abs_median"] == pytest.approx(0.2, rel=1e-5)
    assert found["flux_outlier_10pct"] == 1 and found["flux_outlier_50pct"] == 0
    assert found["gi_color_median"] == pytest.approx(0, abs=1e-5)
    assert found["rel_rmse_median"] == pytest.approx(0.2, rel=1e-5)


def test_missing_and_broken_models_are_counted(data):
    models = data.truth.copy()
    models[0], models[1, 2, 0, 0] = 0, np.inf
    found = metrics.score(data, models, snr_min=0.0)
    assert found["missing"] == found["nonfinite"] == pytest.approx(1 / len(data.truth))


def test_nothing_to_score(data):
    assert metrics.score(data, np.zeros_like(data.truth))["missing"] == 1
    found = metrics.score(data, data.truth, snr_min=1e9)
    assert found["n"] == 0 and np.isnan(found["missing"]) and set(found) == {"band", "n", "missing", "nonfinite"}


def test_small_helpers():
    assert np.isnan(metrics.scaled_mad(np.zeros(0)))
    assert np.isnan(metrics.intersection_over_union(np.zeros(3), np.zeros(3), 1.0))
    assert metrics.cosine_similarity(np.zeros((2, 2)), np.ones((2, 2))) == 0


def test_bad_input(data):
    with pytest.raises(ValueError, match="`models` must have the shape of the truth"):
        metrics.score(data, data.truth[1:])
    with pytest.raises(ValueError, match=r"`band` must be one of \('g', 'r', 'i'\), got 'K'"):
        metrics.score(data, data.truth, band="K")


def test_make_sets(tmp_path):
    path = tmp_path / "a.npz"
    common = ["--kind", "asymmetric", "--size", "40", "--bands", "gi", "--max-sources", "3"]
    make_sets.main(["--n", "2", "--seed", "3", *common, "-o", str(path)])
    longer = ["--n", "3", "--seed", "3", "--psf-from", str(path), *common, "-o", str(tmp_path / "b.npz")]
    make_sets.main(longer)
    a, b = (metrics.load_truth_set(tmp_path / name) for name in ("a.npz", "b.npz"))
    np.testing.assert_array_equal(a.centers, b.centers[: len(a.centers)])
    np.testing.assert_allclose(a.psf, b.psf, rtol=1e-6)
    assert a.meta["kind"] == "asymmetric" and len(b) == 3


def test_make_sets_needs_the_bands(path):
    with pytest.raises(ValueError, match=r"`bands`: .* has \['g', 'r', 'i'\], not \['y'\]"):
        make_sets.read_survey(path, ("g", "y"))
