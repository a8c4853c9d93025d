"""One PSF into another: difference kernels."""

from .match import MatchedKernels as MatchedKernels
from .match import match_psf as match_psf
from .quality import KernelQuality as KernelQuality
from .quality import kernel_quality as kernel_quality
from .solvers import AbstractSolver as AbstractSolver
from .solvers import Fourier as Fourier
from .solvers import LeastSquares as LeastSquares
from .solvers import Solution as Solution
