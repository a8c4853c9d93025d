"""Where the sources are: peaks and footprints."""

from .bands import BandDetection as BandDetection
from .bands import detect_bands as detect_bands
from .chi2 import SignificanceMaps as SignificanceMaps
from .chi2 import significance as significance
from .chi2 import significance_maps as significance_maps
from .detection import detect as detect
from .footprints import Footprint as Footprint
from .hierarchy import sub_blends as sub_blends
from .labels import detection_of_labels as detection_of_labels
from .merge import Culling as Culling
from .merge import MergeOptions as MergeOptions
from .merge import merge_bands as merge_bands
from .multiscale import detect_scales as detect_scales
from .multiscale import wavelet_maps as wavelet_maps
from .result import Detection as Detection
from .sources import PeakLimits as PeakLimits
from .split import Piece as Piece
from .split import light_extent as light_extent
from .split import split_parent as split_parent
