"""Draw a true source through the PSF onto pixels, without noise."""

import numpy as np

from .population import TrueSource
from .survey import Survey


def draw(source: TrueSource, center: np.ndarray, shape: tuple[int, int], survey: Survey) -> np.ndarray:
    """Noiseless image of one source as the survey sees it.

    Parameters
    ----------
    source
        What to draw.
    center
        Its centre (y, x) in pixels of the image; it may lie outside.
    shape
        Shape (y, x) of the image.
    survey
        Bands and PSFs.

    Returns
    -------
    np.ndarray
        Image (band, y, x), float32. Light that falls outside the image is not in it.

    Examples
    --------
    >>> from jaxdeblend.simulate.population import draw_star
    >>> from jaxdeblend.simulate.survey import make_survey
    >>> survey = make_survey(("g", "r"))
    >>> star = draw_star(np.random.default_rng(1), survey, 20.0)
    >>> draw(star, np.array([20.0, 21.5]), (41, 43), survey).shape
    (2, 41, 43)
    """
    # A border of half a PSF on every side catches the light from outside and keeps the transform from
    # wrapping round.
    border = survey.psf.shape[1] // 2, survey.psf.shape[2] // 2
    edges = _good_edge(shape[0] + 2 * border[0]), _good_edge(shape[1] + 2 * border[1])
    at = np.asarray(center) + border
    total = np.zeros((len(survey.bands), edges[0], edges[1] // 2 + 1), complex)
    for component in source.components:
        total += component.flux[:, None, None] * component.shape.transform(at, edges)
    image = np.fft.irfft2(total * _psf_transform(survey.psf, edges), s=edges)
    window = tuple(slice(b, b + n) for b, n in zip(border, shape, strict=True))
    return np.maximum(image[(slice(None), *window)], 0).astype(np.float32)


def stamp_radius(source: TrueSource, survey: Survey, *, depth: float = 0.03) -> int:
    """Distance in pixels beyond which a source is fainter than a fraction of the noise in every band.

    Parameters
    ----------
    source
        A source.
    survey
        PSFs and noise.
    depth
        The fraction of the standard deviation of the sky.

    Returns
    -------
    int
        Half the edge of a stamp that holds the source; not less than half a PSF stamp.

    Examples
    --------
    >>> from jaxdeblend.simulate.population import draw_star
    >>> from jaxdeblend.simulate.survey import make_survey
    >>> survey = make_survey(("g", "r"))
    >>> stamp_radius(draw_star(np.random.default_rng(1), survey, 22.0), survey)
    25
    """
    noise = depth * np.sqrt(survey.sky_variance)
    reach = [part.shape.isophote(float(np.min(noise / np.maximum(part.flux, 1e-10)))) for part in source.components]
    half = max(survey.psf.shape[1:]) // 2
    return int(np.ceil(max(half, *reach, 0)))


def _psf_transform(psf: np.ndarray, edges: tuple[int, int]) -> np.ndarray:
    """Transform (band, ky, kx) of stamps whose middle pixel is moved to the origin."""
    padded = np.zeros((len(psf), *edges))
    padded[:, : psf.shape[1], : psf.shape[2]] = psf
    return np.fft.rfft2(np.roll(padded, (-(psf.shape[1] // 2), -(psf.shape[2] // 2)), (1, 2)))


def _good_edge(minimum: int) -> int:
    """Smallest even 2^a 3^b 5^c that is at least the minimum."""
    size = minimum + minimum % 2
    while not _is_smooth(size):
        size += 2
    return size


def _is_smooth(size: int) -> bool:
    """Whether 2, 3 and 5 are the only prime factors."""
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size == 1
