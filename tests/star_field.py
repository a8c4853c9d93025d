"""A field of stars whose truth is known to the last digit; every blend in it is small."""

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

import jaxdeblend as jd
from jaxdeblend.io import Exposure

BANDS = ("g", "i")
SIGMA = (1.5, 1.3)
SHAPE = (72, 88)
STARS = np.array([[20.3, 18.8], [22.1, 23.9], [50.0, 30.4], [40.2, 70.0], [12.0, 60.0], [60.5, 86.0]])
"""Positions (y, x); the first two overlap, the last is cut by the edge."""
FLUX = np.array([[900.0, 1500.0], [500.0, 300.0], [700.0, 700.0], [300.0, 2000.0], [1000.0, 100.0], [800.0, 800.0]])


def truth():
    table = Table({"x": STARS[:, 1], "y": STARS[:, 0]})
    for number, band in enumerate(BANDS):
        table[f"flux_{band}"] = FLUX[:, number]
        table[f"snr_{band}"] = FLUX[:, number] / np.sqrt(4 * np.pi * SIGMA[number] ** 2)
    return table


def images(seed=1):
    """Stars, sampled at the pixels' centres, and noise of unit variance."""
    y, x = np.indices(SHAPE)
    cube = np.random.default_rng(seed).normal(0, 1, (len(BANDS), *SHAPE))
    for (cy, cx), flux in zip(STARS, FLUX, strict=True):
        for plane, amount, sigma in zip(cube, flux, SIGMA, strict=True):
            plane += amount * np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / sigma**2) / (2 * np.pi * sigma**2)
    return cube.astype(np.float32)


def psf():
    axis = np.arange(21) - 10
    stamps = [np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / sigma**2) for sigma in SIGMA]
    return jd.ImagePSF(np.array(stamps))


def wcs():
    system = WCS(naxis=2)
    system.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    system.wcs.crval = [150.0, 2.0]
    system.wcs.crpix = [44.0, 36.0]
    system.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    system.wcs.set()
    return system


def mask():
    """A dead column, away from the stars."""
    dead = np.zeros((len(BANDS), *SHAPE), bool)
    dead[0, :, 5] = True
    return dead


def exposure():
    return Exposure(images(), [1.0, 1.0], psf(), bands=BANDS, mask=mask(), wcs=wcs(), unit="nJy")


def write(folder):
    """Write field_{band}.fits, psf_{band}.fits and truth.ecsv."""
    header = wcs().to_header()
    header["BUNIT"] = "nJy"
    for number, band in enumerate(BANDS):
        planes = [
            fits.ImageHDU(images()[number], header, name="IMAGE"),
            fits.ImageHDU(np.ones(SHAPE, np.float32), name="VARIANCE"),
            fits.ImageHDU(mask()[number].astype(np.int32) << 3, fits.Header([("MP_BAD", 3)]), name="MASK"),
        ]
        fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(folder / f"field_{band}.fits")
        fits.PrimaryHDU(np.asarray(psf().stamps[number])).writeto(folder / f"psf_{band}.fits")
    truth().write(folder / "truth.ecsv")
