"""Functions that kernels are built from, and solvers that build the kernel of one pair of PSFs from them.

A basis is an array (term, k, k) whose term 0 has unit sum; in all but `delta_basis` the others have none, so that its
coefficient is the sum of the kernel.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..instrument.psf import ImagePSF
from ..ops import fft
from ..runtime.host import AnyArray
from .linear import fit_joint, risk
from .options import check_degrees, check_widths
from .solvers import AbstractSolver, Solution

ORDERINGS = ("lsst", "hotpants")
"""Order and scale of the terms of `gaussian_basis`."""

PRESETS = {
    27: ((0.7, 1.5, 3.0), (4, 2, 2)),
    49: ((0.7, 1.5, 3.0), (6, 4, 2)),
    77: ((0.7, 1.5, 3.0, 6.0), (6, 6, 4, 2)),
}
"""Widths in pixels and degrees that go by their number of terms: those of LSST, of HOTPANTS, and for large kernels."""

DIFFERENCES = ("laplacian5", "laplacian9", "forward1", "forward2")
"""What `difference_matrix` can be."""

RULES = ("relative", "biased", "unbiased")
"""Ways to choose λ for `DeltaBasis`."""

RELATIVE_STRENGTH = 1e-4
"""λ tr H / tr M for ``"relative"``."""

RISK_STRENGTHS = tuple(10.0 ** (step / 10) for step in range(-10, 21))
"""λ that are tried for the smallest risk, in units of the variance of the noise."""

MAX_CONDITION = 5e6
"""Condition number at which the pseudo-inverse of the biased risk is cut off."""


# ----------------------------------------------------------------------------------------------------------- functions


def gaussian_basis(
    edge: int, sigmas: Float[AnyArray, " gauss"] | Sequence[float], degrees: Sequence[int], *, ordering: str = "lsst"
) -> Float[Array, "term edge edge"]:
    """Gaussians times polynomials, exp(-(x² + y²) / 2σ²) u^a v^b with a + b <= degree, sampled at the pixels.

    The basis of Alard & Lupton (1998, ApJ 503, 325). Term 0, the first Gaussian itself, has unit sum. Terms with a and
    b even are divided by their sum, and term 0 is subtracted; the others have none. So term 0 alone carries flux. The
    Gaussians follow one another. Of each, the terms come as 1, u, v, u², uv, v², …, with u = 2x / (edge - 1), and are
    scaled to unit L2 norm (``"lsst"``), or as 1, v, v², …, u, uv, …, u², …, with u = x in pixels, and are not scaled
    further (``"hotpants"``). Both span the same kernels.

    Parameters
    ----------
    edge
        Odd edge in pixels.
    sigmas
        σ of each Gaussian, in pixels.
    degrees
        Largest total degree of the polynomials of each.
    ordering
        ``"lsst"`` or ``"hotpants"``.

    Returns
    -------
    Float[Array, "term edge edge"]
        The functions, (degree + 1)(degree + 2) / 2 for each Gaussian.

    Raises
    ------
    ValueError
        If the edge is not odd, a degree negative, the ordering unknown, or the numbers of σ and degrees differ.

    Examples
    --------
    >>> basis = gaussian_basis(21, (0.7, 1.5, 3.0), (4, 2, 2))
    >>> basis.shape
    (27, 21, 21)
    >>> bool(abs(basis[0].sum() - 1) < 1e-5), bool(abs(basis[1:].sum((1, 2))).max() < 1e-5)
    (True, True)
    """
    widths = jnp.asarray(sigmas, dtype=float)
    _check_edge(edge)
    _check_gaussians(widths.shape[0], degrees, ordering)
    of_term = [(gauss, a, b) for gauss, degree in enumerate(degrees) for a, b in _exponents(degree, ordering)]
    gauss, a, b = np.array(of_term).T
    offset = np.arange(edge) - edge // 2
    unit = max(edge // 2, 1) if ordering == "lsst" else 1
    powers = [jnp.asarray((offset[None] / unit) ** power[:, None], widths.dtype) for power in (b, a)]
    profiles = jnp.exp(-0.5 * (jnp.asarray(offset, widths.dtype)[None] / widths[gauss][:, None]) ** 2)
    rows, columns = (profiles * power for power in powers)
    return _renormalised(rows[:, :, None] * columns[:, None, :], (a % 2 == 0) & (b % 2 == 0), ordering)


def matched_widths(
    source_fwhm: Float[AnyArray, ""] | float,
    target_fwhm: Float[AnyArray, ""] | float,
    n: int,
    *,
    ratio: float = 2.0,
    smallest: float = 0.7,
) -> Float[Array, " n"]:
    """Widths of Gaussians for a kernel between PSFs of these widths.

    The kernel between Gaussians has σ_K = √|σ_target² - σ_source²|; the widths are σ_K / ratio, σ_K, ratio · σ_K, …,
    none of them smaller than the smallest.

    Parameters
    ----------
    source_fwhm, target_fwhm
        FWHM in pixels.
    n
        Number of Gaussians.
    ratio
        Ratio of one width to the one before.
    smallest
        Smallest σ_K, and smallest width, in pixels: a narrower Gaussian is not sampled any more.

    Returns
    -------
    Float[Array, "n"]
        σ of each Gaussian, in pixels.

    Raises
    ------
    ValueError
        If there is to be no Gaussian, the ratio is not above 1 or the smallest width not positive.

    Examples
    --------
    >>> matched_widths(3 * 2.3548, 5 * 2.3548, 3).round(3).tolist()
    [2.0, 4.0, 8.0]
    """
    if n < 1:
        raise ValueError(f"n: got {n}; give the number of Gaussians, 1 or more.")
    if not (ratio > 1 and smallest > 0):
        raise ValueError(f"ratio, smallest: got {ratio} and {smallest}; give a ratio above 1, and a width above 0.")
    source, target = (
        jnp.asarray(fwhm, dtype=float) / math.sqrt(8 * math.log(2)) for fwhm in (source_fwhm, target_fwhm)
    )
    kernel = jnp.sqrt(jnp.maximum(jnp.abs(target**2 - source**2), smallest**2))
    return jnp.maximum(kernel / ratio, smallest) * ratio ** jnp.arange(n, dtype=kernel.dtype)


def kernel_edge(sigma: float, *, factor: float = 6.0, smallest: int = 21, largest: int = 35) -> int:
    """Odd edge of kernels that takes in Gaussians of a width.

    Parameters
    ----------
    sigma
        Largest σ, in pixels.
    factor
        Edge in units of σ.
    smallest, largest
        Odd limits of the edge.

    Returns
    -------
    int
        factor · σ rounded up to an odd number, within the limits.

    Examples
    --------
    >>> kernel_edge(4.0), kernel_edge(0.7), kernel_edge(12.0)
    (25, 21, 35)
    """
    return min(max(math.ceil(factor * sigma) | 1, smallest), largest)


def delta_basis(edge: int) -> Float[Array, "term edge edge"]:
    """One function for each pixel, 1 there and 0 elsewhere, row by row.

    Parameters
    ----------
    edge
        Edge in pixels.

    Returns
    -------
    Float[Array, "term edge edge"]
        The edge² functions; all carry flux.

    Examples
    --------
    >>> delta_basis(3)[4].tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return jnp.eye(edge**2).reshape(-1, edge, edge)


