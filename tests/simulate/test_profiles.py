import functools
import math

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdeblend.simulate.population import Component, TrueSource
from jaxdeblend.simulate.profiles import Blobs, Profile, point, sersic_coefficient
from jaxdeblend.simulate.render import draw, stamp_radius
from jaxdeblend.simulate.structure import (
    clumps,
    dust_lane,
    lopsidedness,
    modulated_flux,
    spiral_arms,
    tail,
)
from jaxdeblend.simulate.survey import make_survey, moffat_stamp

FWHM = 3.4
SURVEY = make_survey(("i",), psf_fwhm=FWHM, psf_edge=63)
EDGE = 64
ARMS = functools.partial(spiral_arms, arms=3, pitch=0.3, strength=1.5, phase=0.7)
TILT = functools.partial(lopsidedness, strength=0.4, phase=1.0)


def source(shape, flux=1.0):
    return TrueSource("any", np.array([flux]), 0.0, (Component(shape, np.array([flux])),))


def image_of(shape, center=(31.2, 30.7), edges=(EDGE, EDGE)):
    return draw(source(shape), np.array(center), edges, SURVEY)[0]


def drawn_by_galsim(shape, y, x):
    galaxy = galsim.Sersic(n=shape.index, half_light_radius=shape.radius * math.sqrt(shape.axis_ratio))
    galaxy = galaxy.shear(q=shape.axis_ratio, beta=shape.angle * galsim.radians)
    seen = galsim.Convolve(galaxy, galsim.Moffat(beta=3, fwhm=FWHM))
    seen = seen.withGSParams(folding_threshold=1e-4, maxk_threshold=1e-4, maximum_fft_size=16384)
    middle = (EDGE - 1) / 2
    return seen.drawImage(nx=EDGE, ny=EDGE, scale=1, offset=(x - middle, y - middle)).array


@pytest.mark.parametrize(
    ("radius", "index", "axis_ratio", "tolerance"),
    [
        (3.0, 1.0, 0.5, 1e-3),
        (1.0, 1.0, 0.21, 1e-3),
        (4.0, 4.0, 0.7, 1e-3),
        (0.5, 4.0, 0.7, 1e-3),
        (0.2, 4.0, 0.8, 5e-3),
    ],
)
def test_profiles_agree_with_galsim(radius, index, axis_ratio, tolerance):
    shape = Profile(radius, index, axis_ratio, angle=0.4)
    expected = drawn_by_galsim(shape, 31.2, 30.7)
    np.testing.assert_allclose(image_of(shape), expected, atol=tolerance * expected.max())


def test_moffat_agrees_with_galsim():
    accurate = galsim.GSParams(folding_threshold=1e-5, maxk_threshold=1e-6, kvalue_accuracy=1e-8)
    expected = galsim.Moffat(beta=3, fwhm=FWHM, gsparams=accurate).drawImage(nx=51, ny=51, scale=1).array
    stamp = moffat_stamp(FWHM)
    np.testing.assert_allclose(stamp * expected.sum(), expected, atol=1e-3 * expected.max())


def test_a_point_on_a_pixel_is_the_psf():
    image = image_of(point(), center=(32.0, 30.0))
    np.testing.assert_allclose(image[1:, :61], SURVEY.psf[0][:, 1:62], atol=1e-7)


def test_coefficient_halves_the_flux():
    profile, radius = Profile(10.0, 4.0), np.concatenate([[0], np.geomspace(1e-8, 10, 20000)])
    inside = np.trapezoid(2 * np.pi * radius * profile.brightness(np.zeros_like(radius), radius), radius)
    assert inside == pytest.approx(0.5, abs=2e-4)
    assert sersic_coefficient(1.0) == pytest.approx(1.678347, abs=5e-5)


def test_isophote_is_where_the_brightness_is():
    profile = Profile(3.0, 1.0, axis_ratio=0.4, angle=0.3)
    reach = profile.isophote(1e-4)
    along = profile.brightness(np.array([reach * math.sin(0.3)]), np.array([reach * math.cos(0.3)]))
    assert along[0] == pytest.approx(1e-4, rel=1e-9)
    assert profile.isophote(1e3) == 0


@pytest.mark.parametrize("modulations", [(ARMS,), (TILT,), (ARMS, TILT)], ids=["arms", "tilt", "both"])
def test_modulations_keep_the_flux(modulations):
    profile = Profile(4.0, 1.0, 0.6, 0.5, modulations)
    assert modulated_flux(profile) == pytest.approx(1.0, abs=1e-4)
    assert image_of(profile, edges=(100, 100), center=(50.0, 49.0)).sum() == pytest.approx(1.0, abs=3e-3)


