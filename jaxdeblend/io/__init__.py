"""Files: exposures, PSFs, tables and models, on the host."""

from .description import ExposureDescription as ExposureDescription
from .description import read_description as read_description
from .description import write_described as write_described
from .exposure import Exposure as Exposure
from .exposure_files import open_exposure as open_exposure
from .exposure_files import read_exposure as read_exposure
from .exposure_writing import write_exposure as write_exposure
from .files import PathLike as PathLike
from .files import atomic_path as atomic_path
from .files import paths_of_bands as paths_of_bands
from .files import staged_folder as staged_folder
from .lazy import LazyExposure as LazyExposure
from .masks import DEFAULT_BAD_PLANES as DEFAULT_BAD_PLANES
from .models import ModelFile as ModelFile
from .models import SourceModel as SourceModel
from .models import read_models as read_models
from .models import write_models as write_models
from .nddata import exposure_from_nddata as exposure_from_nddata
from .planes import FilePlanes as FilePlanes
from .planes import Plane as Plane
from .planes import read_planes as read_planes
from .psf_files import read_psf as read_psf
from .psf_files import read_psf_field as read_psf_field
from .psf_files import write_psf_field as write_psf_field
from .tables import read_positions as read_positions
from .tables import write_catalog as write_catalog
