"""Templates: what each source would look like if it were symmetric about its peak.

All functions are for one peak, on a stamp centred on the pixel of the peak, but for the last ones, which compare the
templates of a blend.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..ops import lstsq
from ..ops.monotone import ring_sweep
from ..ops.wedge import wedge_shadow

HALF = 2
"""Half-width of the box of the median, in pixels."""

RAMP_ABOVE = 3.0
"""Noise σ that a pixel at a template's border must exceed for the template to be continued."""

AMBIGUOUS = 0.5
"""Share of a symmetric template that may be other sources' light before the template is doubtful."""


def mirror_shift(offset: Float[Array, "2"], symmetry: str) -> Float[Array, "2"]:
    """Twice the offset of the mirror's centre from the middle pixel, from -1 to 1 along each axis.

    Parameters
    ----------
    offset
        Position of the source less its nearest pixel.
    symmetry
        ``"subpixel"``, ``"half"`` or ``"integer"``.

    Returns
    -------
    Float[Array, "2"]
        2 (c - n) for the centre c of the mirror and the middle pixel n.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> mirror_shift(jnp.array([0.3, -0.1]), "half")
    Array([ 1., -0.], dtype=float32)
    """
    if symmetry == "integer":
        return jnp.zeros_like(offset)
    return jnp.round(2 * offset) if symmetry == "half" else 2 * offset


def mirrored(stamp: Float[Array, "s s"], shift: Float[Array, "2"]) -> Float[Array, "s s"]:
    """The stamp seen in a mirror at its centre, I(2c - p), linearly interpolated; 0 from outside.

    Parameters
    ----------
    stamp
        Stamp with odd edge.
    shift
        From `mirror_shift`.

    Returns
    -------
    Float[Array, "s s"]
        Stamp.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> mirrored(jnp.array([[0.0, 0, 0], [0, 1, 4], [0, 0, 0]]), jnp.array([0.0, 0.5]))[1]
    Array([2. , 2.5, 0.5], dtype=float32)
    """
    return _moved(_moved(stamp[::-1, ::-1], shift[0]).T, shift[1]).T


def _moved(stamp: Float[Array, "y x"], step: Float[Array, ""]) -> Float[Array, "y x"]:
    """Move along y by at most a pixel, linearly interpolated."""
    edge = stamp.shape[0]
    padded = jnp.pad(stamp, ((1, 1), (0, 0)))
    there, back = jnp.maximum(step, 0.0), jnp.maximum(-step, 0.0)
    return (1 - there - back) * stamp + there * padded[:edge] + back * padded[2:]


def symmetric_template(
    stamp: Float[Array, "s s"],
    good: Bool[Array, "s s"],
    footprint: Bool[Array, "s s"],
    shift: Float[Array, "2"],
) -> tuple[Float[Array, "s s"], Bool[Array, "s s"]]:
    """The smaller of each pixel and its mirror image, t(p) = max(0, min(I(p), I(2c - p))).

    Where only one of the two is usable, it counts alone (Lupton 2001, "SDSS image processing II").

    Parameters
    ----------
    stamp
        Image about the peak, 0 where unusable.
    good
        Where it is usable.
    footprint
        Pixels of the blend.
    shift
        From `mirror_shift`.

    Returns
    -------
    tuple
        The template, and the pixels of the footprint whose mirror image is in it, too; the template is 0 elsewhere. The
        middle pixel is always one of them, so that half a source at the border has a template to be continued.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> everywhere = jnp.ones((3, 3), bool)
    >>> stamp = jnp.array([[0.0, 0, 0], [1, 4, 3], [0, 0, 0]])
    >>> symmetric_template(stamp, everywhere, everywhere, jnp.zeros(2))[0][1]
    Array([1., 4., 1.], dtype=float32)
    """
    seen = _share_seen(good, shift)
    seen_good = seen >= 0.5
    opposite = mirrored(stamp, shift) / jnp.where(seen_good, seen, 1.0)
    smaller = jnp.where(good, jnp.where(seen_good, jnp.minimum(stamp, opposite), stamp), opposite)
    middle = jnp.arange(stamp.shape[0]) == stamp.shape[0] // 2
    region = footprint & ((_share_seen(footprint, shift) >= 0.5) | (middle[:, None] & middle[None, :]))
    return jnp.where(region & (good | seen_good), jnp.maximum(smaller, 0.0), 0.0), region


