"""jaxdeblend: separate overlapping stars and galaxies in multi-band images, with JAX."""

import importlib
from typing import TYPE_CHECKING

from ._version import __version__ as __version__

_NAMES = {
    "batch": ("Deblended", "deblend", "deblend_batch", "deblend_stream"),
    "catalog": (
        "CatalogResult",
        "Cutout",
        "DeblendConfig",
        "ModelStore",
        "ParentFootprints",
        "SingleBandCatalog",
        "SourceFootprint",
        "StoredBlend",
        "StoredCatalog",
        "StoreHeader",
        "StoreWriter",
        "cutout",
        "deblend_catalog",
        "deblend_single_band_exposure",
        "mask_not_deblended",
        "merge_stores",
        "overlap_metrics",
        "read_lsst_models",
        "render_image",
        "residual_image",
        "restart_catalog",
        "store_from_fits",
        "store_to_fits",
        "update_footprints",
    ),
    "detection": ("Detection", "Footprint", "detect"),
    "fitting": (
        "RESULTS",
        "FitResult",
        "Initialization",
        "ProximalAdam",
        "add_sources",
        "fit",
        "initialize",
        "log_likelihood",
        "log_posterior",
        "render",
        "render_sources",
    ),
    "instrument.box": ("Box",),
    "instrument.kernel": ("DifferenceKernel",),
    "instrument.observation": ("Observation",),
    "instrument.psf": ("AbstractPSF", "DoubleGaussianPSF", "GaussianPSF", "ImagePSF", "MoffatPSF"),
    "instrument.psf_field": (
        "AbstractPSFField",
        "ConstantPSFField",
        "FunctionPSFField",
        "GridPSFField",
        "PolynomialPSFField",
        "ShiftedPSFField",
    ),
    "io": (
        "Exposure",
        "ExposureDescription",
        "LazyExposure",
        "exposure_from_nddata",
        "open_exposure",
        "read_description",
        "read_exposure",
        "read_models",
        "read_positions",
        "read_psf",
        "read_psf_field",
        "write_catalog",
        "write_described",
        "write_exposure",
        "write_mask",
        "write_models",
        "write_psf_field",
    ),
    "measurement": ("Apportioned", "Flag", "apportion_flux", "measure"),
    "model.blend": ("Blend",),
    "model.component": ("AbstractComponent", "CubeComponent", "FactorizedComponent"),
    "model.constraint": (
        "AbstractConstraint",
        "CenterKept",
        "Connected",
        "Monotonic",
        "Normalized",
        "Positive",
        "SparseThreshold",
        "Symmetric",
        "WeightedMonotonic",
    ),
    "model.morphology": ("AbstractMorphology", "ImageMorphology", "PointMorphology"),
    "model.prior": ("AbstractPrior", "CenterPrior", "SymmetricPrior"),
    "model.source": ("ExtendedSource", "PointSource", "Source"),
    "model.spectrum": ("AbstractSpectrum", "FreeSpectrum"),
    "psf_match": (
        "AbstractSolver",
        "DeltaBasis",
        "Fourier",
        "GaussianBasis",
        "ImageMatchConfig",
        "KernelQuality",
        "LeastSquares",
        "MatchConfig",
        "MatchedExposure",
        "MatchedImages",
        "MatchedKernels",
        "MatchedPSFField",
        "Sparse",
        "SpatialKernel",
        "coadd_target",
        "fit_profile",
        "fit_target_psf",
        "match_exposure",
        "match_images",
        "match_psf",
    ),
    "single_band": (
        "SingleBandConfig",
        "SingleBandFlag",
        "SingleBandResult",
        "deblend_single_band",
        "deblend_single_band_batch",
        "initialize_from_templates",
        "one_band",
    ),
}
"""Public names of each module; the module is loaded when one of them is first used."""

_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
_ROOMS = {module.partition(".")[0] for module in _NAMES}

