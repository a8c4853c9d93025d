"""What comes out of the single-band deblender."""

import equinox as eqx
import numpy as np
from astropy.table import Table
from jaxtyping import Bool, Float, Int

from ..runtime.host import AnyArray
from .blend import Children
from .pack import Item


class SingleBandResult(eqx.Module):
    """A blend, divided between its peaks; all arrays are NumPy's, in the order of the peaks.

    Attributes
    ----------
    children
        What each peak gets of the image; dark where it was skipped. With `unassigned` they add up to the image in
        `footprint`, where there is data.
    variances
        Variances of the children's pixels.
    templates
        What the image was divided in proportion to.
    unassigned
        Light that nobody got.
    footprint
        Pixels of the blend, with those that only templates reach.
    centers
        Peaks (y, x) as they were given.
    psf_centers
        Where the PSF was fitted, (y, x) in pixels; NaN where it was not.
    psf_flux
        Flux of the PSF there.
    psf_chisq
        χ² per degree of freedom at the peak, with derivatives, and at the position that these lead to; infinite without
        degrees of freedom.
    psf_dof
        Degrees of freedom of the first of these fits.
    psf_step
        Where to the derivatives would move the PSF, (y, x) in pixels.
    weights
        Factors of the templates from their common fit to the image.
    stray_flux
        Flux of a child from where no template reaches.
    flags
        Bits of `jaxdeblend.single_band.SingleBandFlag`.
    """

    children: Float[np.ndarray, "source y x"]
    variances: Float[np.ndarray, "source y x"]
    templates: Float[np.ndarray, "source y x"]
    unassigned: Float[np.ndarray, "y x"]
    footprint: Bool[np.ndarray, "y x"]
    centers: Float[np.ndarray, "source 2"]
    psf_centers: Float[np.ndarray, "source 2"]
    psf_flux: Float[np.ndarray, " source"]
    psf_chisq: Float[np.ndarray, "source 3"]
    psf_dof: Float[np.ndarray, " source"]
    psf_step: Float[np.ndarray, "source 2"]
    weights: Float[np.ndarray, " source"]
    stray_flux: Float[np.ndarray, " source"]
    flags: Int[np.ndarray, " source"]

    def table(self) -> Table:
        """One row for each peak, in the order of the input.

        Returns
        -------
        astropy.table.Table
            ===================  ====================================================================================
            ``id``               number of the peak
            ``x``, ``y``         its position as it was given, pixels
            ``flux``             sum of the child
            ``flux_err``         √ of the sum of its variances
            ``template_flux``    sum of the template
            ``stray_flux``       part of the flux from where no template reaches
            ``n_pixels``         number of pixels of the child that are not 0
            ``is_psf``           whether the template is a PSF
            ``psf_flux``         flux of the PSF, NaN without a fit
            ``psf_x, psf_y``     where it was fitted
            ``psf_chisq``        χ² per degree of freedom at the peak
            ``psf_chisq_2``      the same with the derivatives of the PSF as further terms
            ``psf_chisq_2b``     the same for the PSF moved to where these lead to
            ``psf_dof``          degrees of freedom of the first fit
            ``template_weight``  factor of the template
            ``n_peaks``          number of peaks of the blend
            ``n_children``       number of them that have a child
            ``flags``            bits of `jaxdeblend.single_band.SingleBandFlag`, as follows
            bit 0                ``SKIPPED``: no child, for a reason that another flag tells
            bit 1                ``OUT_OF_BOUNDS``: not finite, or outside the image or the footprint
            bit 2                ``TINY_FOOTPRINT``: the footprint around the peak is too small
            bit 3                ``NO_VALID_PIXELS``: no usable pixel around the peak
            bit 4                ``PSF_FIT_FAILED``: the fit of the PSF has no solution
            bit 5                ``PSF_FIT_BAD_DOF``: too few pixels for the fit of the PSF
            bit 6                ``PSF_FIT_BIG_DECENTER``: the PSF would move by a pixel or more
            bit 7                ``PSF_FIT_MOVED``: the template is a PSF, not at the peak's position
            bit 8                ``DEBLENDED_AS_PSF``: the template is a PSF
            bit 9                ``PATCHED_TEMPLATE``: the image itself, where the mirror image is outside
            bit 10               ``RAMPED_TEMPLATE``: wings of PSFs, where the mirror image is outside
            bit 11               ``EMPTY_TEMPLATE``: the template has no positive pixel
            bit 12               ``DEGENERATE``: dropped, as another template is much like it
            bit 13               ``HAS_STRAY_FLUX``: has light from where no template reaches
            bit 14               ``SYMMETRY_AMBIGUOUS``: may be mostly others, which lie opposite each other
            bit 15               ``SHARED_PIXEL``: another peak lies on the same pixel
            bit 16               ``MASKED_PEAK``: the pixel of the peak is unusable
            bit 17               ``TOO_MANY_PEAKS``: one of the peaks beyond the largest number
            bit 18               ``PARENT_TOO_BIG``: the footprint is too large or too narrow
            bit 19               ``PARENT_MASKED``: too much of the footprint has no data
            bit 20               ``FAILED``: the PSF has no width, or the template is not finite
            ===================  ====================================================================================

        Examples
        --------
        >>> import numpy as np
        >>> import jaxdeblend as jd
        >>> from jaxdeblend.single_band import SingleBandFlag, deblend_single_band
        >>> result = deblend_single_band(np.ones((20, 20)), 1.0, jd.GaussianPSF(1.5), [(10, 10), (50, 10)])
        >>> [SingleBandFlag(flags).name for flags in result.table()["flags"][1:]]
        ['SKIPPED|OUT_OF_BOUNDS']
        """
        n, has_child = len(self.centers), (self.flags & 1) == 0
        return Table(
            {
                "id": np.arange(n),
                "x": self.centers[:, 1],
                "y": self.centers[:, 0],
                "flux": self.children.sum(axis=(1, 2)),
                "flux_err": np.sqrt(self.variances.sum(axis=(1, 2))),
                "template_flux": self.templates.sum(axis=(1, 2)),
                "stray_flux": self.stray_flux,
                "n_pixels": np.array([np.count_nonzero(child) for child in self.children], np.int64),
                "is_psf": (self.flags & 256) != 0,
                "psf_flux": self.psf_flux,
                "psf_x": self.psf_centers[:, 1],
                "psf_y": self.psf_centers[:, 0],
                "psf_chisq": self.psf_chisq[:, 0],
                "psf_chisq_2": self.psf_chisq[:, 1],
                "psf_chisq_2b": self.psf_chisq[:, 2],
                "psf_dof": self.psf_dof,
                "template_weight": self.weights,
                "n_peaks": np.full(n, n),
                "n_children": np.full(n, has_child.sum()),
                "flags": self.flags.astype(np.int32),
            }
        )


