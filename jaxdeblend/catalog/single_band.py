"""A whole exposure, every band of it divided between its sources by templates."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
from astropy.table import QTable, Table
from jaxtyping import Float

from ..detection import Detection, detect
from ..instrument.box import Box
from ..instrument.psf_field import as_field
from ..io import Exposure, SourceModel
from ..measurement.table import add_sky, describe_columns
from ..single_band import SingleBandConfig, SingleBandFlag, SingleBandResult, deblend_single_band_batch
from .columns import SINGLE_BAND_COLUMNS, SINGLE_BAND_PARENT_COLUMNS
from .parents import Parent, find_parents
from .pipeline import _source_model, positions_of
from .plan import NO_PARENT
from .running import local_positions

CHUNK = 64
"""Largest number of parents that are deblended at once."""

CHUNK_PIXELS = 2**25
"""The same, of the pixels that all their sources have together, as each is first made in the whole window."""

LOST = int(SingleBandFlag.SKIPPED | SingleBandFlag.OUT_OF_BOUNDS)
"""Flags of positions that are not on the image."""

PER_BAND = {
    "flux": np.nan,
    "flux_err": np.nan,
    "snr": np.nan,
    "template_flux": np.nan,
    "stray_flux": np.nan,
    "n_pixels": 0,
    "is_psf": False,
    "psf_flux": np.nan,
    "psf_x": np.nan,
    "psf_y": np.nan,
    "psf_chisq": np.nan,
    "psf_chisq_2": np.nan,
    "psf_chisq_2b": np.nan,
    "psf_dof": np.nan,
    "template_weight": np.nan,
    "n_children": 0,
    "flags": LOST,
}
"""Columns that there are once for each band, and what they hold for positions that are not on the image."""

OF_CHILDREN = ("flux", "flux_err", "template_flux", "stray_flux")
"""Those that are NaN where there is no child."""


@dataclasses.dataclass(frozen=True)
class SingleBandCatalog:
    """What became of an exposure of which every band was deblended by templates.

    Attributes
    ----------
    table
        One row per source, in the order of the positions that were given. Columns of each band b have its name at
        their ends:

        =====================  ==================================================================================
        ``id``                 number of the row
        ``parent``             row of `parents`; -1 for a position that is not on the image
        ``x``, ``y``           its position, pixels of the exposure; ``ra``, ``dec`` where there is a WCS
        ``n_peaks``            number of peaks of the parent
        ``flags``              bits of `jaxdeblend.SingleBandFlag` that are set in any band
        ``flux_b``             sum of the child; NaN where there is none
        ``flux_err_b``         √ of the sum of its variances
        ``snr_b``              their ratio
        ``n_children_b``       number of the parent's peaks that have a child
        ``flags_b``            bits of `jaxdeblend.SingleBandFlag`
        =====================  ==================================================================================

        and ``template_flux_b``, ``stray_flux_b``, ``n_pixels_b``, ``is_psf_b``, ``psf_flux_b``, ``psf_x_b``,
        ``psf_y_b``, ``psf_chisq_b``, ``psf_chisq_2_b``, ``psf_chisq_2b_b``, ``psf_dof_b``, ``template_weight_b`` as
        in `jaxdeblend.SingleBandResult.table`, positions in pixels of the exposure.
    children
        What each source on the image gets, where that is not 0.
    templates
        Its template in each band.
    model
        Sum of all templates (band, y, x), in image units.
    residual
        Images minus that; NaN where a pixel is unusable.
    unassigned
        Images minus all children: light of parents that nobody has, and what lies between them; NaN where a pixel is
        unusable.
    parents
        One row per blend: ``id``, its window ``y0``, ``x0``, ``ny``, ``nx``, the ``area`` of its footprint in pixels,
        ``n_sources``.
    detection
        Peaks and footprints.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> dark = jd.Exposure(np.zeros((1, 32, 40)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> result = jd.deblend_single_band_exposure(dark, [(-20, 5)])
    >>> len(result.table), result.n_failed, jd.SingleBandFlag(result.table["flags_r"][0]).name
    (1, 1, 'SKIPPED|OUT_OF_BOUNDS')
    """

    table: QTable
    children: tuple[SourceModel, ...]
    templates: tuple[SourceModel, ...]
    model: Float[np.ndarray, "band y x"]
    residual: Float[np.ndarray, "band y x"]
    unassigned: Float[np.ndarray, "band y x"]
    parents: Table
    detection: Detection

    @property
    def n_failed(self) -> int:
        """Number of rows without a child in any band."""
        names = [name for name in self.table.colnames if name.startswith("flags_")]
        flags = np.stack([np.asarray(self.table[name]) for name in names])
        return int(np.sum(np.all(flags & int(SingleBandFlag.SKIPPED), axis=0)))


def deblend_single_band_exposure(
    exposure: Exposure,
    centers: object | None = None,
    *,
    threshold: float = 5.0,
    config: SingleBandConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SingleBandCatalog:
    """Detect the sources of an exposure, and divide every band of it between them by templates.

    Peaks and footprints are found in all bands together and become parents, as in `jaxdeblend.deblend_catalog`. Each
    band of each parent is then deblended by itself (`jaxdeblend.deblend_single_band`), with the PSF in the middle of
    its window and its own mask. Every pixel of a footprint is divided once: children and unassigned light of each band
    add up to its image.

    Parameters
    ----------
    exposure
        The exposure.
    centers
        Positions (y, x) in pixels, 0-based; by default those of the detected peaks. None gets lost: one that cannot
        be deblended, or is off the image, comes back as a row with flags that say why.
    threshold
        Significance from which a peak counts as a source, in σ.
    config
        Options of the templates.
    progress
        Called as progress(number of parents just done, number of all parents).

    Returns
    -------
    SingleBandCatalog
        Table, children, templates, and what is left.

    Raises
    ------
    ValueError
        If the positions are not (source, 2).

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> psf = jd.GaussianPSF(1.5)
    >>> image = np.pad(100 * np.asarray(psf.stamp(15)), ((0, 0), (5, 12), (10, 7)))
    >>> result = jd.deblend_single_band_exposure(jd.Exposure(image, [0.01], psf, bands=["r"]))
    >>> result.table["flux_r"].round(0).tolist(), result.table["is_psf_r"].tolist()
    ([100.0], [True])
    """
    detection = detect(exposure.observation(), threshold=threshold)
    positions, _ = positions_of(detection, centers, None)
    parents = find_parents(exposure, detection, positions, margin=_margin(exposure))
    sheet = _Sheet(exposure, len(positions))
    for chunk in _chunks(parents, len(exposure.bands)):
        for parent, results in zip(chunk, _deblended(exposure, chunk, positions, config), strict=True):
            sheet.enter(parent, results)
        if progress is not None:
            progress(len(chunk), len(parents))
    residual = np.where(exposure.mask, np.float32(np.nan), exposure.images - sheet.model)
    return SingleBandCatalog(
        table=_tabulate(exposure, positions, parents, sheet.columns),
        children=tuple(sheet.children[row] for row in sorted(sheet.children)),
        templates=tuple(sheet.templates[row] for row in sorted(sheet.templates)),
        model=sheet.model,
        residual=residual,
        unassigned=sheet.unassigned,
        parents=_parent_table(parents),
        detection=detection,
    )


def _margin(exposure: Exposure) -> int:
    """Pixels by which windows reach beyond footprints.

    Wings of PSFs continue a template where its mirror image lies outside of the window. They reach 1.5 FWHM: with this
    margin nothing is continued but at the border of the exposure itself.
    """
    return math.ceil(1.5 * exposure.widest_fwhm()) + 1


def _chunks(parents: tuple[Parent, ...], n_bands: int) -> Iterator[tuple[Parent, ...]]:
    """Parents that are deblended at once, in their order."""
    first, pixels = 0, 0
    for number, parent in enumerate(parents):
        own = n_bands * len(parent.rows) * math.prod(parent.box.shape)
        if number > first and (number - first == CHUNK or pixels + own > CHUNK_PIXELS):
            yield parents[first:number]
            first, pixels = number, 0
        pixels += own
    if parents:
        yield parents[first:]


def _deblended(
    exposure: Exposure, parents: tuple[Parent, ...], positions: np.ndarray, config: SingleBandConfig | None
) -> list[list[SingleBandResult]]:
    """Each band of each parent."""
    n_bands = len(exposure.bands)
    stamps = np.asarray(as_field(exposure.psf).stamps(np.array([parent.box.center for parent in parents])))
    stamps = np.broadcast_to(stamps, (len(parents), n_bands, *stamps.shape[-2:]))
    blends, masks = [], []
    for parent, psfs in zip(parents, stamps, strict=True):
        centers = local_positions(positions[parent.rows], parent.box)
        for band, psf in enumerate(psfs):
            window = (band, *parent.box.slices)
            blends.append((exposure.images[window], exposure.variance[window], psf, centers))
            masks.append(exposure.mask[window] | ~parent.footprint)  # pixels beyond it may be another parent's
    footprints = [parent.footprint for parent in parents for _ in range(n_bands)]
    results = deblend_single_band_batch(blends, footprints=footprints, masks=masks, config=config)
    return [results[first : first + n_bands] for first in range(0, len(results), n_bands)]


class _Sheet:
    """What has been found so far, row by row and pixel by pixel."""

    def __init__(self, exposure: Exposure, n_rows: int):
        self.columns = {name: np.full((len(exposure.bands), n_rows), lost) for name, lost in PER_BAND.items()}
        self.children: dict[int, SourceModel] = {}
        self.templates: dict[int, SourceModel] = {}
        self.model = np.zeros(exposure.images.shape, np.float32)
        self.unassigned = np.where(exposure.mask, np.float32(np.nan), exposure.images)

    def enter(self, parent: Parent, results: list[SingleBandResult]) -> None:
        """Enter the bands of a parent."""
        for band, result in enumerate(results):
            window = (band, *parent.box.slices)
            self.model[window] += result.templates.sum(axis=0)
            left = self.unassigned[window]
            given = parent.footprint & np.isfinite(left)
            left[given] = result.unassigned[given]
            self._enter_rows(parent, band, result.table())
        self.children |= _stamps(parent, [result.children for result in results])
        self.templates |= _stamps(parent, [result.templates for result in results])

    def _enter_rows(self, parent: Parent, band: int, table: Table) -> None:
        skipped = (np.asarray(table["flags"]) & int(SingleBandFlag.SKIPPED)) != 0
        for name, column in self.columns.items():
            if name != "snr":
                column[band, parent.rows] = np.asarray(table[name])
        for name in OF_CHILDREN:
            self.columns[name][band, parent.rows[skipped]] = np.nan
        for name, offset in zip(("psf_y", "psf_x"), parent.box.start, strict=True):
            self.columns[name][band, parent.rows] += offset
        flux, error = (self.columns[name][band, parent.rows] for name in ("flux", "flux_err"))
        self.columns["snr"][band, parent.rows] = flux / np.where(error > 0, error, np.nan)


def _stamps(parent: Parent, bands: list[Float[np.ndarray, "source y x"]]) -> dict[int, SourceModel]:
    """Stamp of each source of a parent, by its row."""
    level = np.zeros(len(bands))
    return {
        int(row): _source_model(int(row), parent.box, np.stack([images[number] for images in bands]), level)
        for number, row in enumerate(parent.rows)
    }


def _tabulate(
    exposure: Exposure, positions: np.ndarray, parents: tuple[Parent, ...], columns: dict[str, np.ndarray]
) -> QTable:
    """One row per position, in order."""
    n = len(positions)
    owner, n_peaks = np.full(n, NO_PARENT), np.zeros(n, np.int64)
    for number, parent in enumerate(parents):
        owner[parent.rows], n_peaks[parent.rows] = number, len(parent.rows)
    table = QTable({"id": np.arange(n), "parent": owner})
    table["x"], table["y"] = positions.T[::-1]
    add_sky(table, exposure.wcs)
    table["n_peaks"] = n_peaks
    table["flags"] = np.bitwise_or.reduce(columns["flags"], axis=0).astype(np.int32)
    for band, values in enumerate(zip(*columns.values(), strict=True)):
        for name, column in zip(columns, values, strict=True):
            table[f"{name}_{exposure.bands[band]}"] = column.astype(np.int32) if name == "flags" else column
    describe_columns(table, SINGLE_BAND_COLUMNS, exposure.bands, unit=exposure.unit)
    return table


def _parent_table(parents: tuple[Parent, ...]) -> Table:
    boxes: list[Box] = [parent.box for parent in parents]
    columns = {
        "id": list(range(len(parents))),
        "y0": [box.start[0] for box in boxes],
        "x0": [box.start[1] for box in boxes],
        "ny": [box.shape[0] for box in boxes],
        "nx": [box.shape[1] for box in boxes],
        "area": [int(parent.footprint.sum()) for parent in parents],
        "n_sources": [len(parent.rows) for parent in parents],
    }
    table = Table({name: np.array(values, dtype=np.int64) for name, values in columns.items()})
    describe_columns(table, SINGLE_BAND_PARENT_COLUMNS)
    return table