def difference_matrix(edge: int, kind: str = "laplacian9") -> Float[Array, "row pixel"]:
    """Matrix B of differences of a kernel that is continued by zeros; ‖B a‖² = aᵀ H a with H = Bᵀ B is its roughness.

    All differences are taken that involve a pixel of the kernel: were its border free, kernels would ring there.

    Parameters
    ----------
    edge
        Odd edge k of the kernel.
    kind
        ``"laplacian5"``, with weights (1; 1, -4, 1; 1); ``"laplacian9"``, (1, 4, 1; 4, -20, 4; 1, 4, 1) / 6, of the
        same roughness in all directions; ``"forward1"``, differences to the next pixel in y, then in x; ``"forward2"``,
        the second differences.

    Returns
    -------
    Float[Array, "row pixel"]
        The matrix, for pixels row by row.

    Raises
    ------
    ValueError
        If the edge is not odd or the kind unknown.

    Examples
    --------
    >>> difference_matrix(1, "laplacian5").reshape(3, 3).tolist()
    [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]
    """
    _check_edge(edge)
    if kind not in DIFFERENCES:
        raise ValueError(f"kind: got {kind!r}; give one of {', '.join(map(repr, DIFFERENCES))}.")
    unit = jnp.eye(edge)
    first = jnp.pad(unit, ((0, 1), (0, 0))) - jnp.pad(unit, ((1, 0), (0, 0)))
    second = sum(jnp.pad(unit, ((i, 2 - i), (0, 0))) * (1, -2, 1)[i] for i in range(3))
    if kind in ("forward1", "forward2"):
        along = first if kind == "forward1" else second
        return jnp.concatenate([jnp.kron(along, unit), jnp.kron(unit, along)])
    inside = jnp.pad(unit, ((1, 1), (0, 0)))
    laplacian = jnp.kron(second, inside) + jnp.kron(inside, second)
    return laplacian + jnp.kron(second, second) / 6 if kind == "laplacian9" else laplacian


