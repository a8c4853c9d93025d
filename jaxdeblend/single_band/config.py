"""The options of the single-band deblender."""

from dataclasses import dataclass

CHOICES = {
    "symmetry": ("subpixel", "half", "integer"),
    "edges": ("ramp", "patch", "clip"),
    "smoothing": ("auto", "on", "off"),
    "monotonic": ("ring", "wedge", "none"),
    "stray_flux": ("r-to-peak", "r-to-footprint", "nearest-footprint", "trim"),
    "stray_flux_to_point_sources": ("necessary", "always", "never"),
    "variance": ("scaled", "copy"),
}
"""What the options that are words may be; the defaults come first, but for stray flux."""


@dataclass(frozen=True)
class SingleBandConfig:
    """How templates are made, how the image is divided, and which blends are too large for it.

    The defaults are those of the deblender of LSST (``meas_deblender``), but for templates that are mirrored about the
    sub-pixel position, ring-wise monotonicity, and variances that shrink with the share of a pixel.

    Parameters
    ----------
    fit_psf
        Whether sources that the PSF describes well enough get it as their template.
    psf_chisq, psf_chisq_derivatives, psf_chisq_moved
        Largest χ² per degree of freedom of a point source: where it was detected, with the derivatives of the PSF as
        further terms, and at the position that these lead to. Small galaxies of low S/N pass, too.
    max_neighbors
        Number of the nearest other peaks that enter the fit of one, as PSFs.
    symmetry
        What a template is mirrored about: ``"subpixel"``, the position itself, by linear interpolation;
        ``"half"``, the nearest half pixel; ``"integer"``, the nearest pixel, as LSST does.
    edges
        Where a pixel's mirror image lies outside of the image: ``"clip"``, nothing; ``"patch"``, the image itself;
        ``"ramp"``, the wings of PSFs as bright as the pixels at the template's border.
    smoothing
        Median of 5 × 5 pixels over templates: ``"on"``, ``"off"``, or ``"auto"``, unless the FWHM is below 2 pixels,
        where it would take a source's core away.
    monotonic
        `jaxdeblend.ops.monotone.ring_sweep` (``"ring"``), the shadows of LSST (``"wedge"``,
        `jaxdeblend.ops.wedge.wedge_shadow`), or ``"none"``. Fluxes are as good by either, rings are many times faster.
    weight_templates
        Whether templates are scaled to the image by non-negative least squares.
    remove_degenerate
        Whether one of two templates that are too alike is dropped.
    max_template_dot
        Largest cosine between two templates that are not too alike.
    stray_flux
        Who gets light where no template reaches: each source ∝ 1 / (1 + r²) with r the distance to its peak
        (``"r-to-peak"``) or its template (``"r-to-footprint"``), the one whose template is nearest in steps along rows
        and columns (``"nearest-footprint"``), or nobody (``"trim"``).
    stray_flux_to_point_sources
        Whether point sources get stray light: ``"always"``, ``"never"``, or, ``"necessary"``, where there is no
        other source to get it.
    min_stray_fraction
        Smaller shares of a pixel of stray light are given to the others.
    variance
        Variance of a child that has the share f of a pixel: ``"scaled"``, f² V, or ``"copy"``, V.
    max_peaks
        Number of peaks that are deblended, the brightest; 0: all.
    max_footprint_area, max_footprint_size, min_footprint_axis_ratio
        Limits on footprints that are deblended: pixels, longest side of the box, ratio of the axes of the second
        moments; 0: none. They apply to footprints that are given.
    max_masked_fraction
        Largest share of the footprint without data.
    tiny_footprint
        Peaks around which the footprint has a shorter side, or one as long, are skipped; at least 2.

    Raises
    ------
    ValueError
        If an option is none of its choices, or a number is out of range.

    Examples
    --------
    >>> SingleBandConfig(symmetry="integer", monotonic="wedge").edges
    'ramp'
    """

    fit_psf: bool = True
    psf_chisq: float = 1.5
    psf_chisq_derivatives: float = 1.5
    psf_chisq_moved: float = 1.5
    max_neighbors: int = 8
    symmetry: str = "subpixel"
    edges: str = "ramp"
    smoothing: str = "auto"
    monotonic: str = "ring"
    weight_templates: bool = False
    remove_degenerate: bool = False
    max_template_dot: float = 0.5
    stray_flux: str = "trim"
    stray_flux_to_point_sources: str = "necessary"
    min_stray_fraction: float = 0.001
    variance: str = "scaled"
    max_peaks: int = 0
    max_footprint_area: int = 10000
    max_footprint_size: int = 0
    min_footprint_axis_ratio: float = 0.0
    max_masked_fraction: float = 0.25
    tiny_footprint: int = 2

    def __post_init__(self):
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(map(repr, choices))
                raise ValueError(f"{name}: got {getattr(self, name)!r}; give one of {known}.")
        for name in ("psf_chisq", "psf_chisq_derivatives", "psf_chisq_moved", "max_template_dot"):
            _check(name, getattr(self, name), 0.0, float("inf"))
        for name in ("min_stray_fraction", "max_masked_fraction", "min_footprint_axis_ratio"):
            _check(name, getattr(self, name), 0.0, 1.0)
        for name in ("max_neighbors", "max_peaks", "max_footprint_area", "max_footprint_size"):
            _check(name, getattr(self, name), 0, float("inf"))
        _check("tiny_footprint", self.tiny_footprint, 2, float("inf"))


def _check(name: str, value: float | int, low: float | int, high: float | int) -> None:
    if not low <= value <= high:
        limits = f"from {low} to {high}" if high < float("inf") else f"of at least {low}"
        raise ValueError(f"{name}: got {value}; give a number {limits}.")
