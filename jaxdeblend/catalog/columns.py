"""Columns of the tables of catalogs: the one place that says what they hold, to code and documentation."""

from collections.abc import Mapping
from types import MappingProxyType

from ..measurement.columns import IMAGE_UNIT, MEASURED_COLUMNS, ColumnInfo

_OF_WINDOW = {
    "y0": ColumnInfo("int64", "first row of the window, in pixels of the exposure"),
    "x0": ColumnInfo("int64", "first column of the window, in pixels of the exposure"),
    "ny": ColumnInfo("int64", "number of rows of the window"),
    "nx": ColumnInfo("int64", "number of columns of the window"),
}
"""No units: what indexes pixels must stay whole numbers, which quantities are not."""

SOURCE_COLUMNS: Mapping[str, ColumnInfo] = MappingProxyType(
    {
        "id": ColumnInfo("int64", "number of the source: its row in the catalog"),
        "parent": ColumnInfo("int64", "id of its parent; -1: none"),
        **{name: about for name, about in MEASURED_COLUMNS.items() if name != "id"},
        "peak_x": ColumnInfo("float64", "position before the fit, as given or detected, column", "pix"),
        "peak_y": ColumnInfo("float64", "position before the fit, as given or detected, row", "pix"),
        "blend": ColumnInfo("int64", "id of its blend, the work unit in which it was fitted"),
        "blend_n_sources": ColumnInfo("int64", "number of sources of its blend"),
        "parent_n_sources": ColumnInfo("int64", "number of sources of its parent; 0 without a parent"),
        "is_isolated": ColumnInfo("bool", "whether it is alone in its parent"),
        "blend_chi2": ColumnInfo("float64", "chi2 of its blend; NaN: not fitted"),
        "blend_n_dof": ColumnInfo("int64", "n_dof of its blend"),
        "model_type": ColumnInfo("str", "what its components are: point, extended; several joined by +; empty: none"),
        "skip_reason": ColumnInfo("str", "why it was not fitted; empty if it was"),
    }
)
"""Columns of the table of sources; ``{band}`` stands for the name of each band."""

_STATE = {
    "skipped": ColumnInfo("bool", "whether any of it was skipped"),
    "skip_reason": ColumnInfo("str", "why it was skipped"),
    "failed": ColumnInfo("bool", "whether any of it failed with an error"),
    "error": ColumnInfo("str", "the error with which it failed"),
}

_CHI2 = ColumnInfo("float64", "weighted sum of squared residuals, each pixel counted once; NaN: not fitted")
_N_DOF = ColumnInfo("int64", "number of pixel values in chi2, less that of fluxes and positions")

BLEND_COLUMNS: Mapping[str, ColumnInfo] = MappingProxyType(
    {
        "id": ColumnInfo("int64", "number of the blend, as in the store of models"),
        "parent": ColumnInfo("int64", "id of its parent; -1: its sources have none"),
        **_OF_WINDOW,
        "n_sources": ColumnInfo("int64", "number of its own sources, without neighbours that were fitted along"),
        "n_components": ColumnInfo("int64", "number of components of these"),
        "n_steps": ColumnInfo("int64", "steps of the optimizer"),
        "status": ColumnInfo("U16", "how its fit ended: a name of jaxdeblend.RESULTS; or skipped, failed"),
        "converged": ColumnInfo("bool", "whether its fit converged"),
        "chi2": _CHI2,
        "n_dof": _N_DOF,
        **_STATE,
    }
)
"""Columns of the table of blends."""

PARENT_COLUMNS: Mapping[str, ColumnInfo] = MappingProxyType(
    {
        "id": ColumnInfo("int64", "number of the parent"),
        **_OF_WINDOW,
        "n_sources": ColumnInfo("int64", "number of its sources"),
        "n_steps": ColumnInfo("int64", "most steps of the optimizer in any of its blends"),
        "status": ColumnInfo("U16", "the worst status of its blends"),
        "n_pieces": ColumnInfo("int64", "number of its blends"),
        "converged": ColumnInfo("bool", "whether all of its blends converged"),
        "chi2": _CHI2,
        "n_dof": _N_DOF,
        "n_components": ColumnInfo("int64", "number of components of its sources"),
        "n_skipped": ColumnInfo("int64", "number of its blends that were skipped"),
        "n_failed": ColumnInfo("int64", "number of its blends that failed with an error"),
        **_STATE,
    }
)
"""Columns of the table of parents: sums over its blends, but where they say otherwise."""

