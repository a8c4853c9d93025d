"""One PSF into another: difference kernels."""

from .match import MatchedKernels as MatchedKernels
from .match import match_psf as match_psf
from .quality import KernelQuality as KernelQuality
from .quality import kernel_quality as kernel_quality
