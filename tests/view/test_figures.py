import sys

import numpy as np
import pytest
from matplotlib import _pylab_helpers, image

from jaxdeblend.simulate import simulate_blend
from jaxdeblend.view import deblend_figure, figures, loss_figure, sources_figure


@pytest.fixture(scope="module")
def scene():
    return simulate_blend(5, shape=(40, 48), bands=("g", "r", "i"), n_sources=3)


def rings(axes):
    return np.concatenate([collection.get_offsets() for collection in axes.collections] or [np.zeros((0, 2))])


def test_panels(scene):
    figure = deblend_figure(scene.images, scene.noiseless, bands=scene.bands)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["data", "model"]
    assert figure.axes[2].get_title(loc="left").startswith("residual / σ")
    assert all(axes.images[0].origin == "lower" for axes in figure.axes[:3])
    assert not any(rings(axes).size for axes in figure.axes[:3])


def test_residual_is_in_standard_deviations(scene):
    figure = deblend_figure(scene.images, scene.noiseless, bands=scene.bands, weights=1 / scene.variance)
    residual = figure.axes[2].images[0].get_array()
    expected = ((scene.images - scene.noiseless) / np.sqrt(scene.variance)).sum(0) / np.sqrt(3)
    np.testing.assert_allclose(residual, expected, atol=1e-4)
    assert residual.std() == pytest.approx(1, abs=0.1)
    assert "χ²/N = 1.0" in figure.axes[2].get_title(loc="left") or "χ²/N = 0.9" in figure.axes[2].get_title(loc="left")


def test_noise_is_estimated_without_weights(scene):
    figure = deblend_figure(scene.images, scene.noiseless, bands=scene.bands)
    assert figure.axes[2].images[0].get_array().std() == pytest.approx(1, abs=0.1)


def test_masked_pixels_are_blank_and_matter_to_nothing(scene):
    weights = 1 / scene.variance
    weights[:, 5:8, 5:8] = 0
    images = scene.images.copy()
    images[:, 5:8, 5:8] = np.nan
    pictures = []
    for value in (np.nan, 1e30):
        images[:, 5:8, 5:8] = value
        figure = deblend_figure(images, scene.noiseless, bands=scene.bands, weights=weights)
        pictures.append(figure.axes[0].images[0].get_array())
        assert figure.axes[2].images[0].get_array().mask[5:8, 5:8].all()
    np.testing.assert_array_equal(*pictures)
    np.testing.assert_allclose(pictures[0][6, 6], figures._SLATE)


def test_data_and_model_share_their_brightness(scene):
    figure = deblend_figure(scene.images, scene.images, bands=scene.bands)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), figure.axes[1].images[0].get_array())


def test_few_sources_are_numbered(scene):
    centers = np.vstack([scene.centers, [np.nan, 3.0]])
    axes = deblend_figure(scene.images, scene.noiseless, bands=scene.bands, centers=centers).axes[1]
    np.testing.assert_allclose(rings(axes), scene.centers[:, ::-1])
    assert [text.get_text() for text in axes.texts] == ["0", "1", "2"]


def test_many_sources_are_only_marked(scene):
    centers = np.random.default_rng(0).uniform(0, 40, (figures.MAX_NUMBERED + 1, 2))
    axes = deblend_figure(scene.images, scene.noiseless, bands=scene.bands, centers=centers).axes[1]
    assert len(rings(axes)) == figures.MAX_NUMBERED + 1 and not axes.texts


def test_no_source_to_mark(scene):
    figure = deblend_figure(scene.images, scene.noiseless, bands=scene.bands, centers=np.zeros((0, 2)))
    assert not rings(figure.axes[1]).size


def test_each_source_has_a_row(scene, tmp_path):
    path = tmp_path / "sources.png"
    children = scene.truth * 1.1
    figure = sources_figure(
        scene.images, scene.truth, bands=scene.bands, centers=scene.centers, children=children, path=path
    )
    assert len(figure.axes) == 3 * 4 and path.stat().st_size > 1000
    lines = figure.axes[3].lines
    ratio = lines[1].get_ydata() / lines[0].get_ydata()
    np.testing.assert_allclose(ratio, 1.1, rtol=1e-5)
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == ["g", "r", "i"]


def test_rows_are_limited(scene):
    figure = sources_figure(scene.images, scene.truth, bands=scene.bands, centers=scene.centers, max_sources=2)
    assert len(figure.axes) == 2 * 3


def test_empty_and_displaced_sources_are_drawn_too(scene, tmp_path):
    models = np.zeros_like(scene.truth)
    centers = np.array([[-50.0, 500.0], [np.nan, np.nan], [39.0, 0.0]])
    sources_figure(scene.images, models, bands=scene.bands, centers=centers, path=tmp_path / "a.png")


def test_windows_hold_the_source():
    model = np.zeros((1, 100, 120))
    model[0, 30:81, 50:55] = 1.0
    _, rows, columns = figures._window(model, np.array([55.0, 52.0]))
    assert rows.start <= 30 and rows.stop >= 81
    assert rows.stop - rows.start == columns.stop - columns.start
    assert columns.start <= 52 < columns.stop


def test_loss(tmp_path):
    loss = np.array([[100.0, 10.0, 1.0, 2.0], [50.0, 5.0, np.nan, np.nan]])
    axes = loss_figure(loss, path=tmp_path / "loss.png").axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [99, 9, np.nan, 1])
    assert axes.get_yscale() == "log" and (tmp_path / "loss.png").exists()


def test_constant_loss():
    loss_figure(np.ones(3)).canvas.draw()


def test_files_are_pictures_of_the_promised_size(scene, tmp_path):
    path = tmp_path / "blend.png"
    figure = deblend_figure(scene.images, scene.noiseless, bands=scene.bands, centers=scene.centers, path=path)
    height, width = image.imread(path).shape[:2]
    assert (width, height) == tuple(int(n) for n in figure.get_size_inches() * figure.dpi)
    assert image.imread(path)[..., :3].std() > 0.1


def test_pyplot_is_left_alone(scene):
    before = set(_pylab_helpers.Gcf.figs)
    deblend_figure(scene.images, scene.noiseless, bands=scene.bands)
    assert set(_pylab_helpers.Gcf.figs) == before


def test_matplotlib_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"Figures need Matplotlib: pip install 'jaxdeblend\[plot\]'"):
        loss_figure(np.ones(3))


def test_bad_input(scene):
    with pytest.raises(ValueError, match=r"`model` must have the shape of `images`, \(3, 40, 48\), got \(2, 40, 48\)"):
        deblend_figure(scene.images, scene.noiseless[:2], bands=scene.bands)
    with pytest.raises(ValueError, match="`weights` must have the shape of `images`"):
        deblend_figure(scene.images, scene.noiseless, bands=scene.bands, weights=np.ones(3))
    with pytest.raises(ValueError, match=r"`bands` must name each of the 3 bands"):
        deblend_figure(scene.images, scene.noiseless, bands=("g",))
    with pytest.raises(ValueError, match=r"`models` must be \(source, band, y, x\) with images of \(3, 40, 48\)"):
        sources_figure(scene.images, scene.noiseless, bands=scene.bands, centers=scene.centers)
    with pytest.raises(ValueError, match=r"`centers` must be one or more \(y, x\), one for each source, got 1 for"):
        sources_figure(scene.images, scene.truth, bands=scene.bands, centers=scene.centers[:1])
    with pytest.raises(ValueError, match="`loss` has no finite value"):
        loss_figure(np.full(4, np.nan))
