"""Is a peak a point source? Fits of the PSF by weighted linear least squares, one peak at a time."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float, Int

from ..ops import stamps
from .flags import SingleBandFlag

BACKGROUND_TERMS = 3
"""Sky and its two slopes."""

MAX_STEP = 1.0
"""Pixels along each axis by which a PSF may move."""


class Surroundings(eqx.Module):
    """What the fit of one peak sees.

    Attributes
    ----------
    stamp, variance
        Image about the pixel of the peak, and its variance.
    usable
        Pixels of the footprint with data.
    offset
        Position of the peak, less its pixel.
    neighbors
        Positions of other peaks, less the pixel of this one.
    near
        Which of them are near enough to matter.
    """

    stamp: Float[Array, "s s"]
    variance: Float[Array, "s s"]
    usable: Bool[Array, "s s"]
    offset: Float[Array, "2"]
    neighbors: Float[Array, "neighbor 2"]
    near: Bool[Array, " neighbor"]


class PSFFit(eqx.Module):
    """The fits of the PSF to one peak.

    Attributes
    ----------
    flux
        Flux of the PSF.
    offset
        Where it was fitted, less the pixel of the peak.
    chisq
        χ² per degree of freedom at the peak, with derivatives, and at the position that these lead to.
    step
        The way to that position in pixels, from the derivatives.
    dof
        Degrees of freedom of the first fit, Σ of the weights' ramp less the number of terms.
    is_psf
        Whether the peak is a point source.
    flags
        Bits of `SingleBandFlag`.
    """

    flux: Float[Array, "*peak"]
    offset: Float[Array, "*peak 2"]
    chisq: Float[Array, "*peak 3"]
    step: Float[Array, "*peak 2"]
    dof: Float[Array, "*peak"]
    is_psf: Bool[Array, "*peak"]
    flags: Int[Array, "*peak"]


def rendered(psf: Float[Array, "p p"], offset: Float[Array, "2"], edge: int) -> Float[Array, "s s"]:
    """The PSF on a stamp, its centre at an offset from the middle pixel, by band-limited interpolation.

    Parameters
    ----------
    psf
        PSF of unit sum and odd edge.
    offset
        Offset (y, x) in pixels.
    edge
        Odd edge of the stamp.

    Returns
    -------
    Float[Array, "s s"]
        Stamp; zero where the PSF does not reach.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> psf = jnp.zeros((3, 3)).at[1, 1].set(1.0)
    >>> float(rendered(psf, jnp.array([1.0, 0.0]), 5)[3, 2].round(6))
    1.0
    """
    rows, columns = (stamps.placement(offset[axis] + edge // 2, edge, psf.shape[0]) for axis in (0, 1))
    return stamps.place(psf, rows, columns)


def fit_psf(
    around: Surroundings,
    psf: Float[Array, "p p"],
    fwhm: Float[Array, ""],
    limits: tuple[float, float, float],
) -> PSFFit:
    """Fit the PSF to a peak, with the sky, its slopes and PSFs at the other peaks; move it once; judge it.

    Minimised is Σ w² (I - Σ_k a_k T_k)² with w² = ramp / V, where the ramp falls from 1 at ⌈FWHM⌉ pixels from the peak
    to 0 at ⌈1.5 FWHM⌉. The second fit has the derivatives of the PSF with respect to its position as further terms;
    their amplitudes, divided by the flux, are a step of Gauss and Newton towards the true position, from where the
    first fit is repeated. A peak is a point source if χ² per degree of freedom is below the limits; the moved PSF is
    taken if it alone passes, or is the better one.

    Parameters
    ----------
    around
        Image about the peak.
    psf
        PSF of unit sum and odd edge.
    fwhm
        Its FWHM in pixels.
    limits
        Largest χ² per degree of freedom of the first fit, of that with derivatives, and of the moved one.

    Returns
    -------
    PSFFit
        What was found.
    """
    edge = around.stamp.shape[0]
    ramp = jnp.where(around.usable & (around.variance > 0), fading(around.offset, fwhm, edge), 0.0)
    weight = jnp.sqrt(ramp / jnp.where(around.variance > 0, around.variance, 1.0))
    n_terms = 1 + BACKGROUND_TERMS + around.near.sum(dtype=int).astype(ramp.dtype)
    dof = ramp.sum() - n_terms

    fixed = _fixed_terms(around, psf)
    active = jnp.concatenate([jnp.ones(1 + BACKGROUND_TERMS, bool), around.near, jnp.ones(2, bool)])

    def fit(offset: Array, _: None) -> tuple[Array, tuple[Array, ...]]:
        own = _own_terms(psf, offset, edge)
        terms = jnp.concatenate([own[:1], fixed, own[1:]])
        amplitudes, chi2 = weighted_fits(terms, active, around.stamp, weight, last=2)
        step = amplitudes[1, -2:] / jnp.where(amplitudes[1, 0] == 0, 1.0, amplitudes[1, 0])
        return offset + jnp.where(_is_small(step), step, 0.0), (offset, amplitudes, chi2, step)

    # the second turn of the same program is the fit at the new position
    _, (places, amplitudes, chi2, steps) = jax.lax.scan(fit, around.offset, None, length=2)
    first, second, third = amplitudes[0, 0], amplitudes[0, 1], amplitudes[1, 0]
    small, step = _is_small(steps[0]), jnp.where(jnp.isfinite(steps[0]), steps[0], 0.0)
    freedom = jnp.stack([dof, dof - 2, dof])
    chisq = jnp.stack([chi2[0, 0], chi2[0, 1], chi2[1, 0]]) / jnp.where(freedom > 0, freedom, 1.0)
    chisq = jnp.where(freedom > 0, chisq, jnp.inf)
    passes = chisq < jnp.asarray(limits, chisq.dtype)
    here, there = passes[0] & (first[0] > 0), passes[1] & passes[2] & small & (third[0] > 0)
    use_moved = there & (~here | (chisq[2] < chisq[0]))
    solved = jnp.isfinite(first).all() & jnp.isfinite(second).all() & (weight > 0).any()
    flags = _bits(
        {
            SingleBandFlag.NO_VALID_PIXELS: ~(weight > 0).any(),
            SingleBandFlag.PSF_FIT_FAILED: ~solved,
            SingleBandFlag.PSF_FIT_BAD_DOF: (weight > 0).any() & (freedom[:2] <= 0).any(),
            SingleBandFlag.PSF_FIT_BIG_DECENTER: passes[1] & ~small,
            SingleBandFlag.PSF_FIT_MOVED: use_moved & solved,
            SingleBandFlag.DEBLENDED_AS_PSF: (here | there) & solved,
        }
    )
    return PSFFit(
        flux=jnp.where(use_moved, third[0], first[0]),
        offset=jnp.where(use_moved, places[1], around.offset),
        chisq=chisq,
        step=step,
        dof=dof,
        is_psf=(here | there) & solved,
        flags=flags,
    )


def fading(offset: Float[Array, "2"], fwhm: Float[Array, ""], edge: int) -> Float[Array, "s s"]:
    """Weights of the pixels about a peak: 1 within ⌈FWHM⌉, falling linearly to 0 at ⌈1.5 FWHM⌉.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> fading(jnp.zeros(2), jnp.asarray(2.0), 7)[3]
    Array([0., 1., 1., 1., 1., 1., 0.], dtype=float32)
    """
    y, x = (jnp.arange(edge, dtype=offset.dtype) - edge // 2 - offset[axis] for axis in (0, 1))
    r = jnp.hypot(y[:, None], x[None, :])
    inner, outer = jnp.ceil(fwhm), jnp.ceil(1.5 * fwhm)
    return jnp.clip((outer - r) / jnp.maximum(outer - inner, 1.0), 0.0, 1.0)


def _is_small(step: Float[Array, "2"]) -> Bool[Array, ""]:
    return (jnp.abs(step) < MAX_STEP).all()


def _own_terms(psf: Float[Array, "p p"], offset: Float[Array, "2"], edge: int) -> Float[Array, "3 s s"]:
    """The PSF and its derivatives with respect to its position."""

    def along(direction: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda offset: rendered(psf, offset, edge), (offset,), (direction,))

    values, derivatives = jax.vmap(along)(jnp.eye(2, dtype=offset.dtype))
    return jnp.concatenate([values[:1], derivatives])


def _fixed_terms(around: Surroundings, psf: Float[Array, "p p"]) -> Float[Array, "term s s"]:
    """Sky, its slopes, and PSFs at the other peaks."""
    edge = around.stamp.shape[0]
    along = (jnp.arange(edge, dtype=psf.dtype) - edge // 2) / (edge // 2)
    y, x = jnp.broadcast_to(along[:, None], (edge, edge)), jnp.broadcast_to(along[None, :], (edge, edge))
    others = jax.vmap(lambda offset: rendered(psf, offset, edge))(around.neighbors)
    return jnp.concatenate([jnp.stack([jnp.ones_like(y), y, x]), others])


def weighted_fits(
    terms: Float[Array, "term s s"],
    active: Bool[Array, " term"],
    stamp: Float[Array, "s s"],
    weight: Float[Array, "s s"],
    *,
    last: int,
) -> tuple[Float[Array, "2 term"], Float[Array, "2"]]:
    """Amplitudes that minimise Σ w² (I - Σ_k a_k T_k)², without and with the last terms, and these minima.

    By a QR factorization of columns scaled to unit length, so that single precision is enough: normal equations would
    square the condition number. The first columns of R are those of the fit without the last terms.

    Parameters
    ----------
    terms
        Terms T.
    active
        Which of them may be used; the others get an amplitude of 0.
    stamp
        Image I.
    weight
        Weights w.
    last
        Number of terms at the end that the first fit goes without.

    Returns
    -------
    tuple
        Amplitudes, and χ², of both fits.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> terms = jnp.eye(3)[:2, None, :] + jnp.zeros((2, 3, 3))
    >>> image = 2 * terms[0] - terms[1]
    >>> amplitudes, chi2 = weighted_fits(terms, jnp.array([True, True]), image, jnp.ones((3, 3)), last=1)
    >>> amplitudes.round(4).tolist(), chi2.round(4).tolist()
    ([[2.0, 0.0], [2.0, -1.0]], [3.0, 0.0])
    """
    columns = jnp.where(active[:, None], (terms * weight[None]).reshape(len(terms), -1), 0.0).T
    length = jnp.sqrt((columns**2).sum(axis=0))
    known = length > 0
    columns = columns / jnp.where(known, length, 1.0)[None, :]
    target = (stamp * weight).reshape(-1)
    scale = jnp.maximum(jnp.abs(target).max(), jnp.finfo(target.dtype).tiny)
    # a row for each term: it keeps unused ones at 0, and those that cannot be told apart small
    ridge = jnp.where(known, 10 * jnp.finfo(target.dtype).eps, 1.0).astype(target.dtype)
    q, r = jnp.linalg.qr(jnp.concatenate([columns, jnp.diag(ridge)]))
    right = q[: len(target)].T @ (target / scale)

    def first(count: int) -> Float[Array, " term"]:
        found = solve_triangular(r[:count, :count], right[:count])
        return jnp.pad(found, (0, len(terms) - count))

    scaled = jnp.stack([first(len(terms) - last), first(len(terms))])
    residuals = target[None] / scale - scaled @ columns.T
    amplitudes = jnp.where(known[None], scaled * scale / jnp.where(known, length, 1.0)[None], 0.0)
    return amplitudes, (residuals**2).sum(axis=1) * scale**2


def _bits(conditions: dict[SingleBandFlag, Bool[Array, ""]]) -> Int[Array, ""]:
    """The flags that are true, in one number."""
    return sum((jnp.where(is_true, int(flag), 0) for flag, is_true in conditions.items()), jnp.asarray(0))
