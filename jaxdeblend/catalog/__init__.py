"""Catalogs: from an exposure to a table of its sources."""

from .compare import compare_with_truth as compare_with_truth
from .compare import match_positions as match_positions
from .config import DeblendConfig as DeblendConfig
from .parents import Parent as Parent
from .parents import find_parents as find_parents
from .pipeline import CatalogResult as CatalogResult
from .pipeline import StoredCatalog as StoredCatalog
from .pipeline import deblend_catalog as deblend_catalog
from .records import stored_tables as stored_tables
from .single_band import SingleBandCatalog as SingleBandCatalog
from .single_band import deblend_single_band_exposure as deblend_single_band_exposure
from .store import STORED_CLASSES as STORED_CLASSES
from .store import LsstBlend as LsstBlend
from .store import LsstModels as LsstModels
from .store import ModelStore as ModelStore
from .store import StoredBlend as StoredBlend
from .store import StoreHeader as StoreHeader
from .store import StoreWriter as StoreWriter
from .store import merge_stores as merge_stores
from .store import read_lsst_models as read_lsst_models
from .store import store_from_fits as store_from_fits
from .store import store_to_fits as store_to_fits