def _share_seen(mask: Bool[Array, "s s"], shift: Float[Array, "2"]) -> Float[Array, "s s"]:
    return mirrored(mask.astype(shift.dtype), shift)


def patched(
    template: Float[Array, "s s"],
    region: Bool[Array, "s s"],
    stamp: Float[Array, "s s"],
    footprint: Bool[Array, "s s"],
    inside: Bool[Array, "s s"],
    shift: Float[Array, "2"],
) -> tuple[Float[Array, "s s"], Bool[Array, "s s"], Bool[Array, ""]]:
    """Take the image itself where its mirror image lies outside of it.

    Only a template that reaches the border of the image is patched.

    Parameters
    ----------
    template, region
        From `symmetric_template`.
    stamp
        Image about the peak.
    footprint
        Pixels of the blend.
    inside
        Pixels of the image.
    shift
        From `mirror_shift`.

    Returns
    -------
    tuple
        Template, its pixels, and whether it was patched.
    """
    touches = (region & grown(~inside)).any()
    unseen = footprint & (_share_seen(inside, shift) < 0.5) & touches
    return jnp.where(unseen, jnp.maximum(stamp, 0.0), template), region | unseen, unseen.any()


def ramped(
    template: Float[Array, "s s"],
    region: Bool[Array, "s s"],
    inside: Bool[Array, "s s"],
    psf: Float[Array, "w w"],
    width: Float[Array, ""],
    noise: Float[Array, ""],
    shift: Float[Array, "2"],
) -> tuple[Float[Array, "s s"], Bool[Array, "s s"], Bool[Array, ""]]:
    """Continue a template where its mirror image lies outside of the image, by wings of PSFs.

    They are max_e t(e) P(p - e) / P(0); every pixel e at the template's border counts.

    Parameters
    ----------
    template, region
        From `symmetric_template`.
    inside
        Pixels of the image.
    psf
        PSF, its middle at most as wide as it can reach.
    width
        How far it reaches along each axis, in pixels.
    noise
        σ of a pixel; a template whose border stays below 3 σ is left alone.
    shift
        From `mirror_shift`.

    Returns
    -------
    tuple
        Template, its pixels, and whether it was continued.
    """
    border = jnp.where(region & grown(~region), template, 0.0)
    needed = border.max() >= RAMP_ABOVE * noise
    reach = psf.shape[0] // 2
    near = jnp.abs(jnp.arange(-reach, reach + 1, dtype=psf.dtype)) <= width
    profile = jnp.where(near[:, None] & near[None, :], psf / psf[reach, reach], 0.0)
    unseen = inside & ~region & (_share_seen(inside, shift) < 0.5)
    wings = _dilated(border, profile, jnp.where(needed & unseen.any(), width, -1.0))
    added = needed & unseen & (wings > 0)
    return jnp.where(added, wings, template), region | added, added.any()


def _dilated(stamp: Float[Array, "s s"], profile: Float[Array, "w w"], width: Float[Array, ""]) -> Float[Array, "s s"]:
    """The largest of all shifted and scaled profiles, max_e t(e) P(p - e).

    Only rows of the profile within a width of its middle are used; of a negative width none, at no cost.
    """
    edge, reach = stamp.shape[0], profile.shape[0] // 2
    padded = jnp.pad(stamp, reach)
    used = jnp.minimum(width, reach).astype(int)

    def row(number: int | Array, largest: Array) -> Array:
        rows = jax.lax.dynamic_slice(padded, (2 * reach - number, 0), (edge, edge + 2 * reach))
        for column in range(2 * reach + 1):
            first = 2 * reach - column
            largest = jnp.maximum(largest, profile[number, column] * rows[:, first : first + edge])
        return largest

    return jax.lax.fori_loop(reach - used, reach + used + 1, row, jnp.zeros_like(stamp))


def grown(mask: Bool[Array, "y x"]) -> Bool[Array, "y x"]:
    """The mask and the pixels beside it in rows and columns; what lies outside the array counts as the mask.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> grown(jnp.zeros((3, 3), bool))[1]
    Array([ True, False,  True], dtype=bool)
    """
    padded = jnp.pad(mask, 1, constant_values=True)
    return mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]


