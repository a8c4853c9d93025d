import math

import galsim
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.simulate.paint import blendedness_in, overlap, paint
from jaxdeblend.simulate.population import Component, TrueSource, draw_smooth_galaxy
from jaxdeblend.simulate.profiles import Blobs, Profile
from jaxdeblend.simulate.radial import hankel_transform
from jaxdeblend.simulate.render import draw
from jaxdeblend.simulate.survey import make_survey, moffat_stamp
from jaxdeblend.simulate.truth_set import blendedness

SURVEY = make_survey(("r",), psf_fwhm=4.0, psf_edge=61)
FIELD = jd.ConstantPSFField(SURVEY.psf)


def source(shape, flux):
    return TrueSource("test", np.array([flux]), 1.0, (Component(shape, np.array([flux])),))


@pytest.mark.parametrize(
    ("index", "tolerance"), [(1.0, 1e-4), (2.0, 1e-5), (4.0, 1e-5)]
)  # GalSim's own tables of n = 1 are good to 1e-4
def test_transforms_are_those_of_galsim(index, tolerance):
    frequency = np.array([1e-3, 0.01, 0.1, 0.29, 0.31, 1.0])
    profile = galsim.Sersic(index, half_light_radius=1.0)
    expected = [profile.kValue(2 * math.pi * f, 0).real for f in frequency]
    np.testing.assert_allclose(hankel_transform(index, frequency), expected, rtol=tolerance)


@pytest.mark.parametrize("index", [1.0, 4.0])
def test_profiles_are_those_of_galsim(index):
    """Convolved with the same PSF stamp, pixel by pixel."""
    center = np.array([40.3, 46.8])
    frame, (stamp,) = paint([source(Profile(3.0, index, 0.6, 0.5), 1e6)], center[None], (90, 94), SURVEY, FIELD)
    psf = galsim.InterpolatedImage(galsim.Image(SURVEY.psf[0]), scale=1.0, flux=1.0)
    galaxy = galsim.Sersic(index, half_light_radius=3.0 * math.sqrt(0.6), flux=1e6)
    galaxy = galaxy.shear(q=0.6, beta=0.5 * galsim.radians)
    expected = (
        galsim.Convolve(galaxy, psf)
        .drawImage(nx=94, ny=90, scale=1.0, method="no_pixel", offset=(center[1] - 46.5, center[0] - 44.5))
        .array
    )
    np.testing.assert_allclose(frame[0], expected, atol=2e-3 * expected.max())
    assert stamp.total[0] == pytest.approx(1e6, rel=1e-3)


def test_the_batch_draws_what_one_by_one_is_drawn():
    survey, rng = make_survey(("g", "i")), np.random.default_rng(1)
    sources = [draw_smooth_galaxy(rng, survey, magnitude) for magnitude in (21.0, 23.0, 25.0)]
    sources.append(source(Blobs(np.array([[1.0, -2.0]]), np.array([1.2]), np.ones(1)), 1.0))
    sources[-1] = TrueSource("blob", np.ones(2), 1.0, (Component(sources[-1].components[0].shape, np.ones(2)),))
    centers = np.array([[30.2, 31.4], [33.0, 29.0], [31.5, 34.9], [30.0, 30.6]])
    for one, center in zip(sources, centers, strict=True):
        frame, _ = paint([one], center[None], (64, 66), survey, jd.ConstantPSFField(survey.psf))
        expected = draw(one, center, (64, 66), survey)
        np.testing.assert_allclose(frame, expected, atol=5e-4 * expected.max())


def test_sources_at_the_border_are_cut():
    star = source(Blobs(np.zeros((1, 2)), np.zeros(1), np.ones(1)), 1e5)
    centers = np.array([[-0.4, 20.0], [20.0, 59.4], [-100.0, 300.0]])
    frame, stamps = paint([star] * 3, centers, (50, 60), SURVEY, FIELD)
    assert [stamp.total[0] for stamp in stamps] == pytest.approx([1e5] * 3, rel=1e-3)
    whole, _ = paint([star], np.array([[49.6, 70.0]]), (120, 140), SURVEY, FIELD)
    alone, _ = paint([star], centers[:1], (50, 60), SURVEY, FIELD)
    np.testing.assert_allclose(alone[0], whole[0, 50:100, 50:110], atol=1e-5 * whole.max())
    assert frame[0, :, :40].sum() == pytest.approx(alone[0, :, :40].sum(), rel=1e-3)


def test_blendedness_is_that_of_the_whole_images():
    star = source(Blobs(np.zeros((1, 2)), np.zeros(1), np.ones(1)), 1e6)
    centers = np.array([[30.0, 30.0], [30.0, 36.0], [30.0, 90.0]])
    frame, stamps = paint([star, star, star], centers, (64, 128), SURVEY, FIELD)
    each = np.stack([paint([star], center[None], (64, 128), SURVEY, FIELD)[0] for center in centers])
    np.testing.assert_allclose(blendedness_in(frame, stamps), blendedness(each), atol=2e-3)


def test_stamps_that_do_not_meet_the_image():
    for corner in ((-9, 2), (2, 30), (30, -7)):
        to, of = overlap(np.array(corner), (5, 5), (20, 20))
        assert np.zeros((20, 20))[to].size == np.zeros((5, 5))[of].size == 0


def test_moffat_ellipticity_is_that_of_the_second_moments():
    axis = np.arange(101) - 50
    for e1, e2 in ((0.0, 0.0), (0.2, -0.1)):
        stamp = moffat_stamp(4.0, e1, e2, beta=20.0, edge=101)
        q_xx, q_yy, q_xy = ((stamp * m).sum() for m in (axis**2, axis[:, None] ** 2, axis[:, None] * axis))
        pixel = 1 / 12  # of each variance
        size = q_xx + q_yy - 2 * pixel
        np.testing.assert_allclose([(q_xx - q_yy) / size, 2 * q_xy / size], [e1, e2], atol=2e-3)
