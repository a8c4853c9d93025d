"""Exposures from astropy's NDData and CCDData."""

from collections.abc import Mapping, Sequence

from astropy.nddata import NDData

from .exposure import Exposure


def exposure_from_nddata(
    data: NDData | Sequence[NDData] | Mapping[str, NDData],
    psf: object | None = None,
    *,
    bands: Sequence[str] | None = None,
    zero_point: object | None = None,
) -> Exposure:
    """Make an exposure of astropy's `NDData` or `CCDData`.

    Uncertainties of any kind become variances, in the squared unit of the data; without any, the noise of the
    background is estimated, as `read_exposure` does. A mask is True, or not zero, where a pixel is unusable. Zero
    points and filters are looked for in `meta`. Uncertainties are compared with the scatter of the pixels.

    Parameters
    ----------
    data
        One for each band, by name or in the order of the bands; or one that holds a cube (band, y, x).
    psf
        A PSF, stamps (band, y, x), or a PSF that varies; by default the stamps ``psf`` of the data.
    bands
        Names of the bands, where `data` does not tell them.
    zero_point
        AB magnitude of one image unit, one number or one per band; by default what `meta` says.

    Returns
    -------
    Exposure
        The exposure.

    Raises
    ------
    ValueError
        If the bands differ in shape, unit or pixel grid, if their number is not that of the names, or no PSF is given.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy.nddata import CCDData, StdDevUncertainty
    >>> import jaxdeblend as jd
    >>> ccd = CCDData(np.ones((32, 40)), unit="adu", uncertainty=StdDevUncertainty(np.full((32, 40), 2.0)))
    >>> exposure = jd.exposure_from_nddata({"g": ccd, "r": ccd}, jd.GaussianPSF(1.5))
    >>> exposure.bands, exposure.unit, float(exposure.variance[1, 0, 0])
    (('g', 'r'), 'adu', 4.0)
    """
    if isinstance(data, Mapping):
        bands, data = tuple(data), tuple(data.values())
    if bands is None:
        raise ValueError("bands: got None; name the bands, or give a dictionary of NDData by band.")
    return Exposure(data, psf=psf, bands=bands, zero_point=zero_point)