# -------------------------------------------------------------------------------------------------- smooth and monotone


def median_smoothed(stamp: Float[Array, "s s"], region: Bool[Array, "s s"]) -> Float[Array, "s s"]:
    """Median of 5 × 5 pixels, but for those within 2 pixels of the border of the region's box, which stay.

    Parameters
    ----------
    stamp
        Template.
    region
        Its pixels; if their box is narrower than 5 pixels, nothing changes.

    Returns
    -------
    Float[Array, "s s"]
        Template.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> noisy = jnp.ones((7, 7)).at[3, 3].set(9.0)
    >>> float(median_smoothed(noisy, jnp.ones((7, 7), bool))[3, 3])
    1.0
    """
    within = [_away_from_ends(region.any(axis=axis)) for axis in (1, 0)]
    return jnp.where(within[0][:, None] & within[1][None, :], _median(stamp), stamp)


def _away_from_ends(used: Bool[Array, " s"]) -> Bool[Array, " s"]:
    """Places that are at least `HALF` from the first and the last that are used."""
    place = jnp.arange(used.size)
    first, last = jnp.argmax(used), used.size - 1 - jnp.argmax(used[::-1])
    return (place >= first + HALF) & (place <= last - HALF) & used.any()


def _median(stamp: Float[Array, "s s"]) -> Float[Array, "s s"]:
    """Median of 5 × 5 pixels, by minima and maxima alone, which are many times faster than sorting.

    With columns, then rows in order, element (i, j) of 5 × 5 has i j - 1 that are no larger and (6 - i) (6 - j) - 1
    that are no smaller. Those with 13 or more of either are not the median; that of the other 13 is.
    """
    edge = stamp.shape[0]
    padded = jnp.pad(stamp, HALF)
    columns = _sorted([padded[k : k + edge] for k in range(5)])
    rows = [_sorted([column[:, k : k + edge] for k in range(5)]) for column in columns]
    kept = [rows[i - 1][j - 1] for i in range(1, 6) for j in range(1, 6) if i * j <= 13 and (6 - i) * (6 - j) <= 13]
    return _sorted(kept)[len(kept) // 2]


def _sorted(values: list[Array]) -> list[Array]:
    """Arrays in order, element by element (Batcher 1968, odd-even merge exchange)."""
    values, n = list(values), len(values)
    top = p = 1 << ((n - 1).bit_length() - 1)
    while p:
        q, r, d = top, 0, p
        while True:
            for i in range(n - d):
                if i & p == r:
                    values[i], values[i + d] = (
                        jnp.minimum(values[i], values[i + d]),
                        jnp.maximum(values[i], values[i + d]),
                    )
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return values


def monotonic(stamp: Float[Array, "s s"], kind: str) -> Float[Array, "s s"]:
    """Make a template fall outwards from its middle pixel.

    Parameters
    ----------
    stamp
        Template.
    kind
        ``"ring"`` (`ring_sweep`), ``"wedge"`` (`wedge_shadow`) or ``"none"``.

    Returns
    -------
    Float[Array, "s s"]
        Template.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> monotonic(jnp.array([[0.0, 0, 0], [0, 1, 2], [0, 0, 0]]), "ring")[1]
    Array([0., 1., 1.], dtype=float32)
    """
    return {"ring": ring_sweep, "wedge": wedge_shadow, "none": lambda same: same}[kind](stamp)


# ----------------------------------------------------------------------------------------------- templates of one blend


def weights(
    templates: Float[Array, "source y x"], image: Float[Array, "y x"], good: Bool[Array, "y x"]
) -> Float[Array, " source"]:
    """Non-negative factors by which the templates together describe the image best, each pixel alike.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> weights(jnp.eye(3)[:2, None, :], jnp.array([[2.0, 3.0, 0.0]]), jnp.ones((1, 3), bool))
    Array([2., 3.], dtype=float32)
    """
    peak = jnp.maximum(templates.max(axis=(-2, -1)), jnp.finfo(templates.dtype).tiny)
    unit = templates / peak[:, None, None]
    return lstsq.spectra(unit, image, good.astype(image.dtype)) / peak


def degenerate(
    templates: Float[Array, "source y x"], is_psf: Bool[Array, " source"], largest: float
) -> Bool[Array, " source"]:
    """Templates that are too much like another, one of each pair.

    In the order of the peaks, the first template of which an earlier one, j, has a cosine t_i · t_j / (|t_i| |t_j|)
    above the limit loses against the j of the largest: of the two, the PSF is dropped if one alone is a PSF, else the
    one with the lower maximum. This is repeated until no such pair is left.

    Parameters
    ----------
    templates
        Templates; dark ones are like no other.
    is_psf
        Which are PSFs.
    largest
        Cosine that is not too large.

    Returns
    -------
    Bool[Array, " source"]
        Which are dropped.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> degenerate(jnp.array([[[1.0, 0]], [[0, 1.0]], [[0, 2.0]]]), jnp.zeros(3, bool), 0.5)
    Array([False,  True, False], dtype=bool)
    """
    peak = templates.max(axis=(-2, -1))
    flat = (templates / jnp.where(peak > 0, peak, 1.0)[:, None, None]).reshape(len(templates), -1)
    length = jnp.sqrt((flat**2).sum(axis=-1))
    unit = flat / jnp.where(length > 0, length, 1.0)[:, None]
    cosine = jnp.tril(unit @ unit.T, -1)

    def alike(dropped: Array) -> Array:
        return jnp.where(dropped[:, None] | dropped[None, :], 0.0, cosine)

    def drop(dropped: Array) -> Array:
        remaining = alike(dropped)
        i = jnp.argmax(remaining.max(axis=1) > largest)
        j = jnp.argmax(remaining[i])
        loses = jnp.where(is_psf[i] != is_psf[j], is_psf[i], peak[i] < peak[j])
        return dropped.at[jnp.where(loses, i, j)].set(True)

    return jax.lax.while_loop(lambda dropped: (alike(dropped) > largest).any(), drop, jnp.zeros_like(is_psf))


def symmetry_ambiguous(
    templates: Float[Array, "source y x"],
    centers: Float[Array, "source 2"],
    brightness: Float[Array, " source"],
    scale: Float[Array, ""],
) -> Bool[Array, " source"]:
    """Whether symmetric templates may be mostly the light of others that lie opposite each other.

    Another source dominates a pixel if its peak times exp(-r / h) exceeds the source's own, with r the distances to the
    peaks. If both the pixel and its mirror image are dominated by others, symmetry tells nothing about them; such
    pixels must have no more than half of the template's light. Of three sources in a row, the middle one is such.

    Parameters
    ----------
    templates
        Symmetric templates before they are made monotone, in the frame of the image.
    centers
        Peaks in pixels.
    brightness
        The image there; 0 for peaks that do not count.
    scale
        The scale length h in pixels.

    Returns
    -------
    Bool[Array, " source"]
        Which are ambiguous.
    """
    y, x = (jnp.arange(edge, dtype=centers.dtype) for edge in templates.shape[1:])
    r2 = (y[None, :, None] - centers[:, 0, None, None]) ** 2 + (x[None, None, :] - centers[:, 1, None, None]) ** 2
    peak = jnp.where(brightness > 0, jnp.log(jnp.where(brightness > 0, brightness, 1.0)), -jnp.inf)
    level = peak[:, None, None] - jnp.sqrt(r2) / scale
    dominated = level.max(axis=0)[None] > level
    both = dominated & jax.vmap(_opposite)(dominated, jnp.round(2 * centers).astype(int))
    light = jnp.where(both, templates, 0.0).sum(axis=(-2, -1))
    return light > AMBIGUOUS * templates.sum(axis=(-2, -1))


def _opposite(mask: Bool[Array, "y x"], twice: Int[Array, "2"]) -> Bool[Array, "y x"]:
    """The mask at 2c - p, for 2c within the image; False from outside."""
    height, width = mask.shape
    padded = jnp.pad(mask[::-1, ::-1], ((height, height), (width, width)))
    return jax.lax.dynamic_slice(padded, (2 * height - 1 - twice[0], 2 * width - 1 - twice[1]), mask.shape)