__all__ = ["__version__", *_MODULE_OF]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # the names of the table, for editors and type checkers
    from .batch import Deblended as Deblended
    from .batch import deblend as deblend
    from .batch import deblend_batch as deblend_batch
    from .batch import deblend_stream as deblend_stream
    from .catalog import CatalogResult as CatalogResult
    from .catalog import Cutout as Cutout
    from .catalog import DeblendConfig as DeblendConfig
    from .catalog import ModelStore as ModelStore
    from .catalog import ParentFootprints as ParentFootprints
    from .catalog import SingleBandCatalog as SingleBandCatalog
    from .catalog import SourceFootprint as SourceFootprint
    from .catalog import StoredBlend as StoredBlend
    from .catalog import StoredCatalog as StoredCatalog
    from .catalog import StoreHeader as StoreHeader
    from .catalog import StoreWriter as StoreWriter
    from .catalog import cutout as cutout
    from .catalog import deblend_catalog as deblend_catalog
    from .catalog import deblend_single_band_exposure as deblend_single_band_exposure
    from .catalog import mask_not_deblended as mask_not_deblended
    from .catalog import merge_stores as merge_stores
    from .catalog import overlap_metrics as overlap_metrics
    from .catalog import read_lsst_models as read_lsst_models
    from .catalog import render_image as render_image
    from .catalog import residual_image as residual_image
    from .catalog import restart_catalog as restart_catalog
    from .catalog import store_from_fits as store_from_fits
    from .catalog import store_to_fits as store_to_fits
    from .catalog import update_footprints as update_footprints
    from .detection import Detection as Detection
    from .detection import Footprint as Footprint
    from .detection import detect as detect
    from .fitting import RESULTS as RESULTS
    from .fitting import FitResult as FitResult
    from .fitting import Initialization as Initialization
    from .fitting import ProximalAdam as ProximalAdam
    from .fitting import add_sources as add_sources
    from .fitting import fit as fit
    from .fitting import initialize as initialize
    from .fitting import log_likelihood as log_likelihood
    from .fitting import log_posterior as log_posterior
    from .fitting import render as render
    from .fitting import render_sources as render_sources
    from .instrument.box import Box as Box
    from .instrument.kernel import DifferenceKernel as DifferenceKernel
    from .instrument.observation import Observation as Observation
    from .instrument.psf import AbstractPSF as AbstractPSF
    from .instrument.psf import DoubleGaussianPSF as DoubleGaussianPSF
    from .instrument.psf import GaussianPSF as GaussianPSF
    from .instrument.psf import ImagePSF as ImagePSF
    from .instrument.psf import MoffatPSF as MoffatPSF
    from .instrument.psf_field import AbstractPSFField as AbstractPSFField
    from .instrument.psf_field import ConstantPSFField as ConstantPSFField
    from .instrument.psf_field import FunctionPSFField as FunctionPSFField
    from .instrument.psf_field import GridPSFField as GridPSFField
    from .instrument.psf_field import PolynomialPSFField as PolynomialPSFField
    from .instrument.psf_field import ShiftedPSFField as ShiftedPSFField
    from .io import Exposure as Exposure
    from .io import ExposureDescription as ExposureDescription
    from .io import LazyExposure as LazyExposure
    from .io import exposure_from_nddata as exposure_from_nddata
    from .io import open_exposure as open_exposure
    from .io import read_description as read_description
    from .io import read_exposure as read_exposure
    from .io import read_models as read_models
    from .io import read_positions as read_positions
    from .io import read_psf as read_psf
    from .io import read_psf_field as read_psf_field
    from .io import write_catalog as write_catalog
    from .io import write_described as write_described
    from .io import write_exposure as write_exposure
    from .io import write_mask as write_mask
    from .io import write_models as write_models
    from .io import write_psf_field as write_psf_field
    from .measurement import Apportioned as Apportioned
    from .measurement import Flag as Flag
    from .measurement import apportion_flux as apportion_flux
    from .measurement import measure as measure
    from .model.blend import Blend as Blend
    from .model.component import AbstractComponent as AbstractComponent
    from .model.component import CubeComponent as CubeComponent
    from .model.component import FactorizedComponent as FactorizedComponent
    from .model.constraint import AbstractConstraint as AbstractConstraint
    from .model.constraint import CenterKept as CenterKept
    from .model.constraint import Connected as Connected
    from .model.constraint import Monotonic as Monotonic
    from .model.constraint import Normalized as Normalized
    from .model.constraint import Positive as Positive
    from .model.constraint import SparseThreshold as SparseThreshold
    from .model.constraint import Symmetric as Symmetric
    from .model.constraint import WeightedMonotonic as WeightedMonotonic
    from .model.morphology import AbstractMorphology as AbstractMorphology
    from .model.morphology import ImageMorphology as ImageMorphology
    from .model.morphology import PointMorphology as PointMorphology
    from .model.prior import AbstractPrior as AbstractPrior
    from .model.prior import CenterPrior as CenterPrior
    from .model.prior import SymmetricPrior as SymmetricPrior
    from .model.source import ExtendedSource as ExtendedSource
    from .model.source import PointSource as PointSource
    from .model.source import Source as Source
    from .model.spectrum import AbstractSpectrum as AbstractSpectrum
    from .model.spectrum import FreeSpectrum as FreeSpectrum
    from .psf_match import AbstractSolver as AbstractSolver
    from .psf_match import DeltaBasis as DeltaBasis
    from .psf_match import Fourier as Fourier
    from .psf_match import GaussianBasis as GaussianBasis
    from .psf_match import ImageMatchConfig as ImageMatchConfig
    from .psf_match import KernelQuality as KernelQuality
    from .psf_match import LeastSquares as LeastSquares
    from .psf_match import MatchConfig as MatchConfig
    from .psf_match import MatchedExposure as MatchedExposure
    from .psf_match import MatchedImages as MatchedImages
    from .psf_match import MatchedKernels as MatchedKernels
    from .psf_match import MatchedPSFField as MatchedPSFField
    from .psf_match import Sparse as Sparse
    from .psf_match import SpatialKernel as SpatialKernel
    from .psf_match import coadd_target as coadd_target
    from .psf_match import fit_profile as fit_profile
    from .psf_match import fit_target_psf as fit_target_psf
    from .psf_match import match_exposure as match_exposure
    from .psf_match import match_images as match_images
    from .psf_match import match_psf as match_psf
    from .single_band import SingleBandConfig as SingleBandConfig
    from .single_band import SingleBandFlag as SingleBandFlag
    from .single_band import SingleBandResult as SingleBandResult
    from .single_band import deblend_single_band as deblend_single_band
    from .single_band import deblend_single_band_batch as deblend_single_band_batch
    from .single_band import initialize_from_templates as initialize_from_templates
    from .single_band import one_band as one_band
else:  # type checkers would take any name for known

    def __getattr__(name: str) -> object:
        """Load a public name, or a room, when it is first used."""
        if name in _ROOMS:
            return importlib.import_module(f".{name}", __name__)
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """All names, also those that are not loaded yet."""
    return sorted({*globals(), *__all__, *_ROOMS})
