r"""Isotropic undecimated wavelets ("starlets") with the cubic B spline, and their adjoint.

Smoothing by H_j, the separable filter (1, 4, 6, 4, 1) / 16 with 2^j - 1 zeros between its taps, gives ever coarser
images c_{j+1} = H_j c_j, and the details lost in each step are the wavelets. Images are taken as zero outside their
frame, so that each H_j equals its own transpose.

Source: Starck, Murtagh & Bertero (2011), "Starlet transform in astronomical data processing", Handbook of Mathematical
Methods in Imaging.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""The cubic B spline at whole numbers."""


def starlet_transform(
    image: Float[Array, "*batch y x"], scales: int, *, generation: int = 2
) -> Float[Array, "*batch scale y x"]:
    r"""Divide an image into details of 1, 2, 4, … pixels and a coarse rest.

    .. math:: w_j = c_j - c_{j+1} \quad (\text{generation 1}), \qquad w_j = c_j - H_j c_{j+1} \quad (\text{2}).

    Wavelets of the second generation are reconstructed by smoothing filters alone, so that what is cut out of them
    leaves no negative rings.

    Parameters
    ----------
    image
        Image.
    scales
        Number of scales of details, at least 0.
    generation
        1 or 2.

    Returns
    -------
    Float[Array, "*batch scale y x"]
        w_0, w_1, … from the finest, and the coarse rest: scales + 1 images.

    Raises
    ------
    ValueError
        If there is no such generation or number of scales.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> image = jnp.zeros((32, 32)).at[16, 16].set(1.0)
    >>> details = starlet_transform(image, 3)
    >>> details.shape, bool(jnp.allclose(starlet_reconstruction(details), image, atol=1e-6))
    ((4, 32, 32), True)
    """
    _check(scales, generation)
    details = []
    for scale in range(scales):
        coarse = smooth(image, scale)
        details.append(image - (coarse if generation == 1 else smooth(coarse, scale)))
        image = coarse
    return jnp.stack([*details, image], axis=-3)


def starlet_reconstruction(
    coefficients: Float[Array, "*batch scale y x"], *, generation: int = 2
) -> Float[Array, "*batch y x"]:
    """Put an image together again: the exact inverse of `starlet_transform`.

    Parameters
    ----------
    coefficients
        Wavelets from the finest, and the coarse rest.
    generation
        That of the transform.

    Returns
    -------
    Float[Array, "*batch y x"]
        Image.

    Raises
    ------
    ValueError
        If there is no such generation.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(starlet_reconstruction(jnp.ones((3, 8, 8)), generation=1)[4, 4])
    3.0
    """
    scales = coefficients.shape[-3] - 1
    _check(scales, generation)
    image = coefficients[..., scales, :, :]
    for scale in reversed(range(scales)):
        image = (image if generation == 1 else smooth(image, scale)) + coefficients[..., scale, :, :]
    return image


def starlet_adjoint(
    coefficients: Float[Array, "*batch scale y x"], *, generation: int = 2
) -> Float[Array, "*batch y x"]:
    """Transpose of `starlet_transform`, for gradients with respect to images.

    Parameters
    ----------
    coefficients
        Wavelets from the finest, and the coarse rest.
    generation
        That of the transform.

    Returns
    -------
    Float[Array, "*batch y x"]
        Image a with <a, f> = <coefficients, transform of f> for every image f.

    Raises
    ------
    ValueError
        If there is no such generation.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> image, other = jnp.eye(16), jnp.ones((3, 16, 16))
    >>> left, right = jnp.vdot(starlet_transform(image, 2), other), jnp.vdot(image, starlet_adjoint(other))
    >>> bool(jnp.allclose(left, right))
    True
    """
    scales = coefficients.shape[-3] - 1
    _check(scales, generation)
    image = coefficients[..., scales, :, :]
    for scale in reversed(range(scales)):
        detail = coefficients[..., scale, :, :]
        lost = detail if generation == 1 else smooth(detail, scale)
        image = detail + smooth(image - lost, scale)
    return image


def smooth(image: Float[Array, "*batch y x"], scale: int) -> Float[Array, "*batch y x"]:
    """Smooth with H_j: the B spline with its taps 2^j pixels apart, along both axes; zero outside the frame.

    Parameters
    ----------
    image
        Image.
    scale
        The exponent j.

    Returns
    -------
    Float[Array, "*batch y x"]
        Smoothed image.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(smooth(jnp.zeros((5, 5)).at[2, 2].set(256.0), 0)[2, 3])
    24.0
    """
    step = 2**scale
    for axis in (-2, -1):
        size = image.shape[axis]
        width = [(0, 0)] * image.ndim
        width[axis] = (2 * step, 2 * step)
        padded = jnp.moveaxis(jnp.pad(image, width), axis, -1)
        total = sum(tap * padded[..., k * step : k * step + size] for k, tap in enumerate(TAPS))
        image = jnp.moveaxis(jnp.asarray(total), -1, axis)
    return image


def _check(scales: int, generation: int) -> None:
    if scales < 0:
        raise ValueError(f"scales: got {scales}; give a number of scales that is not negative.")
    if generation not in (1, 2):
        raise ValueError(f"generation: got {generation}; choose 1 or 2.")
