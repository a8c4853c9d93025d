"""Flags: what a user should know about a source before trusting its numbers."""

import enum


class Flag(enum.IntFlag):
    """Bits of the column ``flags``.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> jd.Flag(5)
    <Flag.OUTSIDE_IMAGE|MASKED_CENTER: 5>
    """

    OUTSIDE_IMAGE = 1
    """The position lies outside the image; nothing was fitted, fluxes are NaN."""
    EDGE = 2
    """The position is within one PSF half-width of the image's edge: part of the light is missing."""
    MASKED_CENTER = 4
    """The central pixel is unusable in every band."""
    MASKED_PIXELS = 8
    """Unusable pixels lie within one PSF half-width of the position in some band."""
    MISSING_BAND = 16
    """At least one band has no usable pixel within one PSF half-width; its flux error there is huge, or infinite."""
    SHARED_POSITION = 32
    """Another source lies within half a pixel; only the sum of the two is well measured."""
    NO_FLUX = 64
    """The model has no flux in any band."""
    NOT_CONVERGED = 128
    """The fit of the blend ended at its largest number of steps."""
    NON_FINITE = 256
    """The fit of the blend failed with values that are not finite."""
    NO_DATA = 512
    """The blend has no usable pixel at all; nothing was fitted."""
    POOR_FIT = 1024
    """Within one PSF half-width the mean weighted squared residual exceeds 10: a bad pixel or an unknown source."""
    NOT_DEBLENDED = 2048
    """Its blend was skipped, or failed with an error; nothing is known of it but its position."""
    REJECTED_PIXELS = 4096
    """Pixels within one FWHM were left out of the fit, as no PSF can produce them: cosmic rays, hot or cold pixels."""
    UNEXPLAINED_LIGHT = 8192
    """Far from all sources the image is not dark. Sky was left in it, and was taken out before the fit
    (`jaxdeblend.Deblended.sky`); or light that falls outwards reaches the border, and fluxes of extended sources depend
    on where it is cut off."""
    BRIGHT_NEIGHBOR_OUTSIDE = 16384
    """The border nearest to the source is lit from outside of the image, or by a source that is not in the list."""
    UNDERSAMPLED_PSF = 32768
    """The PSF of some band is sharper than that of model space, and the source is no point: what is drawn of it is as
    blurred as model space at the least. Give the observation a narrower `model_psf`."""
    BRIGHT_NEIGHBOR = 65536
    """A hundredth of the light of extended neighbours under the source exceeds the error of its flux in some band. The
    error counts noise alone, and models of galaxies are right to about a hundredth."""


FOUND_BEFORE_FIT = Flag.REJECTED_PIXELS | Flag.UNEXPLAINED_LIGHT | Flag.BRIGHT_NEIGHBOR_OUTSIDE
"""Flags of what was found in the images before the fit; nothing in the fitted blend shows it."""
