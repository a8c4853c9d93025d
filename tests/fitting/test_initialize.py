import equinox as eqx
import jax
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.fitting.ladder import IMAGE_EDGES, default_stamp_edge, rung
from tests.scenes import PSF_SIGMA, fluxes_of, gaussian, observe

SHAPE = (23, 23)
ONE = jd.Initialization(max_components=1, passes=1)
TWO = jd.Initialization(max_components=2, passes=1, two_above=100.0)
FLUX = np.array([2000.0, 600.0])


def begin(centers, images=None, options=ONE, mask=None, **more):
    star = gaussian(SHAPE, (11, 11), PSF_SIGMA)
    obs = observe(FLUX[:, None, None] * star if images is None else images, mask=mask)
    return obs, jd.initialize(obs, centers, options=options, **more)


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if np.asarray(leaf).dtype.kind == "f")


@eqx.filter_jit
def seen(blend, obs):
    return jd.render_sources(blend, obs), jd.log_posterior(blend, obs)


@pytest.mark.parametrize("lost", [(-0.6, 5.0), (5.0, 22.5), (40.0, -9.0), (np.nan, 4.0), (4.0, np.inf)])
def test_sources_outside_are_dark(lost):
    obs, blend = begin([(11, 11), lost])
    parts, posterior = seen(blend, obs)
    flux = np.asarray(parts).sum(axis=(-2, -1))
    np.testing.assert_allclose(flux[0], FLUX, rtol=0.05)
    np.testing.assert_allclose(flux[1], 0.0, atol=1e-3)
    assert finite(blend.stacks) and finite(blend.centers) and finite((parts, posterior))
    np.testing.assert_allclose(fluxes_of(blend)[1], 0.0, atol=1e-3)


@pytest.mark.parametrize("center", [(-0.5, 5.0), (22.4, 22.4)])
def test_sources_on_the_outermost_pixels_are_inside(center):
    obs, blend = begin([(11, 11), center], 900 * gaussian(SHAPE, center, PSF_SIGMA)[None].repeat(2, 0))
    assert fluxes_of(blend)[1].min() > 400


def test_two_sources_on_one_pixel_share_the_flux():
    _, blend = begin([(11, 11), (11, 11)])
    assert finite(blend)
    np.testing.assert_allclose(fluxes_of(blend).sum(axis=0), FLUX, rtol=0.05)


def test_half_of_a_source_is_masked():
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:, :11] = True
    _, blend = begin([(11, 11), (3, 3)], mask=mask)
    assert finite(blend)
    np.testing.assert_allclose(fluxes_of(blend)[0], FLUX, rtol=0.15)


def test_no_source():
    obs, blend = begin([])
    assert len(blend.sources) == 0 and blend.frame == SHAPE
    result = jd.fit(blend, obs, jd.ProximalAdam(max_steps=12))
    assert len(result.blend.sources) == 0 and np.isfinite(result.loss[0])


def test_faint_sources_can_be_points_of_fixed_shape():
    options = jd.Initialization(max_components=1, passes=1, point_below=1e4)
    images = 500 * gaussian(SHAPE, (11, 11), 2.5)[None].repeat(2, 0)
    obs, blend = begin([(11, 11), (3, 3)], images, options)
    star = np.asarray(obs.model_psf.stamp(blend.stacks[0].component.morphology.pixels.shape[-1]))[0]
    for source in blend.sources:
        np.testing.assert_allclose(source.components[0].terms()[1][0], star / star.max(), atol=1e-6)
    assert not np.any(blend.stacks[0].component.morphology.step)
    assert np.all(begin([(11, 11), (3, 3)], images)[1].stacks[0].component.morphology.step > 0)


def test_bright_sources_can_have_two_components():
    galaxy = gaussian(SHAPE, (11, 11), np.hypot(PSF_SIGMA, 1.2))
    images = FLUX[:, None, None] * galaxy + 20 * gaussian(SHAPE, (3, 3), PSF_SIGMA)
    _, blend = begin([(11, 11), (3, 3)], images, TWO)
    assert [len(source.components) for source in blend.sources] == [2, 1]
    np.testing.assert_allclose(fluxes_of(blend)[0], FLUX, rtol=0.05)
    disk, bulge = (np.asarray(part.terms()[1][0]) for part in blend.sources[0].components)
    assert disk.max() == pytest.approx(1.0) and bulge.sum() < disk.sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"centers": [1.0, 2.0, 3.0]}, r"centers: got shape \(3,\); give \(source, 2\)"),
        ({"centers": [(1.0, 2.0, 3.0)]}, r"centers: got shape \(1, 3\); give \(source, 2\)"),
        ({"centers": [(5.0, 5.0)], "stamp_edge": 10}, "stamp_edge: got 10; a stamp needs an odd edge"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        begin(**arguments)


def test_bad_options():
    with pytest.raises(ValueError, match="max_components: got 3; give 1, or 2"):
        jd.Initialization(max_components=3)


def test_center_errors_become_the_prior():
    _, blend = begin([(11, 11), (3, 3)], center_error=[0.3, 0.0])
    np.testing.assert_allclose(blend.center_prior.sigma, [0.3, 0.0])
    np.testing.assert_array_equal(blend.center_prior.mean, [(11, 11), (3, 3)])


@pytest.mark.parametrize("shape", [(1, 1), (5, 32), (64, 48), (58, 48), (100, 128), (300, 200), (2000, 10)])
def test_default_stamps_are_odd_and_those_of_the_padded_image(shape):
    edge, padded = default_stamp_edge(shape), rung(max(shape), IMAGE_EDGES)
    assert edge % 2 == 1 and 3 <= edge < padded
    assert edge == default_stamp_edge((padded, padded))


def test_hundreds_of_sources_on_a_few_pixels_are_finite():
    """The normal equations of their Gaussians are singular within the precision."""
    rng = np.random.default_rng(3)
    shape, count = (40, 40), 400
    centers = rng.uniform(1, 39, (count, 2))
    image = sum(300 * gaussian(shape, center, 1.5) for center in centers) + rng.normal(size=shape)
    obs = jd.Observation(image[None], [1.0], gaussian((15, 15), (7, 7), 1.5)[None], bands=["g"])
    blend = jd.initialize(obs, centers, options=ONE)
    assert finite(blend)
    np.testing.assert_allclose(fluxes_of(blend).sum(), 300 * count, rtol=0.05)
