"""Flags of the single-band deblender."""

import enum


class SingleBandFlag(enum.IntFlag):
    """Bits of the column ``flags``; what is true of the whole blend stands in the row of every peak.

    Examples
    --------
    >>> import jaxdeblend.single_band as sb
    >>> sb.SingleBandFlag(3)
    <SingleBandFlag.SKIPPED|OUT_OF_BOUNDS: 3>
    """

    SKIPPED = 1
    """The peak has no child, for a reason that another flag tells."""
    OUT_OF_BOUNDS = 2
    """The position is not finite, or lies outside the image or the footprint."""
    TINY_FOOTPRINT = 4
    """The footprint around the peak is too small for a template."""
    NO_VALID_PIXELS = 8
    """There is no usable pixel around the peak."""
    PSF_FIT_FAILED = 16
    """The fit of the PSF has no solution; the template is a symmetric one."""
    PSF_FIT_BAD_DOF = 32
    """Too few pixels for the fit of the PSF; the template is a symmetric one."""
    PSF_FIT_BIG_DECENTER = 64
    """The PSF would move by a pixel or more, and was left where it is."""
    PSF_FIT_MOVED = 128
    """The template is a PSF at another position than the peak's."""
    DEBLENDED_AS_PSF = 256
    """The template is a PSF."""
    PATCHED_TEMPLATE = 512
    """The template has pixels of the image itself, whose mirror image lies outside."""
    RAMPED_TEMPLATE = 1024
    """The template was continued beyond its border by the wings of the PSF."""
    EMPTY_TEMPLATE = 2048
    """The template has no positive pixel."""
    DEGENERATE = 4096
    """The template was dropped, as another is much like it."""
    HAS_STRAY_FLUX = 8192
    """The child has light from where no template reaches."""
    SYMMETRY_AMBIGUOUS = 16384
    """More than half of the symmetric template may be other sources', which lie opposite each other."""
    SHARED_PIXEL = 32768
    """Another peak lies on the same pixel; only the sum of the two is well measured."""
    MASKED_PEAK = 65536
    """The pixel of the peak is unusable."""
    TOO_MANY_PEAKS = 131072
    """The blend has more peaks than are deblended; in the rows of those that were not."""
    PARENT_TOO_BIG = 262144
    """The footprint is too large or too narrow; nothing was deblended."""
    PARENT_MASKED = 524288
    """Too much of the footprint has no data; nothing was deblended."""
    FAILED = 1048576
    """The PSF has no width, or a template is not finite."""
