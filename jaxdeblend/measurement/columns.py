"""Columns of tables of measured sources: the one place that says what they hold."""

import dataclasses
import itertools
from collections.abc import Mapping
from types import MappingProxyType

IMAGE_UNIT = "image"
"""Stands for the unit of the image, which each exposure may know."""


@dataclasses.dataclass(frozen=True)
class ColumnInfo:
    """What a column of a table holds.

    Attributes
    ----------
    dtype
        NumPy's name of the type; ``"float"`` is the precision of the fit.
    description
        What it is, in one phrase.
    unit
        Its unit as astropy writes it; ``"image"``: that of the image; empty: none.
    """

    dtype: str
    description: str
    unit: str = ""


MEASURED_COLUMNS: Mapping[str, ColumnInfo] = MappingProxyType(
    {
        "id": ColumnInfo("int64", "number of the source"),
        "x": ColumnInfo("float64", "fitted position, column; the centre of the first pixel is 0", "pix"),
        "y": ColumnInfo("float64", "fitted position, row; the centre of the first pixel is 0", "pix"),
        "ra": ColumnInfo("float64", "right ascension of the fitted position", "deg"),
        "dec": ColumnInfo("float64", "declination of the fitted position", "deg"),
        "flux_{band}": ColumnInfo("float", "total flux of the model in {band}", IMAGE_UNIT),
        "flux_err_{band}": ColumnInfo(
            "float", "1σ error of the flux in {band} at fixed shapes, with covariances of neighbours", IMAGE_UNIT
        ),
        "snr_{band}": ColumnInfo("float", "flux over its error in {band}"),
        "blendedness_{band}": ColumnInfo("float", "share of other sources in the light within its image in {band}"),
        "data_coverage_{band}": ColumnInfo(
            "float", "share of its light in {band}, as observed, that falls on usable pixels"
        ),
        "peak_flux_{band}": ColumnInfo(
            "float", "value of the image in {band} on the pixel of the detected position; NaN: unusable", IMAGE_UNIT
        ),
        "size": ColumnInfo("float64", "√ of half the trace of the second moments, without the PSF", "pix"),
        "e1": ColumnInfo("float64", "ellipticity (Q_xx - Q_yy) / (Q_xx + Q_yy), without the PSF"),
        "e2": ColumnInfo("float64", "ellipticity 2 Q_xy / (Q_xx + Q_yy), without the PSF"),
        "n_components": ColumnInfo("int32", "number of components of its model"),
        "flags": ColumnInfo("int32", "bits of jaxdeblend.Flag"),
    }
)
"""Columns of `jaxdeblend.measure`; ``{band}`` stands for the name of each band."""


def of_bands(columns: Mapping[str, ColumnInfo], bands: tuple[str, ...]) -> dict[str, ColumnInfo]:
    """Name the columns of each band; those that follow one another go together, band by band.

    Parameters
    ----------
    columns
        Columns; those with ``{band}`` in their name are of each band.
    bands
        Names of the bands.

    Returns
    -------
    dict
        Columns by the names that they have in a table.

    Examples
    --------
    >>> list(of_bands(MEASURED_COLUMNS, ("g", "r")))[3:]
    ['ra', 'dec', 'flux_g', 'flux_err_g', ..., 'peak_flux_g', 'flux_r', ..., 'flags']
    """
    found: dict[str, ColumnInfo] = {}
    for of_band, names in itertools.groupby(columns, key=lambda name: "{band}" in name):
        group = list(names)
        for band in bands if of_band else ("",):
            for name in group:
                description = columns[name].description.replace("{band}", band)
                found[name.replace("{band}", band)] = dataclasses.replace(columns[name], description=description)
    return found