OVERLAP_COLUMNS: Mapping[str, ColumnInfo] = MappingProxyType(
    {
        **{name: SOURCE_COLUMNS[name] for name in ("id", "parent", "blend")},
        "max_overlap_{band}": ColumnInfo(
            "float32", "largest value of other sources' models on its footprint in {band}", IMAGE_UNIT
        ),
        "flux_overlap_{band}": ColumnInfo("float32", "sum of these values in {band}", IMAGE_UNIT),
        "flux_overlap_fraction_{band}": ColumnInfo("float32", "flux_overlap over the flux of its own model in {band}"),
    }
)
"""Columns of `jaxdeblend.overlap_metrics`."""

SINGLE_BAND_COLUMNS: Mapping[str, ColumnInfo] = MappingProxyType(
    {
        "id": SOURCE_COLUMNS["id"],
        "parent": ColumnInfo("int64", "id of its parent; -1: not on the image"),
        "x": ColumnInfo("float64", "position as given or detected, column", "pix"),
        "y": ColumnInfo("float64", "position as given or detected, row", "pix"),
        "ra": ColumnInfo("float64", "right ascension of the position", "deg"),
        "dec": ColumnInfo("float64", "declination of the position", "deg"),
        "n_peaks": ColumnInfo("int64", "number of peaks of its parent"),
        "flags": ColumnInfo("int32", "bits of jaxdeblend.SingleBandFlag that are set in any band"),
        "flux_{band}": ColumnInfo("float64", "sum of the child in {band}; NaN: there is none", IMAGE_UNIT),
        "flux_err_{band}": ColumnInfo("float64", "√ of the sum of the child's variances in {band}", IMAGE_UNIT),
        "snr_{band}": ColumnInfo("float64", "flux over its error in {band}"),
        "template_flux_{band}": ColumnInfo("float64", "sum of the template in {band}", IMAGE_UNIT),
        "stray_flux_{band}": ColumnInfo(
            "float64", "part of the flux in {band} from where no template reaches", IMAGE_UNIT
        ),
        "n_pixels_{band}": ColumnInfo("int64", "number of pixels of the child in {band} that are not 0"),
        "is_psf_{band}": ColumnInfo("bool", "whether the template in {band} is a PSF"),
        "psf_flux_{band}": ColumnInfo("float64", "flux of the fitted PSF in {band}; NaN: no fit", IMAGE_UNIT),
        "psf_x_{band}": ColumnInfo("float64", "position of the fitted PSF in {band}, column", "pix"),
        "psf_y_{band}": ColumnInfo("float64", "position of the fitted PSF in {band}, row", "pix"),
        "psf_chisq_{band}": ColumnInfo("float64", "chi2 per degree of freedom of the PSF at the peak in {band}"),
        "psf_chisq_2_{band}": ColumnInfo(
            "float64", "the same in {band} with the derivatives of the PSF as further terms"
        ),
        "psf_chisq_2b_{band}": ColumnInfo("float64", "the same in {band} for the PSF moved to where these lead"),
        "psf_dof_{band}": ColumnInfo("float64", "degrees of freedom of the first fit in {band}"),
        "template_weight_{band}": ColumnInfo("float64", "factor of the template in {band}"),
        "n_children_{band}": ColumnInfo("int64", "number of peaks of its parent that have a child in {band}"),
        "flags_{band}": ColumnInfo("int32", "bits of jaxdeblend.SingleBandFlag in {band}"),
    }
)
"""Columns of the table of `jaxdeblend.deblend_single_band_exposure`."""

SINGLE_BAND_PARENT_COLUMNS: Mapping[str, ColumnInfo] = MappingProxyType(
    {
        "id": PARENT_COLUMNS["id"],
        **_OF_WINDOW,
        "area": ColumnInfo("int64", "number of pixels of its footprint"),
        "n_sources": PARENT_COLUMNS["n_sources"],
    }
)
"""Columns of the table of parents of the same."""

POSITION_COLUMNS: Mapping[str, ColumnInfo] = MappingProxyType(
    {
        "y": ColumnInfo("float64", "position before the fit, row; the centre of the first pixel is 0", "pix"),
        "x": ColumnInfo("float64", "position before the fit, column; the centre of the first pixel is 0", "pix"),
    }
)
"""Columns of the positions that the command line writes for the rows of a catalog."""