def principal_basis(
    kernels: Float[AnyArray, "candidate k k"], n: int
) -> tuple[Float[Array, "term k k"], Float[Array, " n"]]:
    """Mean of many kernels, and the principal components of what they differ by.

    Kernels are brought to unit sum first, so that their mean has it too and the components have none; these have unit
    L2 norm, and the sign that makes their largest pixel positive.

    Parameters
    ----------
    kernels
        Kernels of the candidates, of any sum but zero.
    n
        Number of components.

    Returns
    -------
    basis : Float[Array, "term k k"]
        The mean, then the components, n + 1 functions.
    variances : Float[Array, "n"]
        Variance of the candidates along each component, in decreasing order.

    Raises
    ------
    ValueError
        If there are to be more components than candidates less one, or than pixels.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> basis, variances = principal_basis(jd.GaussianPSF([1.5, 1.6, 1.8, 2.0]).stamp(15), 2)
    >>> basis.shape, bool(variances[0] > 100 * variances[1])
    ((3, 15, 15), True)
    """
    kernels = jnp.asarray(kernels, dtype=float)
    count, k, _ = kernels.shape
    if not 0 <= n <= min(count - 1, k**2):
        raise ValueError(f"n: got {n} components of {count} kernels; give at most {min(count - 1, k**2)}.")
    unit = kernels / kernels.sum(axis=(-2, -1), keepdims=True)
    mean = unit.mean(axis=0)
    _, values, images = jnp.linalg.svd((unit - mean[None]).reshape(count, -1), full_matrices=False)
    images = images[:n] - images[:n].mean(axis=1, keepdims=True)  # rounding
    extreme = jnp.take_along_axis(images, jnp.abs(images).argmax(axis=1, keepdims=True), axis=1)
    images = images * jnp.sign(extreme) / jnp.linalg.norm(images, axis=1, keepdims=True)
    return jnp.concatenate([mean[None], images.reshape(n, k, k)]), values[:n] ** 2 / max(count - 1, 1)


def _exponents(degree: int, ordering: str) -> list[tuple[int, int]]:
    """Powers (a of u, b of v) of the terms of one Gaussian."""
    if ordering == "lsst":
        return [(total - b, b) for total in range(degree + 1) for b in range(total + 1)]
    return [(a, b) for a in range(degree + 1) for b in range(degree + 1 - a)]


def _renormalised(products: Float[Array, "term k k"], even: np.ndarray, ordering: str) -> Float[Array, "term k k"]:
    """Terms of which the first alone carries flux. What has a sum is told by parity, not by rounding."""
    first, rest, even = products[0] / products[0].sum(), products[1:], even[1:, None, None]
    rest = jnp.where(even, rest / jnp.where(even, rest.sum(axis=(-2, -1), keepdims=True), 1.0) - first[None], rest)
    norms = jnp.linalg.norm(rest, axis=(-2, -1), keepdims=True) if ordering == "lsst" else 1.0
    return jnp.concatenate([first[None], rest / norms])


def _check_edge(edge: int) -> None:
    if edge < 1 or edge % 2 == 0:
        raise ValueError(f"edge: got {edge}; give an odd number of pixels.")


def _check_gaussians(n: int | None, degrees: Sequence[int], ordering: str) -> None:
    if ordering not in ORDERINGS:
        raise ValueError(f"ordering: got {ordering!r}; give one of {', '.join(map(repr, ORDERINGS))}.")
    check_degrees(degrees, n)


# ------------------------------------------------------------------------------------------------------------- solvers


