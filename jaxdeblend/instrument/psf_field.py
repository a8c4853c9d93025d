"""PSFs that vary over the image: stamps for any position.

A field gives the PSF of each band at positions (y, x) in pixels of the image, always on stamps of the same edge:
nothing is compiled anew when a position changes, and positions may be differentiated.
"""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from ..ops import polynomials
from ..ops.stamps import lanczos
from ..runtime.host import AnyArray, default_dtype, host_or_device
from .psf import AbstractPSF, ImagePSF

RESAMPLING_ORDER = 4
"""Half-width in samples of the Lanczos kernel between the samples of a PSFEx model."""


class AbstractPSFField(eqx.Module):
    """PSFs of one or more bands that vary over the image.

    To add a field, subclass this.

    Examples
    --------
    >>> import jax
    >>> import jaxdeblend as jd
    >>> class Broadening(jd.AbstractPSFField):  # the PSF gets broader with x, in the same way in every band
    ...     edge: int = 21
    ...     n_bands: int = 1
    ...
    ...     def stamps(self, positions):
    ...         return jax.vmap(lambda x: jd.GaussianPSF(1.5 + 0.01 * x).stamp(21))(positions[:, 1])
    >>> [round(float(Broadening().at((0, x)).fwhm()[0]), 1) for x in (0, 100)]
    [3.6, 6.0]
    """

    edge: eqx.AbstractVar[int]
    """Odd edge of the stamps in pixels, the same everywhere."""

    n_bands: eqx.AbstractVar[int]
    """Number of bands; 1 means that every band shares the PSF."""

    @abc.abstractmethod
    def stamps(self, positions: Float[AnyArray, "position 2"]) -> Float[AnyArray, "position band edge edge"]:
        """Pixel-integrated stamps of the natural edge, centred on their middle pixels, unit sum in each band.

        Parameters
        ----------
        positions
            Positions (y, x) in pixels; integers are pixel centres.
        """

    def at(self, position: object) -> ImagePSF:
        """The PSF at one position (y, x).

        Raises
        ------
        ValueError
            If it is not one position.
        """
        place = jnp.asarray(position, dtype=float)
        if place.shape != (2,):
            raise ValueError(f"position: got shape {place.shape}; give one position (y, x) in pixels.")
        return ImagePSF(self.stamps(place[None])[0])


class ConstantPSFField(AbstractPSFField):
    """The same PSF everywhere.

    Parameters
    ----------
    psf
        A PSF, or stamps (band, y, x) or (y, x) of odd edge.

    Raises
    ------
    ValueError
        If stamps have the wrong number of axes, an even edge, a NaN, or a sum that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> jd.ConstantPSFField(jd.GaussianPSF([1.5, 2.0])).stamps(np.zeros((5, 2))).shape
    (5, 2, 21, 21)
    """

    psf: AbstractPSF

    def __init__(self, psf: object):
        self.psf = psf if isinstance(psf, AbstractPSF) else ImagePSF(psf)

    @property
    def edge(self) -> int:
        """Natural edge of the PSF."""
        return self.psf.edge

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.psf.n_bands

    def stamps(self, positions: Float[AnyArray, "position 2"]) -> Float[AnyArray, "position band edge edge"]:
        """The stamp, once for each position."""
        stamp = jnp.asarray(self.psf.stamp(self.edge))
        return jnp.broadcast_to(stamp, (len(positions), *stamp.shape))


class GridPSFField(AbstractPSFField):
    """Stamps on a grid of positions, interpolated bilinearly between the four nearest.

    Beyond the outermost positions the PSF stays what it is there.

    Parameters
    ----------
    stamps
        Stamps (gy, gx, band, n, n), with odd edges, finite, of positive sum.
    y, x
        Rows (gy,) and columns (gx,) of the grid in pixels, ascending.

    Raises
    ------
    ValueError
        If the stamps do not fit the grid or are no PSFs, or if the grid does not ascend.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> left, right = (np.asarray(jd.GaussianPSF(sigma).stamp(21)) for sigma in (1.5, 2.0))
    >>> field = jd.GridPSFField(np.array([[left, right]]), y=[500.0], x=[0.0, 1000.0])
    >>> bool(np.allclose(field.at((20, 250)).stamps, 0.75 * left + 0.25 * right))
    True
    """

    images: Float[Array, "gy gx band edge edge"]
    y: Float[Array, " gy"]
    x: Float[Array, " gx"]

    def __init__(self, stamps: object, y: object, x: object):
        images = jnp.asarray(host_or_device(stamps, "stamps"), dtype=float)
        self.y, self.x = _ascending("y", y), _ascending("x", x)
        if images.ndim != 5 or images.shape[:2] != (len(self.y), len(self.x)):
            raise ValueError(
                f"stamps: got shape {images.shape} for a grid of {len(self.y)} x {len(self.x)} positions; give "
                "(gy, gx, band, n, n)."
            )
        checked = jnp.asarray(ImagePSF(images.reshape(-1, *images.shape[-2:])).stamps)
        self.images = checked.reshape(*images.shape[:3], *checked.shape[-2:])

    @property
    def edge(self) -> int:
        """Edge of the stamps."""
        return self.images.shape[-1]

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.images.shape[2]

    def stamps(self, positions: Float[AnyArray, "position 2"]) -> Float[AnyArray, "position band edge edge"]:
        """Bilinear interpolation of the stamps of the grid."""
        return _interpolated(self.images, self.y, self.x, jnp.asarray(positions, self.images.dtype))


