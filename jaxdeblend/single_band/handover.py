"""Templates as the start of a fit to all bands."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ..fitting.expansion import band_weights
from ..fitting.initialize import Initialization, check_errors, initialize, with_shapes
from ..fitting.ladder import default_stamp_edge
from ..instrument.kernel import laplacian_transform
from ..instrument.observation import Observation
from ..instrument.psf import ImagePSF
from ..model.blend import Blend
from ..model.prior import CenterPrior
from ..ops import fft, prox, stamps
from ..ops.monotone import ring_sweep
from ..runtime.programs import Program
from .flags import SingleBandFlag
from .result import SingleBandResult

REGULARIZATION = 1e-2
"""λ of the division that takes templates to model space; fits end alike from 1e-3 to 1e-2, and a smaller one rings."""

FAINT = 1e-6
"""Height of the point that stands for a missing template, relative to the highest of the others."""


def one_band(
    obs: Observation, band: str | None = None
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"], ImagePSF]:
    """What the single-band deblender takes: one band of an observation, or the weighted mean of all.

    The mean is Σ_b s_b I_b with the same shares s_b ∝ 1 / σ_b² at every pixel, so that Σ_b s_b P_b is its PSF
    everywhere. It is unusable where any of its bands is.

    Parameters
    ----------
    obs
        Observation.
    band
        Name of the band; None: the mean of all that have data.

    Returns
    -------
    tuple
        Image, variance (NaN where unusable) and PSF, the first three arguments of `deblend_single_band`.

    Raises
    ------
    ValueError
        If there is no such band.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> images = np.stack([np.full((24, 24), 1.0), np.full((24, 24), 4.0)])
    >>> obs = jd.Observation(images, [1.0, 2.0], jd.GaussianPSF([1.5, 1.8]), bands=("r", "i"))
    >>> image, variance, psf = jd.one_band(obs)
    >>> round(float(image[0, 0]), 3), round(float(variance[0, 0]), 3)
    (2.0, 0.667)
    >>> result = jd.deblend_single_band(*jd.one_band(obs, "i"), [(11, 12)])
    """
    share = _shares(obs, band)
    used = np.flatnonzero(share)
    share, images, weights = share[used], np.asarray(obs.images)[used], np.asarray(obs.weights)[used]
    variance = np.where(weights > 0, 1 / np.where(weights > 0, weights, 1.0), np.nan)
    edge = obs.psf.edge
    psf = np.broadcast_to(obs.psf.stamp(edge), (len(obs.bands), edge, edge))[used]
    return np.tensordot(share, images, 1), np.tensordot(share**2, variance, 1), ImagePSF(np.tensordot(share, psf, 1))


def initialize_from_templates(
    obs: Observation,
    result: SingleBandResult,
    *,
    band: str | None = None,
    fixed_points: bool = False,
    center_error: object = 0.1,
    stamp_edge: int | None = None,
    options: Initialization | None = None,
) -> Blend:
    """Make a first model of all sources of a blend from the templates of the single-band deblender.

    A template T is a source as observed, through the PSF P of its band. Its shape in model space is the regularised
    quotient

        m̂ = T̂ K̂* / (|K̂|² + λ |L̂|²)

    with the difference kernel K that takes model space to P, and the Laplacian L, sampled about the source's own
    position and made positive and monotone. Spectra are the joint, weighted, non-negative least-squares solution for
    these shapes, as those of `initialize`, which on simulated truth is the better start; see ``docs/single_band.md``.

    Parameters
    ----------
    obs
        Observation.
    result
        What `deblend_single_band` made of one of its bands, or of their mean, `one_band`.
    band
        Which band that was; None: the mean.
    fixed_points
        Whether sources whose template is a PSF remain point sources. Otherwise they begin as such: the deblender takes
        small and faint galaxies for PSFs, too.
    center_error, stamp_edge, options
        As for `initialize`. Positions begin as they were given to the deblender.

    Returns
    -------
    Blend
        Initial blend for `fit`, the sources in the order of the peaks. A peak without a template begins as a faint
        point, one outside the image is dark.

    Raises
    ------
    ValueError
        If the result is of another frame, there is no such band, or as `initialize`.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> obs = jd.Observation(np.ones((2, 24, 24)), [1.0, 1.0], jd.GaussianPSF([1.5, 1.8]), bands=("r", "i"))
    >>> result = jd.deblend_single_band(*jd.one_band(obs), [(11, 12), (15, 9)])
    >>> len(jd.initialize_from_templates(obs, result).sources)
    2
    """
    if result.templates.shape[1:] != obs.shape:
        raise ValueError(
            f"result: got templates of shape {result.templates.shape[1:]}; the observation's shape is {obs.shape}."
        )
    edge = default_stamp_edge(obs.shape) if stamp_edge is None else stamp_edge
    if edge % 2 == 0:
        raise ValueError(f"stamp_edge: got {edge}; a stamp needs an odd edge so that its centre is a sample.")
    options = Initialization() if options is None else options
    dtype = obs.images.dtype
    error = check_errors(center_error, len(result.centers))
    if len(result.centers) == 0:
        return initialize(obs, [], stamp_edge=edge, options=options)
    return _initialize(
        obs,
        jnp.asarray(result.centers, dtype),
        jnp.asarray(error, dtype),
        jnp.asarray(result.templates, dtype),
        jnp.asarray((result.flags & SingleBandFlag.DEBLENDED_AS_PSF) != 0),
        jnp.asarray(_shares(obs, band), dtype),
        jnp.asarray(fixed_points),
        edge,
        options,
    )


def _shares(obs: Observation, band: str | None) -> Float[np.ndarray, " band"]:
    """Share of every band in an image."""
    if band is None:
        return np.asarray(band_weights(obs))
    if band not in obs.bands:
        raise ValueError(f"band: got {band!r}; the observation has {', '.join(map(repr, obs.bands))}.")
    return (np.asarray(obs.bands) == band).astype(np.asarray(obs.images).dtype)


@Program
def _initialize(
    obs: Observation,
    positions: Float[Array, "source 2"],
    error: Float[Array, " source"],
    templates: Float[Array, "source y x"],
    is_psf: Bool[Array, " source"],
    share: Float[Array, " band"],
    fixed_points: Bool[Array, ""],
    edge: int,
    options: Initialization,
) -> Blend:
    obs = obs.prepared()
    assert obs.kernel is not None  # that is what `prepared` means
    inside = obs.contains(positions)
    centers = jnp.where(inside[:, None], positions, 0.0)
    kernels = jnp.asarray(obs.kernel.image)
    kernel = jnp.einsum("b,byx->yx", share, jnp.broadcast_to(kernels, (len(obs.bands), *kernels.shape[1:])))
    shapes = jax.vmap(lambda template, center: model_shape(template, center, kernel, edge))(templates, centers)
    star = prox.normalized(obs.model_psf.stamp(edge)[0])[0]
    highest = shapes.max(axis=(-2, -1))
    shapes = jnp.where(is_psf[:, None, None], highest[:, None, None] * star[None], shapes)
    faint = FAINT * jnp.maximum(highest.max(initial=0.0), jnp.finfo(star.dtype).tiny / FAINT)
    shapes = jnp.where((highest > 0)[:, None, None], shapes, faint * star[None])
    prior = CenterPrior(positions, jnp.where(inside, error, 0.0))
    sources = Blend(centers=centers, center_prior=prior, stacks=(), active=jnp.ones_like(inside), frame=obs.shape)
    return with_shapes(sources, obs, shapes, is_psf & fixed_points, options)


def model_shape(
    template: Float[Array, "y x"], center: Float[Array, "2"], kernel: Float[Array, "h w"], edge: int
) -> Float[Array, "s s"]:
    """The shape in model space that looks like a template once it is convolved.

    Parameters
    ----------
    template
        Template in the frame of the image.
    center
        Position of its source, (y, x) in pixels.
    kernel
        Difference kernel that takes model space to the PSF of the template, of odd edge.
    edge
        Odd edge of the stamp.

    Returns
    -------
    Float[Array, "s s"]
        Stamp about the position, positive and falling outwards, in the units of the template.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> point = jnp.zeros((9, 9)).at[4, 5].set(1.0)
    >>> shape = model_shape(point, jnp.array([4.0, 5.0]), jnp.ones((1, 1)), 7)
    >>> int(jnp.argmax(shape)), bool(shape.max() > 0.5)
    (24, True)
    """
    rows, columns = (stamps.placement(center[axis], template.shape[axis], edge) for axis in (0, 1))
    observed = stamps.cut(template, rows, columns)
    size = fft.good_size(edge + kernel.shape[-1] // 2)
    gain = fft.kernel_transform(kernel, (size, size), (size, size))
    power = jnp.abs(gain) ** 2 + REGULARIZATION * laplacian_transform(size).astype(observed.dtype) ** 2
    transform = jnp.fft.rfft2(observed, s=(size, size)) * jnp.conj(gain) / power.astype(gain.dtype)
    sharp = jnp.fft.irfft2(transform, s=(size, size))[:edge, :edge]
    return ring_sweep(prox.positive(sharp))
