"""Stars and galaxies of any brightness in three bands, under Gaussian PSFs, integrated over the pixels."""

import numpy as np

from .scenes import gaussian

SHAPE = (40, 40)
SIGMA = np.array([1.7, 1.5, 1.4])
COLOR = np.array([1.0, 1.2, 0.9])
BANDS = ("g", "r", "i")
PSF = np.stack([gaussian((25, 25), (12, 12), sigma) for sigma in SIGMA])


def scene(sources):
    """Images of sources (y, x, flux, size) without noise."""
    images = np.zeros((3, *SHAPE))
    for y, x, flux, size in sources:
        for image, sigma, color in zip(images, SIGMA, COLOR, strict=True):
            image += flux * color * gaussian(SHAPE, (y, x), np.hypot(sigma, size))
    return images
