"""Models in files: written as they are fitted, gone on with after an interruption, read in part."""

from .fits import store_from_fits as store_from_fits
from .fits import store_to_fits as store_to_fits
from .kinds import STORED_CLASSES as STORED_CLASSES
from .kinds import component_type as component_type
from .kinds import source_types as source_types
from .layout import StoreHeader as StoreHeader
from .lsst_models import LsstBlend as LsstBlend
from .lsst_models import LsstModels as LsstModels
from .lsst_models import read_lsst_models as read_lsst_models
from .merge import partial_folder as partial_folder
from .reader import ModelStore as ModelStore
from .reader import merge_stores as merge_stores
from .record import MEASURED as MEASURED
from .record import StoredBlend as StoredBlend
from .writer import StoreWriter as StoreWriter