class PolynomialPSFField(AbstractPSFField):
    """Images that are added up with polynomials of the position for weights, as PSFEx writes them (Bertin 2011).

    PSF(y, x) = Σ_k C_k v^i_k u^j_k,    v = (y - y₀) / s_y,    u = (x - x₀) / s_x,    i + j <= degree,

    with the power of u running fastest: 1, u, u², …, v, v u, …, v², … The sum is brought from its own samples to pixels
    by Lanczos interpolation. The model contains the pixel, thus nothing is integrated. What comes out has unit sum.

    Parameters
    ----------
    coefficients
        Images C (band, term, n, n) of odd edge n, centred on the middle sample, with (degree + 1)(degree + 2) / 2
        terms.
    zero_point
        (y₀, x₀) in pixels, one pair or one for each band.
    scale
        (s_y, s_x) in pixels, one pair or one for each band.
    sampling
        Pixels per sample (PSF_SAMP of PSFEx), one number or one per band. Below 1 the model is finer than the image.
    edge
        Odd edge of the stamps in pixels; by default that of the widest band's model, rounded down.

    Raises
    ------
    ValueError
        If a shape does not fit, an edge is even, a value is not finite, or a scale or a sampling is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> narrow, wide = (np.asarray(jd.GaussianPSF(sigma).stamp(25)[0]) for sigma in (1.5, 2.0))
    >>> zero = np.zeros((25, 25))
    >>> field = jd.PolynomialPSFField(np.array([[narrow, wide - narrow, zero]]), scale=(1000, 2000))
    >>> [round(float(field.at((0, x)).fwhm()[0]), 1) for x in (0, 2000)]
    [3.6, 4.8]
    """

    coefficients: Float[Array, "band term n n"]
    zero_point: Float[Array, "band 2"]
    scale: Float[Array, "band 2"]
    sampling: Float[Array, " band"]
    edge: int = eqx.field(static=True)

    def __init__(
        self,
        coefficients: object,
        *,
        zero_point: object = (0.0, 0.0),
        scale: object = (1.0, 1.0),
        sampling: object = 1.0,
        edge: int | None = None,
    ):
        self.coefficients = jnp.asarray(host_or_device(coefficients, "coefficients"), dtype=float)
        _check_coefficients(self.coefficients)
        shape = (self.n_bands, 2)
        self.zero_point = _for_bands("zero_point", zero_point, shape)
        self.scale = _for_bands("scale", scale, shape, positive=True)
        self.sampling = _for_bands("sampling", sampling, shape[:1], positive=True)
        reach = self.coefficients.shape[-1] // 2 * float(np.max(np.asarray(self.sampling)))
        self.edge = _checked_edge(2 * math.floor(reach * (1 + 1e-6)) + 1 if edge is None else edge)

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.coefficients.shape[0]

    @property
    def degree(self) -> int:
        """Largest total degree of the polynomials."""
        return _degree(self.coefficients.shape[1])

    def models(self, positions: Float[AnyArray, "position 2"]) -> Float[Array, "position band n n"]:
        """Sums of the coefficient images on their own samples, as they come."""
        return _summed(self, jnp.asarray(positions, self.coefficients.dtype))

    def stamps(self, positions: Float[AnyArray, "position 2"]) -> Float[AnyArray, "position band edge edge"]:
        """The models, interpolated to pixels."""
        return _resampled(self, jnp.asarray(positions, self.coefficients.dtype))


