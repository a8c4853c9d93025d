"""Kernels that vary over an image."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..instrument.box import Box
from ..instrument.kernel import DifferenceKernel
from ..ops import fft, polynomials
from ..runtime.host import AnyArray, default_dtype
from .options import check_kernel_sum, check_kind, check_odd, check_order

MAX_CONDITION = 1e10
"""Largest condition number of a spatial solution that is still trusted."""


class SpatialKernel(eqx.Module):
    """Kernels that are a polynomial of position, K(q; p) = Σ_j P_j(p) C_j(q), in every pixel q.

    Whatever a kernel was made of, this is all that is needed of it: the sum Σ_i a_i(p) B_i of basis functions has
    C_j = Σ_i a_ij B_i, and C has fewer terms. ``C_0`` holds the flux; the others sum to zero.

    Attributes
    ----------
    images
        C_j of each band.
    box
        Pixels over which it was found; P_j are polynomials of the position scaled to [-1, 1] there.
    order
        Largest total degree.
    kind
        ``"chebyshev"`` or ``"power"``, see `jaxdeblend.ops.polynomials.terms`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> narrow, wide = (jd.GaussianPSF(sigma).stamp(15) for sigma in (1.0, 1.2))
    >>> kernel = jd.SpatialKernel(jnp.stack([narrow, wide - narrow, 0 * wide], axis=1), jd.Box((0, 0), (64, 64)), 1)
    >>> image = jnp.ones((1, 64, 64))
    >>> kernel.convolve(image).shape, bool(abs(kernel.convolve(image)[0, 32, 20] - 1) < 1e-4)
    ((1, 64, 64), True)
    """

    images: Float[AnyArray, "band term k k"]
    box: Box
    order: int = eqx.field(static=True)
    kind: str = eqx.field(static=True, default="chebyshev")

    def __check_init__(self) -> None:
        check_order("order", self.order)
        check_kind("kind", self.kind)
        expected = polynomials.n_terms(self.order)
        if self.images.ndim != 4 or self.images.shape[1] != expected:
            raise ValueError(
                f"images: got shape {self.images.shape}; give (band, term, k, k) with {expected} terms for order "
                f"{self.order}."
            )
        for edge in self.images.shape[-2:]:
            check_odd("images", edge)

    @property
    def edge(self) -> int:
        """Edge of the kernels in pixels."""
        return self.images.shape[-1]

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.images.shape[0]

    def at(self, positions: object) -> Float[Array, "*position band k k"]:
        """Kernels at one position (y, x) in pixels, (band, k, k), or at many, (position, band, k, k)."""
        at = _checked_positions(positions)
        return jnp.einsum("...j,bjyx->...byx", self._terms(at), jnp.asarray(self.images, dtype=float))

    def difference_kernel(self, position: object) -> DifferenceKernel:
        """Kernels at one position (y, x), as an `Observation` takes them."""
        at = _checked_positions(position)
        if at.ndim != 1:
            raise ValueError(f"position: got shape {at.shape}; give one position (y, x) in pixels.")
        return DifferenceKernel(self.at(at))

    def outside(self, positions: object) -> Bool[AnyArray, "*position"]:
        """Whether a position, or each of many, is outside of `box`, where the polynomials are extrapolated."""
        start, stop = np.asarray(self.box.start) - 0.5, np.asarray(self.box.stop) - 0.5
        given = np.asarray(_checked_positions(positions))
        return np.asarray(np.any((given < start) | (given >= stop), axis=-1))

    @eqx.filter_jit
    def convolve(
        self, images: Float[AnyArray, "band y x"], start: tuple[int, int] = (0, 0)
    ) -> Float[Array, "band y x"]:
        """Convolve images with the kernel that belongs to each *resulting* pixel, Σ_q K(q; p) I(p - q).

        One FFT convolution for each term: Σ_j P_j(p) (C_j * I)(p).

        Parameters
        ----------
        images
            Images of all bands, zero beyond their border.
        start
            Position (y, x) of the first pixel.

        Returns
        -------
        Float[Array, "band y x"]
            Images on the same pixels.
        """
        images = jnp.asarray(images)
        height, width = images.shape[-2:]
        shape = fft.same_shape((height, width), (self.edge, self.edge))
        spectrum = jnp.fft.rfft2(images, s=shape)
        y, x = (jnp.arange(n, dtype=images.dtype) + at for n, at in zip((height, width), start, strict=True))
        grid = jnp.stack(jnp.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
        maps = self._terms(grid).astype(images.dtype).T.reshape(-1, height, width)

        def add(total: Array, term: tuple[Array, Array]) -> tuple[Array, None]:
            kernels, weight = term
            transform = fft.kernel_transform(kernels.astype(images.dtype), (height, width), shape)
            convolved = jnp.fft.irfft2(spectrum * transform, s=shape)[..., :height, :width]
            return total + weight[None] * convolved, None

        kernels = jnp.moveaxis(jnp.asarray(self.images, dtype=float), 1, 0)
        return jax.lax.scan(add, jnp.zeros_like(images), (kernels, maps))[0]

    def squared(self) -> "SpatialKernel":
        """K², what uncorrelated variances are convolved with: a polynomial of twice the order, exactly."""
        order = 2 * self.order
        nodes = np.cos(np.pi * (np.arange(order + 1) + 0.5) / (order + 1))  # of Chebyshev, in units of the box
        u, v = (values.reshape(-1) for values in np.meshgrid(nodes, nodes, indexing="ij"))
        own = _host_terms(u, v, self.order, self.kind)
        values = np.einsum("pj,bjyx->pbyx", own, np.asarray(self.images, np.float64)) ** 2
        fitted = np.linalg.pinv(_host_terms(u, v, order, self.kind)) @ values.reshape(len(u), -1)
        images = np.moveaxis(fitted.reshape(-1, *values.shape[1:]), 0, 1)
        return SpatialKernel(images.astype(np.asarray(self.images).dtype), self.box, order, self.kind)

    def with_sum(self, kernel_sum: float) -> "SpatialKernel":
        """Kernels of the same shape with this mean sum over the box: all of K is scaled."""
        check_kernel_sum(kernel_sum)
        total = jnp.asarray(self.images)[:, :1].sum(axis=(-2, -1), keepdims=True)
        return eqx.tree_at(lambda kernel: kernel.images, self, self.images * (kernel_sum / total))

    def _terms(self, positions: Float[AnyArray, "*position 2"]) -> Float[Array, "*position term"]:
        at = polynomials.scaled(jnp.asarray(positions, dtype=float), (self.box.start, self.box.shape))
        return polynomials.terms(at[..., 0], at[..., 1], self.order, self.kind)


def fit_spatial_kernel(
    positions: object,
    kernels: object,
    box: Box,
    *,
    good: object | None = None,
    order: int = 2,
    kind: str = "chebyshev",
) -> SpatialKernel:
    """Fit a polynomial of position to every pixel of kernels, by least squares.

    It keeps sums: where all kernels have the same, so has the fitted one, everywhere.

    Parameters
    ----------
    positions
        Where the kernels were found, (candidate, 2), (y, x) in pixels.
    kernels
        Kernels of all candidates and bands, (candidate, band, k, k).
    box
        Pixels over which the polynomials are to hold.
    good
        Which of them to use, (candidate, band); None: all.
    order
        Largest total degree of the polynomials.
    kind
        ``"chebyshev"`` or ``"power"``.

    Returns
    -------
    SpatialKernel
        The kernel anywhere.

    Raises
    ------
    ValueError
        If the order is negative, or arrays do not fit together; if there are fewer good candidates than terms, or if
        they lie so that the solution is degenerate.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.psf_match import fit_spatial_kernel
    >>> positions = np.array([[0.0, 0.0], [0.0, 63.0], [63.0, 0.0], [63.0, 63.0], [31.0, 32.0], [10.0, 50.0]])
    >>> kernels = np.stack([jd.GaussianPSF(1 + y / 100).stamp(15) for y, _ in positions])
    >>> kernel = fit_spatial_kernel(positions, kernels, jd.Box((0, 0), (64, 64)), order=1)
    >>> bool(np.allclose(kernel.at(np.array([[40.0, 20.0]]))[0], jd.GaussianPSF(1.4).stamp(15), atol=0.01))
    True
    """
    check_order("order", order)
    check_kind("kind", kind)
    stamps, at = np.asarray(kernels, np.float64), np.asarray(positions, np.float64)
    if stamps.ndim != 4:
        raise ValueError(f"kernels: got shape {stamps.shape}; give (candidate, band, k, k).")
    if at.shape != (len(stamps), 2):
        raise ValueError(f"positions: got shape {at.shape} for {len(stamps)} kernels; give (y, x) of each.")
    usable = np.ones(stamps.shape[:2], bool) if good is None else np.asarray(good)
    if usable.shape != stamps.shape[:2]:
        raise ValueError(f"good: got shape {usable.shape} for kernels of shape {stamps.shape}; give (candidate, band).")
    half = np.maximum((np.asarray(box.shape) - 1) / 2, 0.5)
    u, v = ((at - box.center) / half).T
    terms = _host_terms(u, v, order, kind)
    images = [_fit_band(terms[use], stamps[use, band], order) for band, use in enumerate(usable.T)]
    return SpatialKernel(np.stack(images).astype(default_dtype()), box, order, kind)


def _checked_positions(positions: object) -> AnyArray:
    """One position (2,), or many (position, 2)."""
    on_device = isinstance(positions, jax.Array)
    at = jnp.asarray(positions, float) if on_device else np.asarray(positions, float)
    if at.ndim not in (1, 2) or at.shape[-1] != 2:
        raise ValueError(f"positions: got shape {at.shape}; give (y, x) in pixels, or (position, 2).")
    return at


def _fit_band(
    terms: Float[np.ndarray, "candidate term"], kernels: Float[np.ndarray, "candidate k k"], order: int
) -> Float[np.ndarray, "term k k"]:
    """Coefficients of every pixel, for the good candidates of one band."""
    count, needed = terms.shape
    if count < needed:
        raise ValueError(
            f"order: {count} good candidates cannot determine the {needed} terms of order {order}; choose a lower "
            "order or smaller cells."
        )
    if 1 < needed and count < 2 * needed:
        warnings.warn(
            f"fit_spatial_kernel: only {count} good candidates for the {needed} terms of order {order}; a lower order "
            "or smaller cells would be safer.",
            stacklevel=4,
        )
    condition = np.linalg.cond(terms)
    if condition**2 > MAX_CONDITION:  # of the normal equations, as others quote it
        raise ValueError(
            f"positions: the spatial solution is degenerate (condition number {condition**2:.1e}, at most "
            f"{MAX_CONDITION:.0e}); the candidates lie too close together or on a line for order {order}."
        )
    fitted = np.linalg.lstsq(terms, kernels.reshape(count, -1), rcond=None)[0]
    return fitted.reshape(needed, *kernels.shape[1:])


def _host_terms(
    u: Float[np.ndarray, " n"], v: Float[np.ndarray, " n"], order: int, kind: str
) -> Float[np.ndarray, "n term"]:
    """The terms in double precision, on the host."""
    with jax.enable_x64(True):
        return np.asarray(polynomials.terms(np.asarray(u, np.float64), np.asarray(v, np.float64), order, kind))
