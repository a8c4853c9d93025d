"""Options of PSF matching, checked before any work begins."""

import math
from collections.abc import Sequence

import numpy as np
from jax.core import Tracer

from ..runtime.host import AnyArray

KINDS = ("chebyshev", "power")
"""Polynomials by which kernels can vary, see `jaxdeblend.ops.polynomials.terms`."""


def check_kernel_sum(kernel_sum: object) -> None:
    """Refuse a kernel sum that is NaN, infinite, zero or negative: images would be NaN, black or negative."""
    if isinstance(kernel_sum, Tracer):
        return
    if np.ndim(kernel_sum) or not 0 < float(kernel_sum) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"kernel_sum: got {kernel_sum}; give one positive, finite number, 1 to keep fluxes.")


def check_odd(name: str, value: object, most: float | int = math.inf, what: str = "") -> None:
    """Refuse an edge that is not an odd, positive number of pixels, or larger than something."""
    if _whole(value) and 1 <= int(value) <= most and int(value) % 2 == 1:  # type: ignore[call-overload]
        return
    limit = "" if most == math.inf else f" up to {most}, {what}"
    raise ValueError(f"{name}: got {value}; give an odd number of pixels{limit}.")


def check_count(name: str, value: object, least: int, meaning: str) -> None:
    """Refuse what is no whole number, or too small."""
    if not _whole(value) or int(value) < least:  # type: ignore[call-overload]
        raise ValueError(f"{name}: got {value}; give {meaning}, a whole number of at least {least}.")


def check_order(name: str, value: object) -> None:
    """Refuse a degree of polynomials that is negative."""
    check_count(name, value, 0, "the degree of the polynomials")


def check_kind(name: str, value: object) -> None:
    """Refuse polynomials that are not known."""
    if value not in KINDS:
        raise ValueError(f"{name}: got {value!r}; give one of {', '.join(map(repr, KINDS))}.")


def check_positive(name: str, value: float | int, meaning: str) -> None:
    """Refuse a limit that is NaN, zero or negative; it may be infinite."""
    if not value > 0:
        raise ValueError(f"{name}: got {value}; give {meaning}, a positive number.")


def check_share(name: str, value: float | int) -> None:
    """Refuse a share of a kernel that is not between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}: got {value}; give a share of the kernel between 0 and 1.")


def check_within(name: str, edge: int, shape: tuple[int, int]) -> None:
    """Refuse stamps or kernels that are larger than the image."""
    if edge > min(shape):
        raise ValueError(f"{name}: got {edge} pixels for images of shape {shape}; give at most {min(shape)}.")


def check_degrees(degrees: Sequence[int], n_widths: int | None) -> None:
    """Refuse a list of degrees that does not go with that many Gaussians; None: with any number."""
    if len(degrees) == 0 or min(degrees) < 0:
        raise ValueError(f"degrees: got {tuple(degrees)}; give a degree of 0 or more for each Gaussian, one at least.")
    if n_widths is not None and n_widths != len(degrees):
        raise ValueError(f"sigmas: got {n_widths} widths for {len(degrees)} degrees; give as many.")


def check_widths(sigmas: Sequence[float] | AnyArray | None) -> None:
    """Refuse Gaussians whose width is not positive and finite."""
    if sigmas is None or isinstance(sigmas, Tracer):
        return
    widths = np.asarray(sigmas)
    if not (np.isfinite(widths) & (widths > 0)).all():
        raise ValueError(f"sigmas: got {widths.tolist()}; give positive widths in pixels.")


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