class FunctionPSFField(AbstractPSFField):
    """A function that gives the stamps at a position.

    Parameters
    ----------
    function
        Called as function(y, x) with two numbers; returns stamps (band, edge, edge), which are normalised to unit sum.
        Inside a transformation (`jax.jit`, `jax.grad`) it is called with traced scalars, under `jax.vmap`, and must be
        written in JAX; elsewhere anything will do.
    edge
        Odd edge of its stamps.
    n_bands
        Number of its bands.

    Raises
    ------
    ValueError
        If the edge is even; when it is used, if the function returns another shape, a NaN, or a sum that is not
        positive.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> field = jd.FunctionPSFField(lambda y, x: jd.GaussianPSF([1.5 + y / 100, 1.5 + x / 100]).stamp(21), 21, 2)
    >>> [round(float(width), 1) for width in field.at((0, 50)).fwhm()]
    [3.6, 4.8]
    """

    function: Callable[..., object]
    edge: int = eqx.field(static=True)
    n_bands: int = eqx.field(static=True)

    def __init__(self, function: Callable[..., object], edge: int, n_bands: int):
        self.function = function
        self.edge, self.n_bands = _checked_edge(edge), n_bands

    def stamps(self, positions: Float[AnyArray, "position 2"]) -> Float[AnyArray, "position band edge edge"]:
        """The function's stamps, position by position."""
        if isinstance(positions, Tracer):
            return jax.vmap(lambda place: jnp.asarray(self._stamp(place[0], place[1])))(positions)
        places = np.asarray(positions, float).tolist()
        found = [np.asarray(self._stamp(y, x)) for y, x in places]
        return jnp.asarray(np.reshape(found, (len(places), self.n_bands, self.edge, self.edge)), default_dtype())

    def _stamp(self, y: Array | float, x: Array | float) -> Float[AnyArray, "band edge edge"]:
        stamp = ImagePSF(self.function(y, x)).stamps
        if stamp.shape != (self.n_bands, self.edge, self.edge):
            raise ValueError(
                f"function: got stamps of shape {stamp.shape}; expected (band, edge, edge) = "
                f"{(self.n_bands, self.edge, self.edge)}."
            )
        return stamp


class ShiftedPSFField(AbstractPSFField):
    """A field in the pixels of a window: its stamp at p is that of the field at p + start.

    Parameters
    ----------
    field
        The field.
    start
        First pixel (y, x) of the window.

    Raises
    ------
    ValueError
        If the start is not one pixel.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> field = jd.FunctionPSFField(lambda y, x: jd.GaussianPSF(1.5 + x / 100).stamp(21), 21, 1)
    >>> bool((jd.ShiftedPSFField(field, (0, 40)).at((0, 10)).stamps == field.at((0, 50)).stamps).all())
    True
    """

    field: AbstractPSFField
    start: Int[AnyArray, "2"]

    def __init__(self, field: AbstractPSFField, start: object):
        self.field, self.start = field, np.asarray(start, int)
        if self.start.shape != (2,):
            raise ValueError(f"start: got shape {self.start.shape}; give the first pixel (y, x) of the window.")

    @property
    def edge(self) -> int:
        """Edge of the stamps of the field."""
        return self.field.edge

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return self.field.n_bands

    def stamps(self, positions: Float[AnyArray, "position 2"]) -> Float[AnyArray, "position band edge edge"]:
        """Stamps of the field at the same places."""
        return self.field.stamps(positions + self.start.astype(positions.dtype)[None])


def as_field(psf: object) -> AbstractPSFField:
    """A field, from whatever stands for a PSF.

    Parameters
    ----------
    psf
        A field, a PSF, or stamps (band, y, x) or (y, x) of odd edge; a field comes back as it is.

    Returns
    -------
    AbstractPSFField
        The field.

    Raises
    ------
    ValueError
        If stamps have the wrong number of axes, an even edge, a NaN, or a sum that is not positive.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.instrument.psf_field import as_field
    >>> as_field(jd.GaussianPSF(1.5)).n_bands
    1
    """
    return psf if isinstance(psf, AbstractPSFField) else ConstantPSFField(psf)


@jax.jit
def _interpolated(
    images: Float[Array, "gy gx band edge edge"],
    y: Float[Array, " gy"],
    x: Float[Array, " gx"],
    positions: Float[Array, "position 2"],
) -> Float[Array, "position band edge edge"]:
    def one(position: Array) -> Array:
        rows, columns = _nearest(y, position[0]), _nearest(x, position[1])
        return sum(v * u * images[j, i] for j, v in rows for i, u in columns)  # type: ignore[return-value]

    return jax.vmap(one)(positions)


