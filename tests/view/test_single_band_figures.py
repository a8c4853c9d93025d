import numpy as np
import pytest

from jaxdeblend.simulate import simulate_blend
from jaxdeblend.single_band import SingleBandFlag
from jaxdeblend.view import asinh_norm, figures, single_band_figure


@pytest.fixture(scope="module")
def scene():
    return simulate_blend(5, shape=(40, 48), bands=("r",), n_sources=3)


@pytest.fixture
def divided(scene):
    truth = scene.truth[:, 0].astype(float)
    return scene.images[0].astype(float), truth, 1.1 * truth


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def rings(axes):
    return np.concatenate([collection.get_offsets() for collection in axes.collections] or [np.zeros((0, 2))])


def test_every_source_has_a_template_and_a_child(divided, scene, tmp_path):
    path = tmp_path / "single_band.png"
    figure = single_band_figure(*divided, centers=scene.centers, path=path)
    assert titles(figure) == ["image", "Σ templates", "image − Σ templates", "0", "1", "2"]
    assert path.stat().st_size > 1000
    sums = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    expected = [f"Σ = {value:.4g}" for stack in divided[1:] for value in stack.sum((1, 2))]
    assert sorted(sums) == sorted(expected)
    np.testing.assert_allclose(rings(figure.axes[0]), scene.centers[:, ::-1])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "2"]


def test_residual_is_what_the_templates_leave(divided, scene):
    image, templates, children = divided
    figure = single_band_figure(image, templates, children, centers=scene.centers)
    shown = figure.axes[2].images[0]
    np.testing.assert_allclose(shown.get_array(), image - templates.sum(0), atol=1e-6)
    assert shown.norm.vmin == -shown.norm.vmax


def test_image_and_templates_have_one_stretch(divided, scene):
    image, templates, children = divided
    figure = single_band_figure(image, image[None], children[:1], centers=scene.centers[:1])
    pictures = [axes.images[0].get_array() for axes in figure.axes[:2]]
    np.testing.assert_array_equal(*pictures)
    brighter = single_band_figure(image, templates, children, centers=scene.centers, norm=asinh_norm(image[None] / 9))
    assert brighter.axes[0].images[0].get_array().mean() > pictures[0].mean()


def test_of_many_sources_the_brightest_are_drawn_and_the_figure_says_so(divided, scene):
    image, templates, children = divided
    figure = single_band_figure(image, templates, children, centers=scene.centers, max_sources=2)
    faintest = int(np.argmin(children.sum((1, 2))))
    assert titles(figure)[3:] == [str(k) for k in range(3) if k != faintest]
    assert figure.get_suptitle() == "the 2 brightest of 3 sources"
    assert len(rings(figure.axes[0])) == 3 and len(figure.axes[0].texts) == 2


def test_some_of_all_sources(divided, scene):
    image, templates, children = divided
    flags = [0, 0, int(SingleBandFlag.DEBLENDED_AS_PSF | SingleBandFlag.PSF_FIT_MOVED)]
    figure = single_band_figure(
        image, templates[2:], children[2:], centers=scene.centers, shown=[2], model=templates.sum(0), flags=flags
    )
    assert titles(figure)[3:] == ["2, PSF"]
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), image - templates.sum(0), atol=1e-6)


def test_sources_fill_row_after_row(divided, scene):
    image, templates, children = divided
    more = {"templates": np.repeat(templates, 3, axis=0), "children": np.repeat(children, 3, axis=0)}
    figure = single_band_figure(image, **more, centers=np.repeat(scene.centers, 3, axis=0))
    assert titles(figure)[3:] == [str(k) for k in range(9)]
    assert figure.get_size_inches()[1] > single_band_figure(*divided, centers=scene.centers).get_size_inches()[1]


def test_unusable_pixels_and_dark_children_are_drawn_too(divided, scene, tmp_path):
    image, templates, _ = divided
    image[5:8, 5:8] = np.nan
    centers = np.array([[np.nan, 3.0], [-20.0, 500.0], [39.0, 0.0]])
    flags = np.full(3, int(SingleBandFlag.SKIPPED))
    figure = single_band_figure(image, 0 * templates, 0 * templates, centers=centers, flags=flags)
    figure.savefig(tmp_path / "dark.png")
    assert titles(figure)[3:] == ["0, no child", "1, no child", "2, no child"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[6, 6], figures._SLATE)


def test_no_source(divided):
    image = divided[0]
    figure = single_band_figure(image, np.zeros((0, *image.shape)), np.zeros((0, *image.shape)), centers=[])
    figure.canvas.draw()
    assert len(titles(figure)) == 3


def test_bad_input(divided, scene):
    image, templates, children = divided
    with pytest.raises(ValueError, match=r"`image`: got shape \(1, 40, 48\); it must be \(y, x\)"):
        single_band_figure(image[None], templates, children, centers=scene.centers)
    with pytest.raises(ValueError, match=r"`templates` must be \(source, y, x\) with images of \(40, 48\), got"):
        single_band_figure(image, templates[:, 1:], children, centers=scene.centers)
    with pytest.raises(ValueError, match="got 3 templates and 2 children for 3 peaks"):
        single_band_figure(image, templates, children[:2], centers=scene.centers)
    with pytest.raises(ValueError, match=r"`model`: got shape \(3, 40, 48\); it must be that of `image`"):
        single_band_figure(image, templates, children, centers=scene.centers, model=templates)
    with pytest.raises(ValueError, match="`flags`: got 1 for 3 peaks"):
        single_band_figure(image, templates, children, centers=scene.centers, flags=[0])
