"""The options of `match_images`."""

import dataclasses

from ..ops import polynomials
from .basis import PRESETS
from .options import (
    check_count,
    check_degrees,
    check_kind,
    check_odd,
    check_order,
    check_positive,
    check_share,
    check_widths,
)


@dataclasses.dataclass(frozen=True)
class ImageMatchConfig:
    """How two images are matched.

    Attributes
    ----------
    kernel_edge
        Odd edge of the kernel.
    stamp_edge
        Odd edge of the cut-outs of stars. The kernel is fitted to what is further than half of its edge from their
        border.
    sigmas, degrees
        Gaussians of the kernel's basis, in pixels, and degree of the polynomials that each is multiplied with
        (`gaussian_basis`).
    n_components
        Number of principal components of the stars' own kernels that, with their mean, take the place of this basis in
        the solution that varies; None: the basis stays.
    order, background_order
        Largest total degree of the polynomials by which kernel and background vary; no background for None.
    polynomial
        ``"chebyshev"`` or ``"power"``.
    cell, stars_per_cell
        Size of a cell in pixels, and how many stars of it are used, the most significant first.
    max_mean, max_rms
        Stars are rejected of which a larger mean or rms is left, in σ.
    clip
        Stars are rejected whose kernel has a sum that is by so many σ (from the median absolute deviation) off the
        median.
    max_rounds
        Times that stars are rejected and the solution is found anew.
    mask_share
        As for `MatchConfig`.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> jd.ImageMatchConfig(order=1).kernel_edge
    21
    """

    kernel_edge: int = 21
    stamp_edge: int = 49
    sigmas: tuple[float, ...] = PRESETS[27][0]
    degrees: tuple[int, ...] = PRESETS[27][1]
    n_components: int | None = None
    order: int = 2
    background_order: int | None = 1
    polynomial: str = "chebyshev"
    cell: int = 128
    stars_per_cell: int = 5
    max_mean: float = 0.25
    max_rms: float = 1.5
    clip: float = 3.0
    max_rounds: int = 3
    mask_share: float = 1e-4

    def __post_init__(self) -> None:
        check_odd("kernel_edge", self.kernel_edge)
        check_odd("stamp_edge", self.stamp_edge)
        if self.stamp_edge <= self.kernel_edge:
            raise ValueError(f"stamp_edge: got {self.stamp_edge}; give more than the kernel's {self.kernel_edge}.")
        check_degrees(self.degrees, len(self.sigmas))
        check_widths(self.sigmas)
        check_order("order", self.order)
        if self.background_order is not None:
            check_order("background_order", self.background_order)
        check_kind("polynomial", self.polynomial)
        if self.n_components is not None:
            check_count("n_components", self.n_components, 1, "a number of principal components")
        check_count("cell", self.cell, 1, "the size of a cell in pixels")
        check_count("stars_per_cell", self.stars_per_cell, 1, "a number of stars")
        check_count("max_rounds", self.max_rounds, 1, "a number of rounds")
        check_positive("max_mean", self.max_mean, "a number of σ")
        check_positive("max_rms", self.max_rms, "a number of σ")
        check_positive("clip", self.clip, "a number of σ")
        check_share("mask_share", self.mask_share)

    @property
    def n_stars_needed(self) -> int:
        """Fewest stars that determine the polynomials of kernel and background."""
        kernel, background = (polynomials.n_terms(order or 0) for order in (self.order, self.background_order))
        components = 1 if self.n_components is None else self.n_components + 1
        return max(kernel, background, components)