def _nearest(nodes: Float[Array, " node"], value: Float[Array, ""]) -> list[tuple[Array, Array]]:
    """The two nodes about a value and their weights; the last node twice where there is but one."""
    last = len(nodes) - 1
    lower = jnp.clip(jnp.searchsorted(nodes, value, side="right") - 1, 0, max(last - 1, 0))
    upper = jnp.minimum(lower + 1, last)
    distance = nodes[upper] - nodes[lower] if last else jnp.ones_like(value)
    share = jnp.clip((value - nodes[lower]) / distance, 0.0, 1.0)
    return [(lower, 1 - share), (upper, share)]


@jax.jit
def _summed(field: PolynomialPSFField, positions: Float[Array, "position 2"]) -> Float[Array, "position band n n"]:
    offset = (positions[:, None] - field.zero_point[None]) / field.scale[None]
    # our own order has y running fastest
    weights = polynomials.terms(offset[..., 1], offset[..., 0], field.degree)
    return jnp.einsum("pbt,btij->pbij", weights, field.coefficients, precision="highest")


@jax.jit
def _resampled(
    field: PolynomialPSFField, positions: Float[Array, "position 2"]
) -> Float[Array, "position band edge edge"]:
    samples = field.coefficients.shape[-1]
    matrix = jax.vmap(lambda step: _resampling(step, field.edge, samples))(field.sampling)
    stamps = jnp.einsum("bys,pbst,bxt->pbyx", matrix, _summed(field, positions), matrix, precision="highest")
    return stamps / stamps.sum(axis=(-2, -1), keepdims=True)


def _resampling(sampling: Float[Array, ""], edge: int, samples: int) -> Float[Array, "edge samples"]:
    """Lanczos weights of samples for pixels, divided by their sum over the comb that never ends."""
    pixel = (jnp.arange(edge, dtype=sampling.dtype) - edge // 2) / sampling
    sample = jnp.arange(samples, dtype=sampling.dtype) - samples // 2
    near = jnp.arange(1 - RESAMPLING_ORDER, RESAMPLING_ORDER + 1, dtype=sampling.dtype)
    whole = lanczos(near[None, :] - (pixel - jnp.floor(pixel))[:, None], RESAMPLING_ORDER).sum(axis=1)
    return lanczos(pixel[:, None] - sample[None, :], RESAMPLING_ORDER) / whole[:, None]


def _checked_edge(edge: int) -> int:
    if edge % 2 == 0 or edge < 1:
        raise ValueError(f"edge: got {edge}; a PSF stamp needs an odd edge so that its centre is a pixel.")
    return edge


def _degree(terms: int) -> int:
    return round((math.sqrt(8 * terms + 1) - 3) / 2)


def _check_coefficients(coefficients: Float[Array, "..."]) -> None:
    shape = coefficients.shape
    if len(shape) != 4 or min(shape) < 1 or shape[2] != shape[3] or shape[3] % 2 == 0:
        raise ValueError(f"coefficients: got shape {shape}; give images (band, term, n, n) of odd edge n.")
    degree = _degree(shape[1])
    if polynomials.n_terms(degree) != shape[1]:
        raise ValueError(f"coefficients: got {shape[1]} terms; give (d + 1)(d + 2) / 2 of them, for a degree d.")
    if not isinstance(coefficients, Tracer) and not np.isfinite(np.asarray(coefficients)).all():
        raise ValueError("coefficients: got values that are NaN or infinite.")


def _for_bands(name: str, value: object, shape: tuple[int, ...], *, positive: bool = False) -> Float[Array, "..."]:
    """Values for each band from those for all."""
    array = jnp.asarray(value, dtype=float)
    if array.shape not in (shape, shape[1:]):
        raise ValueError(f"{name}: got shape {array.shape}; give shape {shape[1:]}, or {shape} for the bands.")
    host = None if isinstance(array, Tracer) else np.asarray(array)
    if host is not None and not (np.isfinite(host).all() and (not positive or (host > 0).all())):
        raise ValueError(f"{name}: got {value}; give finite{' positive' if positive else ''} numbers.")
    return jnp.broadcast_to(array, shape)


def _ascending(name: str, values: object) -> Float[Array, " node"]:
    nodes = jnp.asarray(values, dtype=float)
    if nodes.ndim != 1 or len(nodes) == 0:
        raise ValueError(f"{name}: got shape {nodes.shape}; give the positions of the grid along one axis.")
    host = None if isinstance(nodes, Tracer) else np.asarray(nodes)
    if host is not None and not (np.isfinite(host).all() and (np.diff(host) > 0).all()):
        raise ValueError(f"{name}: got {host}; positions of the grid must be finite and ascend.")
    return nodes
