"""Pictures: colour images, and figures of what was seen, fitted and left."""

from .figures import deblend_figure as deblend_figure
from .figures import loss_figure as loss_figure
from .figures import sources_figure as sources_figure
from .norms import AsinhNorm as AsinhNorm
from .norms import asinh_norm as asinh_norm
from .psf_figures import basis_figure as basis_figure
from .psf_figures import candidates_figure as candidates_figure
from .psf_figures import coefficients_figure as coefficients_figure
from .psf_figures import encircled_energy_figure as encircled_energy_figure
from .psf_figures import kernel_mosaic_figure as kernel_mosaic_figure
from .psf_figures import psf_match_figure as psf_match_figure
from .rgb import channel_weights as channel_weights
from .rgb import rgb as rgb
from .single_band_figures import single_band_figure as single_band_figure
