"""Catalogs: from an exposure to a table of its sources."""

from .compare import compare_with_truth as compare_with_truth
from .compare import match_positions as match_positions
from .parents import Parent as Parent
from .parents import find_parents as find_parents
from .pipeline import CatalogResult as CatalogResult
from .pipeline import deblend_catalog as deblend_catalog
from .single_band import SingleBandCatalog as SingleBandCatalog
from .single_band import deblend_single_band_exposure as deblend_single_band_exposure
