"""Every flag is set by the case that is made for it, and by no other."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend import RESULTS, Flag
from jaxdeblend.instrument.observation import MODEL_SIGMA
from jaxdeblend.measurement.flags import FOUND_BEFORE_FIT
from tests.scenes import PSF_SIGMA, gaussian

SHAPE = (25, 27)
MIDDLE = (12.0, 13.0)
ELSEWHERE = (4.0, 20.0)


def flags(center=MIDDLE, *, other=ELSEWHERE, mask=None, flux=(300.0, 500.0), junk=0.0, status=RESULTS.CONVERGED):
    """Flags of the first of two sources; the images are what the models say, where they are not spoilt."""
    blend = jd.Blend.of([jd.PointSource(center, flux), jd.PointSource(other, (200.0, 200.0))], frame=SHAPE)
    truth = np.asarray(flux)[:, None, None] * gaussian(SHAPE, center, PSF_SIGMA)
    images = truth + 200.0 * gaussian(SHAPE, other, PSF_SIGMA) + junk
    obs = jd.Observation(images, np.ones(2), jd.GaussianPSF(PSF_SIGMA), bands=("g", "r"), mask=mask)
    return Flag(int(jd.measure(blend, obs, status=status)["flags"][0]))


def masked(band, rows, columns):
    mask = np.zeros((2, *SHAPE), dtype=bool)
    mask[band, rows, columns] = True
    return mask


EVERYWHERE = slice(None)
DISK = jd.ImageMorphology(jnp.asarray(gaussian((11, 11), (5, 5), 2.0), dtype=float))

CASES = {
    "nothing": ({}, Flag(0)),
    "left of the image": ({"center": (12.0, -0.6)}, Flag.OUTSIDE_IMAGE),
    "below the image": ({"center": (24.6, 13.0)}, Flag.OUTSIDE_IMAGE),
    "on the outermost pixel": ({"center": (24.4, 13.0), "flux": (60.0, 60.0)}, Flag.EDGE),
    "one half-width from the edge": ({"center": (1.5, 13.0)}, Flag.EDGE),
    "more than one half-width from the edge": ({"center": (1.8, 13.0)}, Flag(0)),
    "central pixel masked in one band": ({"mask": masked(0, 12, 13)}, Flag.MASKED_PIXELS),
    "central pixel masked in every band": (
        {"mask": masked(EVERYWHERE, 12, 13)},
        Flag.MASKED_CENTER | Flag.MASKED_PIXELS,
    ),
    "central pixel masked, nearly between two": (
        {"center": (12.0, 13.45), "mask": masked(EVERYWHERE, 12, 13)},
        Flag.MASKED_CENTER | Flag.MASKED_PIXELS,
    ),
    "next pixel masked": ({"mask": masked(EVERYWHERE, 12, 14)}, Flag.MASKED_PIXELS),
    "pixels masked outside the half-width": ({"mask": masked(EVERYWHERE, EVERYWHERE, slice(15, 18))}, Flag(0)),
    "no data in a band": (
        {"mask": masked(1, EVERYWHERE, EVERYWHERE)},
        Flag.MASKED_PIXELS | Flag.MISSING_BAND,
    ),
    "two on one pixel": ({"other": (12.2, 13.3)}, Flag.SHARED_POSITION),
    "two on neighbouring pixels": ({"other": (12.0, 13.6)}, Flag(0)),
    "no flux": ({"flux": (0.0, 0.0)}, Flag.NO_FLUX),
    "no flux in one band": ({"flux": (0.0, 90.0)}, Flag(0)),
    "not converged": ({"status": RESULTS.MAX_STEPS}, Flag.NOT_CONVERGED),
    "failed": ({"status": RESULTS.NON_FINITE}, Flag.NON_FINITE),
    "no data, says the fit": ({"status": RESULTS.NO_DATA}, Flag.NO_DATA),
    "no data": (
        {"mask": masked(EVERYWHERE, EVERYWHERE, EVERYWHERE)},
        Flag.NO_DATA | Flag.MASKED_CENTER | Flag.MASKED_PIXELS | Flag.MISSING_BAND,
    ),
    "an unknown source on top": ({"junk": 500 * gaussian(SHAPE, (12.0, 14.0), 1.0)}, Flag.POOR_FIT),
    "an unknown source elsewhere": ({"junk": 500 * gaussian(SHAPE, (20.0, 5.0), 1.0)}, Flag(0)),
}


@pytest.mark.parametrize(("case", "expected"), CASES.values(), ids=CASES.keys())
def test_flags(case, expected):
    assert flags(**case) == expected


def test_every_flag_has_a_case():
    seen = Flag(0)
    for _, expected in CASES.values():
        seen |= expected
    # see tests/catalog, tests/test_survey_images.py, and below
    elsewhere = Flag.NOT_DEBLENDED | FOUND_BEFORE_FIT | Flag.UNDERSAMPLED_PSF | Flag.BRIGHT_NEIGHBOR
    assert seen == Flag(sum(Flag)) & ~elsewhere


def test_a_lost_source_has_no_flux_but_its_position():
    """`initialize` leaves such a source dark; its neighbour is measured as if it were not there."""
    images = 300.0 * gaussian(SHAPE, MIDDLE, PSF_SIGMA)[None].repeat(2, 0)
    obs = jd.Observation(images, np.ones(2), jd.GaussianPSF(PSF_SIGMA), bands=("g", "r"))
    blend = jd.Blend.of([jd.PointSource(MIDDLE, (300.0, 300.0)), jd.PointSource((40.0, -7.0), (0.0, 0.0))], frame=SHAPE)
    dark = blend.centers.at[1].set(0.0), jnp.array([True, False])
    blend = eqx.tree_at(lambda b: (b.centers, b.stacks[0].active), blend, dark)
    table = jd.measure(blend, obs)
    assert Flag.OUTSIDE_IMAGE in Flag(int(table["flags"][1])) and Flag.NO_FLUX in Flag(int(table["flags"][1]))
    assert np.isnan([table["flux_g"][1], table["flux_err_r"][1], table["snr_g"][1]]).all()
    assert (table["x"].value[1], table["y"].value[1]) == (-7.0, 40.0)
    assert table["flags"][0] == 0
    np.testing.assert_allclose(table["flux_g"][0], 300.0, rtol=1e-5)


@pytest.mark.parametrize(("share", "flagged"), [(0.8, False), (1.25, True)])
def test_stars_beside_galaxies_whose_models_are_no_better_than_a_hundredth(share, flagged):
    """Of Gaussians of variance a and b at a distance d, Σ S G / Σ S² is 2a / (a + b) · exp(-d² / 2(a + b))."""
    star, galaxy = (12.0, 16.0), (12.0, 11.0)
    a, b, d2 = PSF_SIGMA**2, PSF_SIGMA**2 + 1.6**2 - MODEL_SIGMA**2, 25.0
    overlap = 2 * a / (a + b) * np.exp(-d2 / 2 / (a + b))
    correlation = overlap * np.sqrt(b / a)
    error = np.sqrt(4 * np.pi * a / (1 - correlation**2))
    fluxes = jnp.array([100.0, 0.0]), jnp.array([share * 100 * error / overlap, 0.0])
    profile = jd.ImageMorphology(jnp.asarray(gaussian((21, 21), (10, 10), 1.6), dtype=float))
    sources = [
        jd.PointSource(star, fluxes[0]),
        jd.Source(galaxy, (jd.FactorizedComponent(jd.FreeSpectrum(fluxes[1]), profile),), frame=SHAPE),
    ]
    obs = jd.Observation(np.zeros((2, *SHAPE)), np.ones(2), jd.GaussianPSF(PSF_SIGMA), bands=("g", "r"))
    found = jd.measure(jd.Blend.of(sources, frame=SHAPE), obs)["flags"] & Flag.BRIGHT_NEIGHBOR
    assert found.astype(bool).tolist() == [flagged, False]


@pytest.mark.parametrize(
    ("sigma", "model_sigma", "sharper"),
    [(0.5, None, True), (0.6, None, False), (0.75, 0.8, True), (0.8, 0.8, False), (1.4, None, False)],
)
def test_sources_behind_a_psf_sharper_than_model_space(sigma, model_sigma, sharper):
    """Points are drawn by the PSF itself, and model space is narrower where a PSF is."""
    model_psf = None if model_sigma is None else jd.GaussianPSF(model_sigma)
    star = jd.PointSource((12.0, 13.0), jnp.full(2, 200.0))
    galaxy = jd.Source((8.0, 9.0), (jd.FactorizedComponent(jd.FreeSpectrum(jnp.ones(2)), DISK),), frame=SHAPE)
    psf = jd.GaussianPSF([1.4, sigma])
    obs = jd.Observation(np.zeros((2, *SHAPE)), np.ones(2), psf, bands=("g", "r"), model_psf=model_psf)
    flagged = jd.measure(jd.Blend.of([star, galaxy], frame=SHAPE), obs)["flags"] & Flag.UNDERSAMPLED_PSF
    assert flagged.astype(bool).tolist() == [False, sharper]
