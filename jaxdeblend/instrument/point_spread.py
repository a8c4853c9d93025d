"""Points of light at any sub-pixel position, from a PSF that is known at whole pixels only.

Shifting a PSF stamp by interpolation is wrong where the PSF is undersampled: what lies beyond the Nyquist frequency
has been folded back, and cannot be told from the stamp. For a PSF of FWHM 2 px the error is 2 % of the peak. So most of
the PSF is described by a function that can be drawn anywhere, and only the small rest is interpolated:

    P_b(x - c) = Σ_j a_bj G(x - c; σ_bj) + (R_b * C)(x - c),

with pixel-integrated Gaussians G, the rest R_b = P_b - Σ_j a_bj G(σ_bj) and the kernel C of cubic interpolation. A
Gaussian PSF has no rest, and is exact.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import erf, erfinv
from jaxtyping import Array, Bool, Complex, Float, Int

from ..ops import fft, lstsq, stamps

WIDTHS = (0.5, 0.7, 0.85, 1.0, 1.35, 2.0, 3.0)
"""σ of the Gaussians, relative to that of the Gaussian of the same maximum. They hold the cores and wings of Moffat
functions (β from 3 to 8, FWHM from 1.8 px) to 10⁻⁴ of the maximum; 0.6 to 1.8 alone, to 10⁻³."""

RIDGE = 2e-7
"""Added to the diagonal of the normal equations of the amplitudes, relative to itself: the Gaussians are much alike. It
holds the amplitudes near those of a single Gaussian, so that a Gaussian PSF stays one."""


class PointWindow(NamedTuple):
    """A point of unit flux on a window of the PSF's edge, and how it changes with its position.

    Attributes
    ----------
    image
        The point in each band.
    slope_y, slope_x
        Derivatives of its Gaussians with respect to its position; those of the small rest are left out.
    """

    image: Float[Array, "band n n"]
    slope_y: Float[Array, "band n n"]
    slope_x: Float[Array, "band n n"]


class PointSpread(eqx.Module):
    """What points of light look like in each band, at any position.

    Attributes
    ----------
    sigma, share
        σ in pixels and flux of each Gaussian.
    rest
        What the Gaussians leave of the PSF.
    transform
        Transform of the rest.
    edge
        Edge of the PSF without padding.
    fft_shape
        FFT shape of the transform.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> narrow = jd.GaussianPSF(0.7)
    >>> spread = PointSpread.of(narrow.stamp(15), (16, 16))
    >>> image = spread.draw(jnp.array([[8.3, 7.5]]), jnp.array([[2.0]]), (16, 16))
    >>> round(float(image.sum()), 4)
    2.0
    """

    sigma: Float[Array, "band gaussian"]
    share: Float[Array, "band gaussian"]
    rest: Float[Array, "band n n"]
    transform: Complex[Array, "band ky kx"]
    edge: Int[Array, ""]
    fft_shape: tuple[int, int] = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        psf: Float[Array, "band n n"],
        frame_shape: tuple[int, int],
        *,
        known_edge: Int[Array, ""] | None = None,
    ) -> "PointSpread":
        """Describe the PSF of each band.

        Parameters
        ----------
        psf
            Unit-sum stamps of odd edge.
        frame_shape
            Shape (y, x) of the largest image that will be drawn.
        known_edge
            Edge of the stamps before they were padded; None: they are not.
        """
        psf = jnp.asarray(psf)
        sigma = _core_sigma(psf)[:, None] * jnp.asarray(WIDTHS, psf.dtype)[None, :]
        first = -(psf.shape[-1] // 2)
        offset = jnp.arange(psf.shape[-1], dtype=psf.dtype) + first
        profiles = _profiles(jnp.asarray(first, psf.dtype)[None, None], sigma, psf.shape[-1])
        edge = jnp.asarray(psf.shape[-1] if known_edge is None else known_edge)
        profiles = jnp.where(_within(edge, offset), profiles, 0.0)
        share = lstsq.one_by_one(_amplitudes, profiles, psf)
        rest = psf - jnp.einsum("bgy,bgx->byx", share[..., None] * profiles, profiles)
        shape = fft.same_shape(frame_shape, (psf.shape[-2], psf.shape[-1]))
        return cls(sigma, share, rest, fft.kernel_transform(rest, frame_shape, shape), edge, shape)

    def draw(
        self, centers: Float[Array, "source 2"], flux: Float[Array, "source band"], shape: tuple[int, int]
    ) -> Float[Array, "band y x"]:
        """The sum of points of these fluxes.

        Parameters
        ----------
        centers
            Positions (y, x) in pixels of the image.
        flux
            Flux of each point in each band.
        shape
            Shape (y, x) of the image.

        Returns
        -------
        Float[Array, "band y x"]
            Image of each band.
        """
        height, width = shape
        size = max(shape)
        n_bands = flux.shape[1]
        sigma, share = (jnp.broadcast_to(part, (n_bands, part.shape[1])) for part in (self.sigma, self.share))
        # both axes in one array, as long as the longer one: half as many operations to compile
        profiles = _profiles(-centers[None, None], sigma[:, :, None, None], size)
        light = share[:, :, None] * flux.T[:, None, :]
        rows = (light[..., None] * profiles[..., 0, :height]).reshape(n_bands, -1, height)
        columns = profiles[..., 1, :width].reshape(n_bands, -1, width)
        core = jnp.einsum("bky,bkx->byx", rows, columns)
        weights = stamps.cubic(jnp.arange(size, dtype=centers.dtype)[None, None, :] - centers[:, :, None])
        lit_rows = flux.T[:, :, None] * weights[None, :, 0, :height]
        impulses = jnp.einsum("bsy,sx->byx", lit_rows, weights[:, 1, :width])
        return core + fft.convolve(impulses, self.transform, self.fft_shape)

    def window(self, center: Float[Array, "2"]) -> PointWindow:
        """A point on a window of the PSF's edge, which is faster than a whole image. It is dark on padding.

        Parameters
        ----------
        center
            Position (y, x) relative to the middle pixel of the window, in pixels.
        """
        pixel = self._pixel()

        def profiles(center: Array) -> Array:
            return _profiles((pixel[0] - center)[None, None], self.sigma[..., None], len(pixel))

        values, slopes = jax.jvp(profiles, (center,), (jnp.ones_like(center),))
        rows, columns = self.share[..., None] * values[:, :, 0], values[:, :, 1]
        row_slopes, column_slopes = self.share[..., None] * slopes[:, :, 0], slopes[:, :, 1]
        sums = jnp.einsum(
            "kbgy,kbgx->kbyx",
            jnp.stack([rows, row_slopes, rows]),
            jnp.stack([columns, columns, column_slopes]),
        )
        shift = stamps.cubic(pixel[None, :, None] - pixel[None, None, :] - center[:, None, None])
        rest = jnp.einsum("yj,bjk,xk->byx", shift[0], self.rest, shift[1])
        return PointWindow(*jnp.where(self.known, sums.at[0].add(rest), 0.0))

    @property
    def known(self) -> Bool[Array, "n n"]:
        """Pixels of a window on which the PSF is known: all but padding."""
        known = _within(self.edge, self._pixel())
        return known[:, None] & known[None, :]

    def _pixel(self) -> Float[Array, " n"]:
        """Positions of a window's pixels along an axis, relative to its middle."""
        size = self.rest.shape[-1]
        return jnp.arange(size, dtype=self.rest.dtype) - size // 2


