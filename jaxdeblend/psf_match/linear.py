"""Kernels that are sums of given functions, fitted to pairs of stamps, many at once and varying with position.

All speak of true convolution, (K * S)(p) = Σ_q K(q) S(p - q), with the kernel's centre on its middle pixel.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from ..ops import fft
from ..runtime.host import AnyArray

REGIONS = ("full", "valid")
"""Pixels of the stamps that count: all, or those whose convolution needs nothing from outside."""

SMALLEST_EIGENVALUE = 1e-12
"""Of the normal matrix, relative to the largest; directions below it are left out of a solution."""


class JointFit(eqx.Module):
    """Kernels K(q; p) = Σ_ij a_ij P_j(p) B_i(q) and a background Σ_l b_l P_l(p).

    Attributes
    ----------
    coefficients
        a_ij, for each function B_i and each term P_j of position. Those of B_0 are zero but for the first.
    background
        b_l, none if no background was fitted.
    condition
        Condition number of the normal matrix that was solved: its unknowns belong to functions that are orthonormal
        on the mean candidate and its columns are scaled, so that it tells of positions and weights and not of the
        functions. Infinite if some unknowns are not determined.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> fit = JointFit(jnp.ones((2, 1)), jnp.zeros(0), jnp.ones(()))
    >>> fit.images(jnp.ones((2, 3, 3))).shape
    (1, 3, 3)
    """

    coefficients: Float[Array, "term p"]
    background: Float[Array, " q"]
    condition: Float[Array, ""]

    def images(self, basis: Float[AnyArray, "term k k"]) -> Float[Array, "p k k"]:
        """C_j = Σ_i a_ij B_i, with K(q; p) = Σ_j P_j(p) C_j(q), as `SpatialKernel` takes them."""
        return jnp.einsum("tp,tyx->pyx", self.coefficients, jnp.asarray(basis, self.coefficients.dtype))

    def kernels(
        self, basis: Float[AnyArray, "term k k"], kernel_terms: Float[AnyArray, "candidate p"]
    ) -> Float[Array, "candidate k k"]:
        """Kernels where the terms of position have these values."""
        return jnp.einsum("cp,pyx->cyx", jnp.asarray(kernel_terms, self.coefficients.dtype), self.images(basis))


class SingleFits(eqx.Module):
    """Kernels K = Σ_i a_i B_i, each fitted to one candidate alone.

    Attributes
    ----------
    coefficients
        a_i. If only B_0 carries flux, a_0 is the kernel's sum.
    background
        Constant background, zero if none was fitted.
    condition
        As for `JointFit`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> SingleFits(jnp.ones((5, 2)), jnp.zeros(5), jnp.ones(5)).kernels(jnp.ones((2, 3, 3))).shape
    (5, 3, 3)
    """

    coefficients: Float[Array, "candidate term"]
    background: Float[Array, " candidate"]
    condition: Float[Array, " candidate"]

    def kernels(self, basis: Float[AnyArray, "term k k"]) -> Float[Array, "candidate k k"]:
        """Kernel of each candidate."""
        return jnp.einsum("ct,tyx->cyx", self.coefficients, jnp.asarray(basis, self.coefficients.dtype))


class Residuals(eqx.Module):
    """What kernels leave of each candidate, over its usable pixels, in units of the noise: r = (K * S + b - T) √w.

    Attributes
    ----------
    mean
        Mean of r.
    rms
        √ of the mean of r².

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> stars = jnp.ones((4, 9, 9))
    >>> residuals(jnp.ones((4, 1, 1)), stars, stars, region="valid").rms.shape
    (4,)
    """

    mean: Float[Array, " candidate"]
    rms: Float[Array, " candidate"]


def fit_joint(
    basis: Float[AnyArray, "term k k"],
    source: Float[AnyArray, "candidate n n"],
    target: Float[AnyArray, "candidate n n"],
    weights: Float[AnyArray, "candidate n n"] | None,
    kernel_terms: Float[AnyArray, "candidate p"],
    background_terms: Float[AnyArray, "candidate q"] | None = None,
    *,
    region: str = "full",
    kernel_sum: Float[AnyArray, ""] | float | None = None,
) -> JointFit:
    """Fit one kernel that varies with position to many pairs of stamps.

    Minimises Σ_c Σ_p w_c(p) [T_c(p) - Σ_ij a_ij P_j(c) (B_i * S_c)(p) - Σ_l b_l P_l(c)]², where B_0 does not vary with
    position: a_0j = 0 for j > 0 (Alard 2000, A&AS 144, 363). If B_0 alone carries flux (see `gaussian_basis`), the sum
    of the kernel is a_00 everywhere. The background of a stamp is the constant that it has at its centre.

    Every candidate adds to the normal equations by itself, and what is kept of it are products of pairs of functions:
    nothing of the size of pixels times unknowns is ever made. Normal equations square condition numbers, so the
    functions are first made orthonormal, by QR and SVD, on a source that has the mean power spectrum of all; the
    coefficients are then taken back. What remains singular (to 1e-12, or the precision of the arrays) is left out.

    A pure function, computed in JAX's default precision: call it under `jax.enable_x64`.

    Parameters
    ----------
    basis
        Functions B_i, of odd edge k.
    source, target
        Stamps of odd edge n: S of what is convolved, T of what it shall become. S must be finite everywhere, T where
        its weight is positive.
    weights
        Inverse variances w, 0 for unusable pixels. None: 1.
    kernel_terms
        Values P_j of the terms of position at each candidate, the first of them 1.
    background_terms
        The same for the background. None: no background.
    region
        Pixels that count. ``"full"``: all of the stamp; S is zero outside of it, as PSFs are. ``"valid"``: those whose
        neighbourhood of k pixels lies inside of the stamp, n - k + 1 each way, for cut-outs of images.
    kernel_sum
        Fixed coefficient of B_0. None: it is fitted.

    Returns
    -------
    JointFit
        Coefficients for the functions as given, background, and condition number.

    Raises
    ------
    ValueError
        If the region is unknown, an edge even, or the kernel too large for it.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> basis = jd.GaussianPSF([1.0, 2.0]).stamp(15)
    >>> basis = jnp.stack([basis[0], basis[1] - basis[0]])
    >>> narrow, wide = (jd.GaussianPSF([sigma] * 4).stamp(21) for sigma in (1.5, 2.5))
    >>> fit = fit_joint(basis, narrow, wide, None, jnp.ones((4, 1)))
    >>> fit.coefficients.round(1).tolist()
    [[1.0], [1.0]]
    """
    _check_region(region, basis.shape[-1], source.shape[-1])
    nothing = jnp.zeros((source.shape[0], 0))
    return _fit_joint(
        jnp.asarray(basis, dtype=float),
        jnp.asarray(source, dtype=float),
        jnp.asarray(target, dtype=float),
        jnp.ones(source.shape) if weights is None else jnp.asarray(weights, dtype=float),
        jnp.asarray(kernel_terms, dtype=float),
        nothing if background_terms is None else jnp.asarray(background_terms, dtype=float),
        None if kernel_sum is None else jnp.asarray(kernel_sum, dtype=float),
        region=region,
    )


def fit_single(
    basis: Float[AnyArray, "term k k"],
    source: Float[AnyArray, "candidate n n"],
    target: Float[AnyArray, "candidate n n"],
    weights: Float[AnyArray, "candidate n n"] | None = None,
    *,
    background: bool = False,
    region: str = "full",
    kernel_sum: Float[AnyArray, ""] | float | None = None,
) -> SingleFits:
    """Fit a kernel to each pair of stamps alone, to tell which candidates are like the others.

    Parameters
    ----------
    basis, source, target, weights, region, kernel_sum
        As for `fit_joint`.
    background
        Whether a constant background is fitted too.

    Returns
    -------
    SingleFits
        Coefficients, background and condition number of every candidate.

    Raises
    ------
    ValueError
        As for `fit_joint`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> stars = jd.GaussianPSF([1.5, 2.0]).stamp(21)
    >>> fits = fit_single(jnp.ones((1, 1, 1)), stars, 3 * stars)
    >>> bool(jnp.allclose(fits.coefficients, 3.0))
    True
    """
    _check_region(region, basis.shape[-1], source.shape[-1])
    basis, source, target = (jnp.asarray(array, dtype=float) for array in (basis, source, target))
    weights = jnp.ones_like(source) if weights is None else jnp.asarray(weights, dtype=float)
    terms = jnp.ones((1, 1))

    def one(stamps: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        source, target, weights = (stamp[None] for stamp in stamps)
        constant = terms if background else None
        fit = fit_joint(basis, source, target, weights, terms, constant, region=region, kernel_sum=kernel_sum)
        return fit.coefficients[:, 0], fit.background.sum(), fit.condition

    return SingleFits(*jax.lax.map(one, (source, target, weights)))


@eqx.filter_jit
def residuals(
    kernels: Float[AnyArray, "candidate k k"],
    source: Float[AnyArray, "candidate n n"],
    target: Float[AnyArray, "candidate n n"],
    weights: Float[AnyArray, "candidate n n"] | None = None,
    background: Float[AnyArray, " candidate"] | None = None,
    *,
    region: str = "full",
) -> Residuals:
    """Mean and rms of what kernels leave, candidate by candidate.

    Parameters
    ----------
    kernels
        Kernel K at each candidate, as from `JointFit.kernels`.
    source, target, weights, region
        As for `fit_joint`; without weights the noise is taken to be 1.
    background
        Background b of each stamp. None: none.

    Returns
    -------
    Residuals
        The figures, zero for a candidate without a usable pixel.

    Raises
    ------
    ValueError
        As for `fit_joint`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> stars = jd.GaussianPSF([1.5, 2.0]).stamp(21)
    >>> residuals(jnp.ones((2, 1, 1)), stars, stars + 2.0, jnp.full((2, 21, 21), 0.25)).mean.round(3).tolist()
    [-1.0, -1.0]
    """
    _check_region(region, kernels.shape[-1], source.shape[-1])
    kernels, source, target = (jnp.asarray(array, dtype=float) for array in (kernels, source, target))
    weights = jnp.ones_like(source) if weights is None else jnp.asarray(weights, dtype=float)
    level = jnp.zeros(source.shape[0]) if background is None else jnp.asarray(background, dtype=float)

    def one(stamps: tuple[Array, Array, Array, Array, Array]) -> tuple[Array, Array]:
        kernel, source, target, weights, level = stamps
        size = _fft_size(kernel.shape[-1], source.shape[-1], region)
        model = _convolved(jnp.fft.rfft2(kernel[None], s=(size, size)), source, kernel.shape[-1], region)[0]
        target, weights = _seen(target, weights, kernel.shape[-1], region)
        usable = jnp.maximum((weights > 0).sum(), 1).astype(target.dtype)
        scaled = jnp.sqrt(weights) * (model + level - target)
        return scaled.sum() / usable, jnp.sqrt((scaled**2).sum() / usable)

    return Residuals(*jax.lax.map(one, (kernels, source, target, weights, level)))


def risk(
    matrix: Float[Array, "n n"],
    vector: Float[Array, " n"],
    penalty: Float[Array, "n n"],
    strengths: Float[Array, " strength"],
    variance: Float[Array, ""],
    max_condition: float = math.inf,
) -> Float[Array, " strength"]:
    """Estimated squared error of the coefficients a = (M + λH)⁻¹ b of a regularised fit, less a constant.

    E‖Vᵀ(a - a_true)‖² = aᵀ V Vᵀ a + 2 [σ² tr(V Vᵀ (M + λH)⁻¹) - aᵀ M⁺ b] + constant (Stein 1981, Ann. Stat. 9, 1135;
    Becker et al. 2012, MNRAS 425, 1341), for noise of variance σ² in each pixel. V are the eigenvectors of M with
    eigenvalues above the largest over `max_condition`, and M⁺ the pseudo-inverse made of them.

    Parameters
    ----------
    matrix
        Normal matrix M, of unweighted data.
    vector
        Right-hand side b.
    penalty
        H.
    strengths
        λ to try.
    variance
        σ².
    max_condition
        Largest condition number; infinite: what the precision of the arrays allows.

    Returns
    -------
    Float[Array, "strength"]
        Risk of each λ.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> risks = risk(jnp.eye(2), jnp.ones(2), jnp.eye(2), jnp.array([0.1, 1.0]), jnp.array(0.01))
    >>> bool(risks[0] < risks[1])
    True
    """
    values, vectors = jnp.linalg.eigh(matrix)
    cut = max(1 / max_condition, len(vector) * float(jnp.finfo(matrix.dtype).eps))
    known = values > cut * values[-1]
    kept = jnp.where(known[None, :], vectors, 0.0)
    unregularised = kept @ ((kept.T @ vector) / jnp.where(known, values, 1.0))

    def one(strength: Array) -> Array:
        factor = jax.scipy.linalg.cho_factor(matrix + strength * penalty)
        found = jax.scipy.linalg.cho_solve(factor, vector)
        trace = jnp.vdot(kept, jax.scipy.linalg.cho_solve(factor, kept))
        return jnp.sum((kept.T @ found) ** 2) + 2 * (variance * trace - jnp.vdot(found, unregularised))

    return jax.lax.map(one, strengths)


# ---------------------------------------------------------------------------------------------------- normal equations


@eqx.filter_jit
def _fit_joint(
    basis: Float[Array, "term k k"],
    source: Float[Array, "candidate n n"],
    target: Float[Array, "candidate n n"],
    weights: Float[Array, "candidate n n"],
    kernel_terms: Float[Array, "candidate p"],
    background_terms: Float[Array, "candidate q"],
    kernel_sum: Float[Array, ""] | None,
    *,
    region: str,
) -> JointFit:
    """Sum up the normal equations of all candidates, and solve them."""
    whitening = jax.lax.stop_gradient(_whitening(basis, source))  # the solution does not depend on it
    white = jnp.concatenate([basis[:1], jnp.tensordot(whitening, basis[1:], 1)])
    size = _fft_size(basis.shape[-1], source.shape[-1], region)
    transforms = jnp.fft.rfft2(white, s=(size, size))
    constant = 1 if kernel_sum is None else 0
    n_white, n_terms, n_background = len(whitening), kernel_terms.shape[1], background_terms.shape[1]
    n_unknowns = constant + n_white * n_terms + n_background

    def add(total: tuple[Array, Array], candidate: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        source, target, weights, of_kernel, of_background = candidate
        columns = _convolved(transforms, source, basis.shape[-1], region)
        target, weights = _seen(target, weights, basis.shape[-1], region)
        if kernel_sum is not None:
            target, columns = target - kernel_sum * columns[0], columns[1:]
        columns = jnp.concatenate([columns, jnp.ones_like(target)[None]]).reshape(-1, target.size)
        weighted = columns * weights.reshape(1, -1)
        matrix = jnp.matmul(weighted, columns.T, precision=jax.lax.Precision.HIGHEST)
        vector = jnp.matmul(weighted, target.reshape(-1, 1), precision=jax.lax.Precision.HIGHEST)
        spread = (_spread(rows, constant, of_kernel, of_background) for rows in (matrix, vector))
        half, right = spread
        return (total[0] + _spread(half.T, constant, of_kernel, of_background), total[1] + right[:, 0]), None

    nothing = jnp.zeros((n_unknowns, n_unknowns)), jnp.zeros(n_unknowns)
    candidates = (source, target, weights, kernel_terms, background_terms)
    (matrix, vector), _ = jax.lax.scan(add, nothing, candidates)
    solution, condition = _solved(matrix, vector)
    of_white = solution[constant : constant + n_white * n_terms].reshape(n_white, n_terms)
    first = jnp.zeros((1, n_terms)).at[0, 0].set(solution[0] if kernel_sum is None else kernel_sum)
    coefficients = jnp.concatenate([first, whitening.T @ of_white])
    return JointFit(coefficients, solution[constant + n_white * n_terms :], condition)


def _spread(
    rows: Float[Array, "column other"], constant: int, of_kernel: Float[Array, " p"], of_background: Float[Array, " q"]
) -> Float[Array, "unknown other"]:
    """From rows for B_0 (if it is unknown), the other functions and the background, to those for all unknowns."""
    functions = rows[constant:-1, None, :] * of_kernel[None, :, None]
    background = rows[-1:] * of_background[:, None]
    return jnp.concatenate([rows[:constant], functions.reshape(-1, rows.shape[1]), background])


def _whitening(basis: Float[Array, "term k k"], source: Float[Array, "candidate n n"]) -> Float[Array, "white rest"]:
    """Combinations of all functions but the first that are orthonormal on the mean candidate.

    The mean of the Gram matrices over candidates is that of a source with the mean power spectrum. Taken from QR of the
    convolved functions, not from that matrix, as half of the digits would be lost.
    """
    rest = basis[1:]
    if rest.shape[0] == 0:
        return jnp.zeros((0, 0))
    size = fft.good_size(source.shape[-1] + basis.shape[-1] - 1)
    amplitude = jnp.sqrt(jnp.mean(jnp.abs(jnp.fft.rfft2(source, s=(size, size))) ** 2, axis=0))
    spectra = jnp.fft.rfft2(rest, s=(size, size))
    seen = spectra * amplitude[None].astype(spectra.dtype)
    columns = jnp.fft.irfft2(seen, s=(size, size)).reshape(rest.shape[0], -1).T
    scale = _inverse(jnp.linalg.norm(columns, axis=0), 0.0)
    triangle = jnp.linalg.qr(columns * scale[None, :], mode="r")
    _, values, directions = jnp.linalg.svd(triangle)
    smallest = rest.shape[0] * float(jnp.finfo(basis.dtype).eps) * values[0]
    return _inverse(values, smallest)[:, None] * directions * scale[None, :]


def _solved(matrix: Float[Array, "n n"], vector: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Least-norm solution with scaled columns, and the condition number."""
    scale = _inverse(jnp.sqrt(jnp.diagonal(matrix)), 0.0)
    scaled = matrix * scale[:, None] * scale[None, :]
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(scaled))
    largest, smallest = values[-1], values[0]
    cut = max(SMALLEST_EIGENVALUE, len(vector) * float(jnp.finfo(matrix.dtype).eps))
    inverse = _inverse(values, cut * largest)

    def solve(_: object, right: Array) -> Array:
        x = vectors @ (inverse * (vectors.T @ right))
        return x + vectors @ (inverse * (vectors.T @ (right - scaled @ x)))  # less rounding

    # The derivative of a linear system is another one; that of its eigenvectors need not exist.
    solution = jax.lax.custom_linear_solve(lambda x: scaled @ x, scale * vector, solve, symmetric=True)
    condition = jnp.where(smallest > cut * largest, largest / jnp.where(smallest > 0, smallest, 1.0), jnp.inf)
    return scale * solution, condition


