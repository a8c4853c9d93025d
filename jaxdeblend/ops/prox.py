"""Small projections of images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def positive(image: Float[Array, "y x"]) -> Float[Array, "y x"]:
    """max(x, 0), the Euclidean projection onto the non-negative images.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> positive(jnp.array([[-1.0, 2.0]]))
    Array([[0., 2.]], dtype=float32)
    """
    return jnp.maximum(image, 0.0)


def symmetric(image: Float[Array, "y x"], strength: Float[Array, ""] | float = 1.0) -> Float[Array, "y x"]:
    """Pull an image towards its rotation by 180°, (1 - s/2) x + s/2 x_rot; s = 1 is the Euclidean projection.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> symmetric(jnp.array([[0.0, 1.0, 2.0]]))
    Array([[1., 1., 1.]], dtype=float32)
    """
    return image + 0.5 * strength * (image[::-1, ::-1] - image)


def hard_threshold(image: Float[Array, "y x"], level: Float[Array, ""] | float) -> Float[Array, "y x"]:
    """Set pixels below `level` to zero.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> hard_threshold(jnp.array([[0.1, 0.5]]), 0.2)
    Array([[0. , 0.5]], dtype=float32)
    """
    return jnp.where(image < level, 0.0, image)


def center_kept(image: Float[Array, "y x"], floor: Float[Array, ""] | float) -> Float[Array, "y x"]:
    """Raise the middle pixel to at least `floor`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(center_kept(jnp.zeros((3, 3)), 0.1)[1, 1]) > 0
    True
    """
    y, x = (edge // 2 for edge in image.shape)
    return image.at[y, x].max(floor)


def normalized(image: Float[Array, "y x"]) -> tuple[Float[Array, "y x"], Float[Array, ""]]:
    """Divide an image by its maximum; an image without a positive pixel is left alone.

    Returns
    -------
    tuple
        The image of maximum 1, and the maximum that it had (1 if that was not positive).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> normalized(jnp.array([[1.0, 4.0]]))
    (Array([[0.25, 1.  ]], dtype=float32), Array(4., dtype=float32))
    """
    peak = image.max()
    peak = jnp.where(peak > 0, peak, 1.0)
    return image / peak, peak


def connected(image: Float[Array, "y x"]) -> Float[Array, "y x"]:
    """Keep the positive pixels that are 4-connected to the middle pixel; zero the rest.

    The mask grows by one pixel a step until nothing changes.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> connected(jnp.array([[1.0, 0.0, 1.0, 1.0, 1.0]]))
    Array([[0., 0., 1., 1., 1.]], dtype=float32)
    """
    allowed = image > 0
    y, x = (edge // 2 for edge in image.shape)
    seed = jnp.zeros(image.shape, dtype=bool).at[y, x].set(allowed[y, x])

    def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
        mask, _ = state
        padded = jnp.pad(mask, 1)
        neighbours = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        grown = allowed & (mask | neighbours)
        return grown, jnp.any(grown != mask)

    mask, _ = jax.lax.while_loop(lambda state: state[1], grow, (seed, jnp.asarray(True)))
    return jnp.where(mask, image, 0.0)