class GaussianBasis(AbstractSolver):
    """The kernel is a sum of Gaussians times polynomials: the minimum of ‖K * S - T‖² with ΣK = 1.

    The classical basis of image subtraction (see `gaussian_basis`): smooth by construction, so that nothing has to be
    regularised. The convolution is the full linear one, seen on the stamp of T. The functions are made orthonormal by
    QR before they are fitted (see `fit_joint`), so that single precision is enough.

    Parameters
    ----------
    sigmas
        σ of the Gaussians in pixels. None: from the widths of both PSFs (see `matched_widths`).
    degrees
        Largest total degree of the polynomials of each.
    ordering
        As for `gaussian_basis`; the kernel does not depend on it.

    Raises
    ------
    ValueError
        As for `gaussian_basis`.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> solver = GaussianBasis.preset(27)
    >>> matched = jd.match_psf(jd.GaussianPSF(1.5), jd.GaussianPSF(2.5), method=solver)
    >>> bool(matched.quality.l2[0] < 1e-3)
    True
    """

    sigmas: Float[AnyArray, " gauss"] | None
    degrees: tuple[int, ...] = eqx.field(static=True)
    ordering: str = eqx.field(static=True)

    def __init__(
        self,
        sigmas: Float[AnyArray, " gauss"] | Sequence[float] | None = None,
        degrees: Sequence[int] = (4, 2, 2),
        ordering: str = "lsst",
    ):
        given = None if sigmas is None else sigmas if isinstance(sigmas, jax.Array) else np.asarray(sigmas, np.float64)
        self.sigmas = given  # NumPy keeps all digits for x64
        self.degrees = tuple(degrees)
        self.ordering = ordering

    def __check_init__(self) -> None:
        _check_gaussians(None if self.sigmas is None else len(self.sigmas), self.degrees, self.ordering)
        check_widths(self.sigmas)

    @classmethod
    def preset(cls, n_terms: int) -> "GaussianBasis":
        """One of the usual sets of Gaussians.

        Parameters
        ----------
        n_terms
            27, 49 or 77, see `PRESETS`.

        Raises
        ------
        ValueError
            If there is no such set.

        Examples
        --------
        >>> GaussianBasis.preset(49).degrees
        (6, 4, 2)
        """
        if n_terms not in PRESETS:
            raise ValueError(f"n_terms: got {n_terms}; give one of {', '.join(map(str, PRESETS))}.")
        return cls(*PRESETS[n_terms])

    def solve(self, source: Float[Array, "n n"], target: Float[Array, "n n"], edge: int) -> Solution:
        """Kernel by linear least squares."""
        sigmas = self.sigmas
        if sigmas is None:
            fwhm = ImagePSF(jnp.stack([source, target])).fwhm()
            sigmas = matched_widths(fwhm[0], fwhm[1], len(self.degrees))
        basis = gaussian_basis(edge, sigmas, self.degrees, ordering=self.ordering)
        fit = fit_joint(basis, source[None], target[None], None, jnp.ones((1, 1)), kernel_sum=1.0)
        return Solution(fit.images(basis)[0].astype(source.dtype), jnp.zeros((), source.dtype))


