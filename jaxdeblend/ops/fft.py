"""FFT sizes and wrap-safe "same" convolution with cached kernel transforms.

Convolving an image of edge H with a kernel of edge h and keeping the H pixels of the image needs an FFT of
edge N >= H + (h - 1) / 2 only: what wraps around then falls into the padding, which is cut away. That is
shorter than the N >= H + h - 1 of a full linear convolution (80 x 72 instead of 108 x 96 for a 58 x 48 image
and a 43-pixel kernel).
"""

import jax.numpy as jnp
from jaxtyping import Array, Complex, Float


def good_size(minimum: int) -> int:
    """Smallest even FFT length of the form 2^a 3^b 5^c 7^d that is at least `minimum`.

    Even lengths make the real transforms exact halves; the factors are those that pocketfft and cuFFT have
    hand-written kernels for.

    Parameters
    ----------
    minimum
        Wanted length.

    Returns
    -------
    int
        The length to use.

    Examples
    --------
    >>> good_size(79), good_size(97)
    (80, 98)
    """
    size = max(2, minimum + minimum % 2)
    while not _is_smooth(size):
        size += 2
    return size


def _is_smooth(size: int) -> bool:
    for factor in (2, 3, 5, 7):
        while size % factor == 0:
            size //= factor
    return size == 1


def same_shape(frame_shape: tuple[int, int], kernel_shape: tuple[int, int]) -> tuple[int, int]:
    """FFT shape for a wrap-safe "same" convolution.

    Parameters
    ----------
    frame_shape
        Shape (y, x) of the image.
    kernel_shape
        Shape (y, x) of the kernel, both odd.

    Returns
    -------
    tuple of int
        N >= H + (h - 1) / 2 along each axis, rounded up by `good_size`.

    Examples
    --------
    >>> same_shape((58, 48), (43, 43))
    (80, 70)
    """
    y, x = (
        good_size(frame + min((kernel - 1) // 2, frame - 1))
        for frame, kernel in zip(frame_shape, kernel_shape, strict=True)
    )
    return y, x


def kernel_transform(
    kernel: Float[Array, "*batch h w"], frame_shape: tuple[int, int], fft_shape: tuple[int, int]
) -> Complex[Array, "*batch ky kx"]:
    """Fourier transform of a kernel whose centre pixel is moved to the origin.

    Taps that reach further than the frame is wide can never link two of its pixels and are left out.

    Parameters
    ----------
    kernel
        Kernel with odd edges; its centre pixel is the origin.
    frame_shape
        Shape (y, x) of the images that will be convolved.
    fft_shape
        FFT shape, as from `same_shape`.

    Returns
    -------
    Complex[Array, "*batch ky kx"]
        Transform for `convolve`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> delta = jnp.zeros((3, 3)).at[1, 1].set(1.0)
    >>> bool(jnp.allclose(kernel_transform(delta, (8, 8), (10, 10)), 1.0))
    True
    """
    for axis, frame in zip((-2, -1), frame_shape, strict=True):
        half = (kernel.shape[axis] - 1) // 2
        reach = min(half, frame - 1)
        kernel = jnp.take(kernel, jnp.arange(half - reach, half + reach + 1), axis=axis)
    padding = [(0, 0)] * (kernel.ndim - 2) + [
        (0, size - edge) for size, edge in zip(fft_shape, kernel.shape[-2:], strict=True)
    ]
    shift = tuple(-((edge - 1) // 2) for edge in kernel.shape[-2:])
    return jnp.fft.rfft2(jnp.roll(jnp.pad(kernel, padding), shift, axis=(-2, -1)))


def convolve(
    image: Float[Array, "*#batch y x"], transform: Complex[Array, "*#batch ky kx"], fft_shape: tuple[int, int]
) -> Float[Array, "*#batch y x"]:
    """Linear convolution (k * f)(p) = Σ_q k(q) f(p - q), cropped to the image ("same").

    The image is taken as zero outside its frame.

    Parameters
    ----------
    image
        Image.
    transform
        Transform of the kernel from `kernel_transform` for this frame and FFT shape.
    fft_shape
        FFT shape, as from `same_shape`.

    Returns
    -------
    Float[Array, "*batch y x"]
        Convolved image on the same pixels.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> image, kernel = jnp.eye(5), jnp.ones((3, 3))
    >>> shape = same_shape((5, 5), (3, 3))
    >>> round(float(convolve(image, kernel_transform(kernel, (5, 5), shape), shape)[2, 2]), 4)
    3.0
    """
    height, width = image.shape[-2:]
    spectrum = jnp.fft.rfft2(image, s=fft_shape) * transform
    return jnp.fft.irfft2(spectrum, s=fft_shape)[..., :height, :width]


def correlate(
    image: Float[Array, "*#batch y x"], transform: Complex[Array, "*#batch ky kx"], fft_shape: tuple[int, int]
) -> Float[Array, "*#batch y x"]:
    """Correlation (k ⋆ f)(p) = Σ_q k(q) f(p + q): the exact adjoint of `convolve`.

    Parameters
    ----------
    image
        Image.
    transform
        Transform of the kernel from `kernel_transform`.
    fft_shape
        FFT shape, as from `same_shape`.

    Returns
    -------
    Float[Array, "*batch y x"]
        Correlated image on the same pixels.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> kernel = jnp.zeros((3, 3)).at[1, 2].set(1.0)   # moves an image by one pixel in x
    >>> shape = same_shape((4, 4), (3, 3))
    >>> moved = correlate(jnp.eye(4), kernel_transform(kernel, (4, 4), shape), shape)
    >>> round(float(moved[2, 1]), 4)
    1.0
    """
    return convolve(image, jnp.conj(transform), fft_shape)