def result_of(item: Item, children: Children) -> SingleBandResult:
    """One blend as it was before it was padded.

    Parameters
    ----------
    item
        The blend.
    children
        What was made of it, on the host.

    Returns
    -------
    SingleBandResult
        The same without padding.
    """
    n, (height, width) = len(item.centers), item.image.shape
    fits, weights = children.templates.fits, children.templates.weights

    def frames(values: AnyArray, unit: float = 1.0) -> np.ndarray:
        """A copy in the unit of the image, so that the padding is not kept in memory."""
        return in_unit(np.array(values[..., :height, :width]), unit)

    def numbers(values: AnyArray) -> np.ndarray:
        """NaN where nothing was fitted."""
        fitted = item.active.reshape(-1, *[1] * (values.ndim - 1))
        return np.where(fitted, np.asarray(values)[:n], np.nan).astype(item.image.dtype)

    with np.errstate(invalid="ignore"):
        pixel = np.floor(item.centers + 0.5)
    return SingleBandResult(
        children=frames(children.images[:n], item.scale),
        variances=frames(children.variances[:n], item.scale**2),
        templates=frames(children.templates.images[:n], item.scale),
        unassigned=frames(children.unassigned, item.scale),
        footprint=frames(children.footprint),
        centers=item.centers,
        psf_centers=numbers(fits.offset) + pixel,
        psf_flux=in_unit(numbers(fits.flux), item.scale),
        psf_chisq=numbers(fits.chisq),
        psf_dof=numbers(fits.dof),
        psf_step=numbers(fits.step),
        weights=numbers(weights),
        stray_flux=in_unit(np.asarray(children.stray_flux)[:n], item.scale),
        flags=np.asarray(children.flags)[:n] | item.flags,
    )


def in_unit(values: np.ndarray, unit: float) -> np.ndarray:
    """Values times a power of two; in double precision if single could lose them.

    Examples
    --------
    >>> import numpy as np
    >>> in_unit(np.ones(2, np.float32), 0.5).dtype.name, in_unit(np.ones(2, np.float32), 2.0**-140).dtype.name
    ('float32', 'float64')
    """
    usual = 2.0**-60 <= unit <= 2.0**60
    return values * values.dtype.type(unit) if usual else values.astype(np.float64) * unit


def undivided(item: Item) -> SingleBandResult:
    """One blend of which no peak is deblended: however large it is, it costs next to nothing.

    Parameters
    ----------
    item
        The blend.

    Returns
    -------
    SingleBandResult
        Dark children, which are views of a single 0, and all light unassigned.
    """
    n, shape, dtype = len(item.centers), item.image.shape, item.image.dtype
    dark = np.broadcast_to(np.zeros((), dtype), (n, *shape))
    unknown = np.full((n, 3), np.nan, dtype)
    return SingleBandResult(
        children=dark,
        variances=dark,
        templates=dark,
        unassigned=in_unit(np.where(item.footprint, item.image, 0), item.scale),
        footprint=item.footprint,
        centers=item.centers,
        psf_centers=np.full((n, 2), np.nan),
        psf_flux=unknown[:, 0],
        psf_chisq=unknown,
        psf_dof=unknown[:, 0],
        psf_step=unknown[:, :2],
        weights=unknown[:, 0],
        stray_flux=np.zeros(n, dtype),
        flags=item.flags,
    )