def test_structure_makes_images_asymmetric():
    def asymmetry(shape):
        image = image_of(shape, center=(31.5, 31.5))
        return np.abs(image - image[::-1, ::-1]).sum() / 2 / image.sum()

    assert asymmetry(Profile(5.0, 1.0, 0.8)) < 1e-3
    assert asymmetry(Profile(5.0, 1.0, 0.8, 0.0, (TILT,))) > 0.05
    assert asymmetry(Profile(5.0, 1.0, 0.8, 0.0, (ARMS,))) > 0.05


def test_two_arms_are_symmetric_and_brighter_than_between():
    azimuth = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    factor = spiral_arms(np.full(360, 2.0), azimuth, arms=2, pitch=0.3, strength=1.0, phase=0.0)
    np.testing.assert_allclose(factor, np.roll(factor, 180), rtol=1e-9)
    assert factor.max() / factor.min() == pytest.approx(math.exp(2 * 4 / 4.25), rel=1e-3)


def test_dust_takes_light_from_one_side():
    lane = functools.partial(dust_lane, offset=0.4, width=0.2)
    disk = Profile(5.0, 1.0, 0.4, 0.0, (lane,))
    lost = image_of(disk, center=(31.5, 31.5))
    assert lost[32:].sum() > 1.5 * lost[:32].sum()
    assert lost.sum() == pytest.approx(modulated_flux(disk), rel=5e-3)


def test_blobs_are_gaussians():
    blobs = Blobs(np.array([[2.0, -3.0]]), np.array([1.5]), np.ones(1))
    image = image_of(blobs, center=(30.0, 33.0))
    psf = galsim.Moffat(beta=3, fwhm=FWHM)
    expected = galsim.Convolve(galsim.Gaussian(sigma=1.5), psf).drawImage(
        nx=EDGE, ny=EDGE, scale=1, offset=(30.0 - 31.5, 32.0 - 31.5)
    )
    np.testing.assert_allclose(image, expected.array, atol=2e-3 * expected.array.max())


def test_clumps_lie_in_the_plane_of_the_disk():
    disk = Profile(4.0, 1.0, axis_ratio=0.25, angle=math.pi / 2)
    blobs = clumps(np.random.default_rng(0), disk, azimuth=np.array([0.0, math.pi / 2]), radius=np.array([1.0, 2.0]))
    np.testing.assert_allclose(blobs.offsets, [[4.0, 0.0], [0.0, -2.0]], atol=1e-12)
    assert blobs.fractions.sum() == pytest.approx(1.0)


def test_tail_begins_at_the_disk_and_ends_far_out():
    blobs = tail(Profile(4.0, 1.0, 0.9), start=0.5, sweep=1.0, length=4.0, width=0.2)
    distance = np.hypot(*blobs.offsets.T)
    assert 3.5 < distance[0] < 5 and 13 < distance[-1] < 16.1
    assert blobs.fractions[0] > 3 * blobs.fractions[-1]


@settings(max_examples=10)
@given(st.integers(-4, 4), st.integers(-4, 4), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_whole_pixels_only_move_the_image(dy, dx, fy, fx):
    profile = Profile(1.5, 1.0, 0.6, 0.3)
    here = image_of(profile, center=(31 + fy, 31 + fx))
    there = image_of(profile, center=(31 + fy + dy, 31 + fx + dx))
    moved = np.roll(here, (dy, dx), (0, 1))
    np.testing.assert_allclose(there[8:-8, 8:-8], moved[8:-8, 8:-8], atol=3e-5 * here.max())


@pytest.mark.parametrize("edges", [(40, 57), (33, 64)])
def test_odd_and_oblong_images(edges):
    whole = image_of(Profile(2.0, 1.0), center=(20.0, 20.0), edges=(64, 64))
    part = image_of(Profile(2.0, 1.0), center=(20.0, 20.0), edges=edges)
    assert part.shape == edges
    np.testing.assert_allclose(part, whole[: edges[0], : edges[1]], atol=1e-6 * whole.max())


def test_light_from_outside_reaches_in_and_none_wraps_round():
    image = image_of(Profile(3.0, 1.0), center=(-4.0, 30.0))
    assert image[0].max() > 0.01 * image_of(Profile(3.0, 1.0)).max()
    assert image[-1].max() < 1e-6


def test_stamp_radius_grows_with_brightness():
    faint, bright = (source(Profile(5.0, 1.0), flux) for flux in (1e4, 1e8))
    assert stamp_radius(faint, SURVEY) == 31 < stamp_radius(bright, SURVEY)
    assert stamp_radius(source(Profile(5.0, 4.0), 1e8), SURVEY) > stamp_radius(bright, SURVEY)