def _inverse(values: Float[Array, "*shape"], smallest: Float[Array, ""] | float) -> Float[Array, "*shape"]:
    """1 / values, 0 for those that are not above the smallest."""
    used = values > smallest
    return jnp.where(used, 1 / jnp.where(used, values, 1.0), 0.0)


# -------------------------------------------------------------------------------------------------------------- pixels


def _fft_size(edge: int, size: int, region: str) -> int:
    """FFT edge that is wrap-safe: what wraps around falls on pixels that are cut away."""
    return fft.good_size(size + edge // 2 if region == "full" else size)


def _convolved(
    transforms: Complex[Array, "term ky kx"], source: Float[Array, "n n"], edge: int, region: str
) -> Float[Array, "term m m"]:
    """Convolutions with functions on the pixels of a region; transforms have the functions' corner at the origin."""
    size, n = _fft_size(edge, source.shape[-1], region), source.shape[-1]
    spectrum = jnp.fft.rfft2(source, s=(size, size))
    images = jnp.fft.irfft2(transforms * spectrum[None], s=(size, size))
    first, last = (edge // 2, edge // 2 + n) if region == "full" else (edge - 1, n)
    return images[:, first:last, first:last]


def _seen(
    target: Float[Array, "n n"], weights: Float[Array, "n n"], edge: int, region: str
) -> tuple[Float[Array, "m m"], Float[Array, "m m"]]:
    """Target and weights on the pixels of a region; the target is 0 where its weight is."""
    margin, n = (0 if region == "full" else edge // 2), target.shape[-1]
    part = slice(margin, n - margin)
    return jnp.where(weights > 0, target, 0.0)[part, part], weights[part, part]


def _check_region(region: str, edge: int, size: int) -> None:
    if region not in REGIONS:
        raise ValueError(f"region: got {region!r}; give one of {', '.join(map(repr, REGIONS))}.")
    if edge % 2 == 0:
        raise ValueError(f"basis: got kernels of even edge {edge}; give an odd one, with the centre on a pixel.")
    if size % 2 == 0:
        raise ValueError(f"source: got stamps of even edge {size}; give an odd one, with the centre on a pixel.")
    if region == "valid" and edge > size:
        raise ValueError(f"basis: kernels of edge {edge} are larger than the stamps of {size}; no pixel is left.")
