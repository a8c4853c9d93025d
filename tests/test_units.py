"""Fluxes are the same in any unit: factors of 1e-30 to 1e30 through every verb and the command line."""

import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend.cli import run
from jaxdeblend.model.component import scaled
from tests.scenes import fluxes_of, gaussian

FACTORS = (1e-30, 1e-21, 1e-9, 1e9, 1e21, 1e30)
BANDS = ("g", "r")
SIGMAS = (1.7, 1.5)
SHAPE = (48, 48)
CENTERS = np.array([(22.3, 21.8), (25.9, 27.1)])
FLUXES = np.array([(400.0, 600.0), (500.0, 450.0)])
SIZES = (0.0, 1.5)


def scene():
    light = [
        sum(
            flux[band] * gaussian(SHAPE, center, np.hypot(sigma, size))
            for flux, center, size in zip(FLUXES, CENTERS, SIZES, strict=True)
        )
        for band, sigma in enumerate(SIGMAS)
    ]
    return np.stack(light) + np.random.default_rng(0).normal(size=(2, *SHAPE))


PSF = np.stack([gaussian((25, 25), (12, 12), sigma) for sigma in SIGMAS])


def observation(factor):
    images = scene()
    return jd.Observation(images * factor, np.full_like(images, factor**2), PSF, bands=BANDS)


def of_deblend(factor):
    obs = observation(factor)
    result = jd.deblend(obs, CENTERS)
    table = result.table()
    again = jd.measure(result, obs)
    shares = jd.apportion_flux(result, obs).children
    return {
        "flux": table["flux_g"],
        "error": table["flux_err_r"],
        "peak": table["peak_flux_r"],
        "measured": again["flux_r"],
        "shares": np.asarray(shares, float).sum(axis=(2, 3)),
        "model": np.asarray(jd.render(result.blend, obs), float).sum(axis=(1, 2)),
        "sources": fluxes_of(result.blend),
    }


def of_fit(factor):
    obs = observation(factor)
    fitted = jd.fit(jd.initialize(obs, CENTERS), obs).blend
    joined = jd.add_sources(jd.initialize(obs, CENTERS[:1]), obs, CENTERS[1:])
    return {"fitted": fluxes_of(fitted), "joined": fluxes_of(joined)}


def of_catalog(factor):
    images = scene()
    result = jd.deblend_catalog(jd.Exposure(images * factor, [factor**2, factor**2], PSF, bands=BANDS))
    return {
        "flux": result.table["flux_r"],
        "model": result.model.astype(float).sum(axis=(1, 2)),
        "residual": result.residual.astype(float).std(axis=(1, 2)),
    }


@pytest.mark.parametrize("verb", [of_deblend, of_fit, of_catalog])
def test_fluxes_are_the_same_in_any_unit(verb):
    expected = verb(1.0)
    for factor in FACTORS:
        for name, value in verb(factor).items():
            found = np.asarray(value, float) / factor
            np.testing.assert_allclose(found, np.asarray(expected[name], float), rtol=1e-4, err_msg=f"{name}, {factor}")


def test_probabilities_are_the_same_in_any_unit():
    blend = jd.Blend.of(
        [jd.PointSource(center, flux) for center, flux in zip(CENTERS, FLUXES, strict=True)], frame=SHAPE
    )
    expected = float(jd.log_posterior(blend, observation(1.0)))
    for factor in FACTORS:
        found = float(jd.log_posterior(blend.scaled(factor), observation(factor)))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ERR", "VAR", "IVAR"])
def test_the_command_line_finds_the_same_in_any_unit(kind, tmp_path):
    images = scene()
    power = {"ERR": 1, "VAR": 2, "IVAR": -2}[kind]
    for band, psf in zip(BANDS, PSF, strict=True):
        fits.PrimaryHDU(psf).writeto(tmp_path / f"psf_{band}.fits")
    expected = None
    for factor in (1.0, *FACTORS):
        folder = tmp_path / f"{factor:g}"
        folder.mkdir()
        for band, image in zip(BANDS, images, strict=True):
            noise = fits.ImageHDU(np.full(SHAPE, factor**power), name=kind)
            fits.HDUList([fits.PrimaryHDU(image * factor), noise]).writeto(folder / f"{band}.fits")
        psf = str(tmp_path / "psf_{band}.fits")
        options = ["--bands", "g,r", "--psf", psf, "-o", str(folder / "out"), "--no-pictures"]
        assert run(["deblend", str(folder / "{band}.fits"), *options]) == 0
        table = Table.read(folder / "out" / "catalog.ecsv")
        found = np.array([table["flux_g"], table["flux_r"], table["flux_err_r"]], float) / factor
        expected = found if expected is None else expected
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_component_that_cannot_be_scaled_says_so():
    class Halo(jd.AbstractComponent):
        def terms(self):
            return np.ones((1, 2)), np.ones((1, 3, 3))

        def project(self, rms):
            del rms
            return self

        def log_prior(self, rms):
            del rms
            return 0.0

        def step_sizes(self, rms):
            del rms
            return self

    with pytest.raises(NotImplementedError, match=r"Halo has no method scaled\(factor\)"):
        scaled(Halo(), jnp.asarray(2.0))