def _within(edge: Int[Array, ""], offset: Float[Array, " n"]) -> Bool[Array, " n"]:
    """Whether pixels at these distances from the middle of a stamp lie on it."""
    return jnp.abs(offset) <= (edge // 2).astype(offset.dtype)


def _core_sigma(psf: Float[Array, "band n n"]) -> Float[Array, " band"]:
    """σ of the pixel-integrated Gaussian that has the PSF's maximum, erf(1 / (2 √2 σ))² = max P."""
    peak = jnp.clip(psf.max(axis=(-2, -1)), 1e-4, 0.98)
    return 0.5 / (jnp.sqrt(2.0).astype(psf.dtype) * erfinv(jnp.sqrt(peak)))


def _profiles(first: Float[Array, "..."], sigma: Float[Array, "..."], size: int) -> Float[Array, "... n"]:
    """Gaussians of unit flux integrated over pixels along one axis.

    Parameters
    ----------
    first
        Where the first of the pixels lies, relative to the centre.
    sigma
        Widths.
    size
        Number of pixels.
    """
    steps = jnp.arange(size + 1, dtype=first.dtype) - 0.5
    edges = first[..., None] + jnp.expand_dims(steps, range(first.ndim))
    scale = (1 / jnp.sqrt(2.0)).astype(first.dtype) / sigma[..., None]
    below = 0.5 * erf(edges * scale)
    return below[..., 1:] - below[..., :-1]


def _amplitudes(profiles: Float[Array, "gaussian n"], psf: Float[Array, "n n"]) -> Float[Array, " gaussian"]:
    """Amplitudes of either sign of Gaussians of these profiles along both axes, that come nearest to a PSF."""
    norm = jnp.sum(profiles**2, axis=1)
    # products of two-dimensional Gaussians are the squares of those of their profiles
    matrix = (profiles @ profiles.T) ** 2 / (norm[:, None] * norm[None, :])
    matrix = matrix + RIDGE * jnp.eye(len(matrix), dtype=matrix.dtype)
    single = WIDTHS.index(1.0)
    rest = psf - profiles[single][:, None] * profiles[single][None, :]
    vector = jnp.einsum("gy,yx,gx->g", profiles, rest, profiles) / norm
    amplitudes = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), vector) / norm
    return amplitudes.at[single].add(1.0)