class DeltaBasis(AbstractSolver):
    """Every pixel of the kernel is free: the minimum of ‖K * S - T‖² + λ ‖B K‖² with ΣK = 1.

    As `LeastSquares`, with a choice of differences B (see `difference_matrix`) and of rules for λ (Becker et al. 2012,
    MNRAS 425, 1341), and solved with dense matrices: for edges up to about 31, in double precision.

    Parameters
    ----------
    strength
        λ. ``"relative"``: 1e-4 tr M / tr H, with the normal matrix M and H = Bᵀ B. ``"biased"`` and ``"unbiased"``: the
        λ of the smallest estimated risk (see `linear.risk`) among σ² 10⁻¹ to σ² 10², in steps of 0.1 dex; the former
        looks only at components of the kernel that are determined with condition numbers up to 5e6. The estimates are
        as noisy as the kernel would be without regularisation: they are of use where the source is not much smoothed.
    kind
        Differences B.
    noise
        σ of the noise in each pixel, for PSFs of unit sum. None: from what the relative λ leaves. Other rules for λ do
        not need it.

    Raises
    ------
    ValueError
        If λ is not positive, or a rule or kind unknown.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> matched = jd.match_psf(jd.GaussianPSF(1.0), jd.GaussianPSF(1.5), edge=11, method=DeltaBasis("relative"))
    >>> bool(matched.quality.l2[0] < 1e-3)
    True
    """

    strength: float | str = eqx.field(static=True, default="relative")
    kind: str = eqx.field(static=True, default="laplacian9")
    noise: float | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if not (self.strength in RULES if isinstance(self.strength, str) else self.strength > 0):
            raise ValueError(
                f"strength: got {self.strength!r}; give a positive number, or one of {', '.join(map(repr, RULES))}."
            )
        if self.kind not in DIFFERENCES:
            raise ValueError(f"kind: got {self.kind!r}; give one of {', '.join(map(repr, DIFFERENCES))}.")
        if self.noise is not None and not self.noise > 0:
            raise ValueError(f"noise: got {self.noise}; give a positive number, or None.")

    def solve(self, source: Float[Array, "n n"], target: Float[Array, "n n"], edge: int) -> Solution:
        """Kernel by Cholesky factorisation."""
        matrix, vector = _delta_normal(source, target, edge)
        differences = difference_matrix(edge, self.kind).astype(source.dtype)
        penalty = differences.T @ differences
        strength = self._strength(matrix, vector, penalty, source, target)
        factor = jax.scipy.linalg.cho_factor(matrix + strength * penalty)
        free, constant = (jax.scipy.linalg.cho_solve(factor, right) for right in (vector, jnp.ones_like(vector)))
        kernel = free + constant * (1 - free.sum()) / constant.sum()
        return Solution(kernel.reshape(edge, edge), strength)

    def _strength(self, matrix: Array, vector: Array, penalty: Array, source: Array, target: Array) -> Float[Array, ""]:
        """The λ that is given, or found."""
        if not isinstance(self.strength, str):
            return jnp.asarray(self.strength, matrix.dtype)
        relative = RELATIVE_STRENGTH * jnp.trace(matrix) / jnp.trace(penalty)
        if self.strength == "relative":
            return relative
        n_pixels = (source.shape[-1] + math.isqrt(len(vector)) - 1) ** 2
        left = _residual_variance(matrix, vector, penalty, relative, jnp.vdot(target, target), n_pixels)
        variance = left if self.noise is None else jnp.asarray(self.noise**2, matrix.dtype)
        strengths = variance * jnp.asarray(RISK_STRENGTHS, matrix.dtype)
        condition = MAX_CONDITION if self.strength == "biased" else math.inf
        risks = risk(matrix, vector, penalty, strengths, variance, condition)
        return jax.lax.stop_gradient(strengths[jnp.argmin(risks)])


def _residual_variance(
    matrix: Array, vector: Array, penalty: Array, strength: Array, power: Array, n_pixels: int
) -> Float[Array, ""]:
    """Variance of the noise: ‖K * S - T‖² over the number of pixels less that of parameters that a fit determines."""
    factor = jax.scipy.linalg.cho_factor(matrix + strength * penalty)
    found = jax.scipy.linalg.cho_solve(factor, vector)
    left = power - 2 * jnp.vdot(found, vector) + jnp.vdot(found, matrix @ found)
    determined = jnp.trace(jax.scipy.linalg.cho_solve(factor, matrix))
    rounding = float(jnp.finfo(matrix.dtype).eps) * power
    return jnp.maximum(left, rounding) / jnp.maximum(n_pixels - determined, 1.0)


def _delta_normal(
    source: Float[Array, "n n"], target: Float[Array, "n n"], edge: int
) -> tuple[Float[Array, "pixel pixel"], Float[Array, " pixel"]]:
    """Normal matrix (S ⋆ S)(p - q) and right-hand side (S ⋆ T)(p) of the full convolution, for all pixels p, q."""
    size = fft.good_size(source.shape[-1] + edge)
    spectrum, aim = (fft.kernel_transform(psf, (size, size), (size, size)) for psf in (source, target))
    products = jnp.fft.irfft2(jnp.stack([spectrum, aim]) * jnp.conj(spectrum)[None], s=(size, size))
    pixel = np.arange(edge) - edge // 2
    apart = pixel[:, None] - pixel[None, :]
    matrix = products[0][apart[:, None, :, None], apart[None, :, None, :]].reshape(edge**2, edge**2)
    return matrix, products[1][pixel[:, None], pixel[None, :]].reshape(-1)
