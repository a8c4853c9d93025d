"""A whole exposure: detect, deblend every footprint, measure, and put it together again."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import overload

import numpy as np
from astropy.table import QTable, Table
from jaxtyping import Float

from ..detection import Detection, detect
from ..fitting import Initialization, ProximalAdam
from ..instrument.box import Box
from ..io import Exposure, PathLike, SourceModel
from ..io.masks import any_of, bad_pattern
from ..runtime.progress import announce
from .config import DeblendConfig
from .distribute import CHUNK, Distributor, Job
from .plan import WorkUnit, largest_memory, make_plan, plan_digest
from .records import SKIPPED, Outcome, blend_table, parent_table, source_table, stored_tables, unfitted_record
from .running import Cutter, Runner, one_blas_thread
from .store import StoredBlend, StoreHeader, StoreWriter, partial_folder

GIVEN_ERROR = 0.1
"""1σ error per axis in pixels of positions that come without one."""

STAMP_LEVEL = 0.01
"""Stamps of sources end where their model is within this many σ of the background from zero in every band."""

STORE_BATCH = 32
"""Blends that are written to a store together: as many may be lost if the run is killed."""


@dataclasses.dataclass(frozen=True)
class CatalogResult:
    """What came out of an exposure.

    Attributes
    ----------
    table
        One row per source, as from `jaxdeblend.measure`, in the exposure's pixels, with what is known of its blend and
        parent (`jaxdeblend.catalog.columns.SOURCE_COLUMNS`). Rows of positions that were given are in the order in
        which they were given. Fluxes are quantities if the exposure knows its unit.
    model
        Sum of all sources as observed (band, y, x), in image units.
    residual
        Images minus model; NaN where a pixel is unusable.
    sources
        Model of each fitted source as observed, where it is above a hundredth of the background's σ.
    parents
        One row per parent, with sums over its blends (`jaxdeblend.catalog.columns.PARENT_COLUMNS`).
    blends
        One row per work unit, also of those that were not fitted (`jaxdeblend.catalog.columns.BLEND_COLUMNS`).
    detection
        Peaks and footprints.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> dark = jd.Exposure(np.zeros((1, 32, 40)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> result = jd.deblend_catalog(dark)
    >>> len(result.table), result.model.shape, result.n_failed
    (0, (1, 32, 40), 0)
    """

    table: QTable
    model: Float[np.ndarray, "band y x"]
    residual: Float[np.ndarray, "band y x"]
    sources: tuple[SourceModel, ...]
    parents: Table
    blends: Table
    detection: Detection

    @property
    def n_failed(self) -> int:
        """Number of rows without any flux."""
        return _without_flux(self.table)


@dataclasses.dataclass(frozen=True)
class StoredCatalog:
    """What came out of an exposure whose models went into a store.

    Attributes
    ----------
    path
        The store, for `jaxdeblend.ModelStore`.
    table, parents, blends, detection
        As those of `CatalogResult`; of a shard, the rows of its own blends.
    positions
        Positions (y, x) in pixels of all rows of the catalog, as given or detected.
    seconds
        How long each stage took: ``detect``, ``plan``, ``fit``, which compiles and writes the store, and ``tables``.
    memory
        Bytes that the largest of its fits takes, as estimated before the first.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> dark = jd.Exposure(np.zeros((1, 32, 40)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> result = jd.deblend_catalog(dark, [(-5.0, 8.0)], store=path)
    >>> result.table["skip_reason"].tolist(), len(jd.ModelStore(result.path))
    (['skipped: outside the image'], 1)
    """

    path: Path
    table: QTable
    parents: Table
    blends: Table
    positions: Float[np.ndarray, "source 2"]
    detection: Detection
    seconds: Mapping[str, float]
    memory: int

    @property
    def n_failed(self) -> int:
        """Number of rows without any flux."""
        return _without_flux(self.table)


class Stopwatch:
    """Seconds of stages, one after the other."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def ended(self, stage: str) -> None:
        """A stage has ended; the next begins."""
        now = time.perf_counter()
        self.seconds[stage], self._began = now - self._began, now


def _without_flux(table: QTable) -> int:
    fluxes = [np.asarray(table[name]) for name in table.colnames if name.startswith("flux_")]
    return int(np.sum(~np.any(np.isfinite(fluxes), axis=0))) if len(table) else 0


@overload
def deblend_catalog(
    exposure: Exposure,
    centers: object | None = None,
    *,
    detection: Detection | None = None,
    config: DeblendConfig | None = None,
    center_error: object | None = None,
    threshold: float | None = None,
    margin: int | None = None,
    options: Initialization | None = None,
    optimizer: ProximalAdam | None = None,
    progress: Callable[[int, int], None] | None = None,
    store: None = None,
) -> CatalogResult: ...


@overload
def deblend_catalog(
    exposure: Exposure,
    centers: object | None = None,
    *,
    detection: Detection | None = None,
    config: DeblendConfig | None = None,
    center_error: object | None = None,
    margin: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    store: PathLike,
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    workers: object | None = None,
    chunk: int = CHUNK,
) -> StoredCatalog: ...


def deblend_catalog(
    exposure: Exposure,
    centers: object | None = None,
    *,
    detection: Detection | None = None,
    config: DeblendConfig | None = None,
    center_error: object | None = None,
    threshold: float | None = None,
    margin: int | None = None,
    options: Initialization | None = None,
    optimizer: ProximalAdam | None = None,
    progress: Callable[[int, int], None] | None = None,
    store: PathLike | None = None,
    resume: bool = False,
    shard: tuple[int, int] = (1, 1),
    workers: object | None = None,
    chunk: int = CHUNK,
) -> CatalogResult | StoredCatalog:
    """Detect, deblend and measure all sources of an exposure.

    Footprints are found on the whole exposure. Each becomes a parent: a window around it, in which the
    pixels of other footprints are not used, and in which its sources are fitted together. Where the PSF varies over
    the exposure, sources are detected with that at the centre of the exposure, and each parent is fitted with that at
    the centre of its window.

    With a configuration, parents whose sources part, or that are too large for one fit, are cut in pieces. A piece is
    fitted with the neighbours whose light reaches into it, and only its own sources are kept. What is to be fitted is
    settled before the first fit, so that any run, shard or resumed run computes the same.

    Parameters
    ----------
    exposure
        The exposure.
    centers
        Positions (y, x) in pixels, 0-based, or a table with the columns ``x`` and ``y``; by default those of the
        detected peaks. None gets lost: a position off the image (or NaN) comes back as a flagged row without flux.
    detection
        Footprints, and peaks where no positions are given: of `jaxdeblend.detection.detection_of_labels`, for a
        segmentation map, or of `jaxdeblend.detect` with other options. By default sources are detected here.
    config
        What is found, fitted and skipped, and how. By default every parent is fitted in one piece, and an error in one
        ends the run.
    center_error
        1σ error per axis of the positions in pixels, one number or one per source; by default 0.1 for given
        positions, and its own for each detected peak.
    threshold
        Significance from which a peak counts as a source, in σ; by default that of `config`, or 5.
    margin
        Pixels by which windows reach beyond footprints; by default the FWHM of the broadest PSF.
    options
        Constraints, priors and numbers of components of the fit, instead of those of `config`.
    optimizer
        Settings of the optimizer, instead of those of `config`.
    progress
        Called as progress(number of blends just done, number of all blends to do).
    store
        File of models to write, ``.h5``. Blends go there as they finish, and are not held in memory.
    resume
        Whether to go on with the store if there is one: what is in it is not fitted again.
    shard
        (i, n): of the blends, fit only the i-th of n parts, from 1. See `jaxdeblend.merge_stores`.
    workers
        Processes that fit, for a store: a number of them to start on this machine, the address of a Dask scheduler, or
        a ``distributed.Client``. By default this process fits. What comes out is the same, bit for bit, on devices of
        the same kind.
    chunk
        Most blends that are sent to a worker at a time.

    Returns
    -------
    CatalogResult or StoredCatalog
        Table, model, residual and what else was found on the way. With a store, the table and where the models are.

    Raises
    ------
    ValueError
        If the positions are not (source, 2), the detection is of another shape, or the store is of another run.
    FileExistsError
        If there is a store already, and `resume` is not set.
    RuntimeError
        If workers die of a blend, and failures are not caught.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> psf = jd.GaussianPSF(1.5)
    >>> image = np.pad(100 * np.asarray(psf.stamp(15)), ((0, 0), (5, 12), (10, 7)))
    >>> exposure = jd.Exposure(image, [0.01], psf, bands=["r"])
    >>> result = jd.deblend_catalog(exposure)
    >>> result.table["y"].value.round(1).tolist(), result.table["x"].value.round(1).tolist()
    ([12.0], [17.0])
    """
    settings = DeblendConfig() if config is None else config
    if store is not None and (threshold, options, optimizer) != (None, None, None):
        raise ValueError("threshold, options, optimizer: with a store, give them in config, which is kept there.")
    if workers is not None and store is None:
        raise ValueError("workers: they fit for a store only; give store as well.")
    if store is not None:
        StoreWriter.check_free(store)  # before the work of detection
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}; give the number of blends that are sent together, at least 1.")
    watch = Stopwatch()
    exposure = with_bad_planes(exposure, settings.bad_mask)
    if detection is None:
        least = settings.threshold if threshold is None else threshold
        detection = detect(exposure.observation(), method=settings.detection, threshold=least)
    check_detection(detection, exposure)
    positions, errors = positions_of(detection, centers, center_error)
    watch.ended("detect")
    plan = make_plan(
        exposure, detection, positions, config, pseudo=_pseudo(centers, len(positions), settings), margin=margin
    )
    watch.ended("plan")
    memory = largest_memory(plan, len(exposure.bands))
    announce(
        "%d sources in %d blends; the largest takes about %.2f GB while it is fitted",
        len(positions),
        sum(not unit.skip for unit in plan),
        memory / 1e9,
    )
    cutter, catch = Cutter(exposure, positions, errors), config is not None and config.catch_failures
    runner = Runner(
        cutter.cut,
        settings.initialization() if options is None else options,
        settings.optimizer() if optimizer is None else optimizer,
        catch=catch,
        memory=settings.memory,
    )
    if store is None:
        return _in_memory(cutter, runner, plan, detection, progress)
    header = StoreHeader(
        bands=exposure.bands,
        config=f"{settings.to_toml()}# plan {plan_digest(exposure, positions, errors, plan)}\n",
        wcs="" if exposure.wcs is None else exposure.wcs.to_header_string(relax=True),
        unit=exposure.unit or "",
    )
    fitter = runner if workers is None else Distributor(workers, cutter.cut, Job.of(settings, catch=catch), chunk)
    into_store(fitter, _shard_of(plan, shard), Path(store), header, resume, progress)
    watch.ended("fit")
    tables = stored_tables(store, positions)
    watch.ended("tables")
    return StoredCatalog(Path(store), *tables, positions, detection, watch.seconds, memory)


def _in_memory(
    cutter: Cutter,
    runner: Runner,
    plan: tuple[WorkUnit, ...],
    detection: Detection,
    progress: Callable[[int, int], None] | None,
) -> CatalogResult:
    """Fit all units, and put them together in their order."""
    exposure = cutter.exposure
    level = STAMP_LEVEL * np.asarray(exposure.observation().background_rms)
    records = {unit.id: unfitted_record(unit, SKIPPED + unit.skip) for unit in plan if unit.skip}
    models: dict[int, np.ndarray] = {}
    sources: dict[int, SourceModel] = {}
    todo = [unit for unit in plan if not unit.skip]
    for done in runner.run(todo):
        record, own = done.recorded()
        records[record.id] = record
        if own is not None:
            models[record.id] = np.nan_to_num(own.model)
            cubes = np.nan_to_num(own.source_models)
            sources |= {
                int(row): _source_model(int(row), record.box, cube, level)
                for row, cube in zip(record.rows, cubes, strict=True)
            }
        if progress is not None:
            progress(1, len(todo))
    outcomes = [Outcome.of(records[number]) for number in sorted(records)]
    model = np.zeros(exposure.images.shape, np.float32)
    for number in sorted(models):
        model[(slice(None), *records[number].box.slices)] += models[number]
    return CatalogResult(
        table=source_table(cutter.positions, exposure.bands, exposure.wcs, outcomes, unit=exposure.unit),
        model=model,
        residual=np.where(exposure.mask, np.float32(np.nan), exposure.images - model),
        sources=tuple(sources[row] for row in sorted(sources)),
        parents=parent_table(outcomes),
        blends=blend_table(outcomes),
        detection=detection,
    )


def into_store(
    fitter: Runner | Distributor,
    units: tuple[WorkUnit, ...],
    path: Path,
    header: StoreHeader,
    resume: bool,
    progress: Callable[[int, int], None] | None,
    copies: Iterable[StoredBlend] = (),
) -> None:
    """Fit the units that the store does not have yet, and store them as they finish.

    Parameters
    ----------
    fitter
        What fits them.
    units
        The units.
    path
        The store.
    header
        What holds for all blends.
    resume
        Whether to go on with the store if there is one.
    progress
        Called as progress(number of blends just done, number of all blends to do).
    copies
        Records of other blends, which are stored as they are.
    """
    there = path.exists() or partial_folder(path).exists()
    begin = StoreWriter.resume if resume and there else StoreWriter.create
    with begin(path, header, batch=STORE_BATCH) as writer:
        for record in copies:
            if record.id not in writer.finished:
                writer.append(record)
        todo = [unit for unit in units if unit.id not in writer.finished]
        for unit in todo:
            if unit.skip:
                writer.append(unfitted_record(unit, SKIPPED + unit.skip))
        fits = [unit for unit in todo if not unit.skip]
        with one_blas_thread(), contextlib.closing(fitter.records(fits)) as records:
            for record in records:
                writer.append(record)
                if progress is not None:
                    progress(1, len(fits))


def _shard_of(plan: tuple[WorkUnit, ...], shard: tuple[int, int]) -> tuple[WorkUnit, ...]:
    """Every n-th unit."""
    number, count = shard
    if not 1 <= number <= count:
        raise ValueError(f"shard: got {number} of {count}; give (i, n) with i from 1 to n.")
    return plan[number - 1 :: count]


def check_detection(detection: Detection, exposure: Exposure) -> None:
    """Footprints must be on the pixels of the exposure."""
    if (shape := np.shape(detection.labels)) != exposure.shape:
        raise ValueError(f"detection: is of images of shape {shape}; those of the exposure have {exposure.shape}.")


def with_bad_planes(exposure: Exposure, names: tuple[str, ...] | None) -> Exposure:
    """The exposure with pixels of these mask planes, and no others, as unusable; None: as it was read."""
    if names is None:
        return exposure
    pattern = bad_pattern("the exposure", exposure.mask_planes, names)
    mask = None if exposure.mask_bits is None else any_of(exposure.mask_bits, pattern)
    return dataclasses.replace(exposure, mask=mask)


def _pseudo(centers: object | None, count: int, config: DeblendConfig) -> np.ndarray:
    """Rows of a table of positions that are no sources."""
    pseudo = np.zeros(count, bool)
    if isinstance(centers, Table):
        for name in config.pseudo_columns:
            if name in centers.colnames:
                pseudo |= np.asarray(centers[name]).astype(bool)
    return pseudo


def positions_of(
    detection: Detection, centers: object | None, center_error: object | None
) -> tuple[Float[np.ndarray, "source 2"], Float[np.ndarray, " source"]]:
    """Positions and their errors, as given or as detected."""
    positions = detection.centers if centers is None else given_positions(centers)
    if center_error is None:
        errors = np.asarray(detection.peaks["error"], float) if centers is None else np.float64(GIVEN_ERROR)
    else:
        errors = np.asarray(center_error, float)
    if np.ndim(errors) and np.shape(errors) != (len(positions),):
        raise ValueError(
            f"center_error: got shape {np.shape(errors)} for {len(positions)} sources; give one number, or one "
            "per source."
        )
    if not (np.isfinite(errors) & (errors >= 0)).all():
        raise ValueError(f"center_error: got {center_error}; errors must be finite and not negative (0: fixed).")
    return positions, np.broadcast_to(errors, len(positions))


def given_positions(centers: object, name: str = "centers") -> Float[np.ndarray, "source 2"]:
    """Positions (y, x), of an array or of a table with the columns ``x`` and ``y``; masked ones are NaN."""
    if isinstance(centers, Table):
        if missing := [column for column in ("x", "y") if column not in centers.colnames]:
            raise ValueError(f"{name}: the table has no column {missing[0]}; give x and y in pixels.")
        columns = [np.ma.filled(np.ma.asarray(np.asanyarray(centers[axis])).astype(float), np.nan) for axis in "yx"]
        centers = np.stack(columns, axis=1)
    positions = np.asarray(centers, float)
    if positions.size == 0:
        positions = np.zeros((0, 2))
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"{name}: got shape {positions.shape}; give (source, 2), (y, x) in pixels.")
    return positions


def _source_model(row: int, box: Box, cube: np.ndarray, level: np.ndarray) -> SourceModel:
    """Cut a source's model down to the window where it is above the level in some band."""
    bright = np.any(np.abs(cube) > level[:, None, None], axis=0)
    tight = Box.of_mask(bright)
    if not min(tight.shape):
        return SourceModel(row, Box(box.start, (1, 1)), cube[:, :1, :1].astype(np.float32))
    image = cube[(slice(None), *tight.slices)].astype(np.float32)
    return SourceModel(row, tight.shifted_by(*box.start), image)
