"""The single-band deblender: templates from symmetry, and the image divided in proportion to them."""

from .config import SingleBandConfig as SingleBandConfig
from .deblend import deblend_single_band as deblend_single_band
from .deblend import deblend_single_band_batch as deblend_single_band_batch
from .flags import SingleBandFlag as SingleBandFlag
from .handover import initialize_from_templates as initialize_from_templates
from .handover import one_band as one_band
from .result import SingleBandResult as SingleBandResult
