"""Pictures: colour images, and figures of what was seen, fitted and left."""

from .figures import deblend_figure as deblend_figure
from .figures import loss_figure as loss_figure
from .figures import sources_figure as sources_figure
from .norms import AsinhNorm as AsinhNorm
from .norms import asinh_norm as asinh_norm
from .rgb import channel_weights as channel_weights
from .rgb import rgb as rgb
