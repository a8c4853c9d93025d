"""Where the sources are: peaks and footprints."""

from .chi2 import SignificanceMaps as SignificanceMaps
from .chi2 import significance as significance
from .chi2 import significance_maps as significance_maps
from .detection import Detection as Detection
from .detection import detect as detect
from .footprints import Footprint as Footprint
