"""A catalog with sources that were missed: what they touch is fitted again, the rest of the store is kept."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..detection import Detection, detect, light_extent
from ..fitting import RESULTS
from ..io import Exposure, PathLike
from ..model.blend import Blend
from ..runtime.progress import announce
from .config import DeblendConfig
from .extended_plan import extend_plan
from .pipeline import (
    GIVEN_ERROR,
    Stopwatch,
    StoredCatalog,
    check_detection,
    given_positions,
    into_store,
    positions_of,
    with_bad_planes,
)
from .plan import PSEUDO, WorkUnit, largest_memory, make_plan, peak_significance, plan_digest
from .records import SKIPPED, stored_outcomes, stored_tables
from .running import Cutout, Cutter, Runner
from .store import ModelStore, StoreWriter

WORTHWHILE = 16
"""Fewest stored models with which a blend begins: with fewer, a fit from scratch is as fast, and its χ² is up to 5 %
lower (``benchmarks/restart.py``)."""

_DIGEST = re.compile(r"^# plan (\w+)$", re.MULTILINE)
_ADDED = re.compile(r"^# added (\d+(?: \d+)*)$", re.MULTILINE)


def restart_catalog(
    store: PathLike,
    exposure: Exposure,
    added: object,
    *,
    output: PathLike,
    center_error: object = GIVEN_ERROR,
    positions: object | None = None,
    position_error: object | None = None,
    detection: Detection | None = None,
    margin: int | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> StoredCatalog:
    """Add sources to a catalog whose models are in a store: blends that they touch are fitted again.

    The plan of the run that made the store is made once more, and compared with what the store says of it. An added
    position joins the blend whose window holds it (`jaxdeblend.catalog.extended_plan.extend_plan`), and that blend
    is fitted again on the same pixels. Sources whose light overlaps with that of an added one begin anew: their
    shapes have taken it, and would give it up slowly. If many of the others are left, they begin with their stored
    models, and the rest with a first model of what these leave, as by `add_sources`; if not, all begin anew. In a
    parent that was cut in pieces, all pieces whose window holds the position are fitted again. All other blends are
    copied, bit for bit.

    Positions that no window holds become blends of their own. None gets lost: rows off the image (or NaN), and those on
    a parent that was skipped for a limit of the configuration, have the reason. A touched blend that had failed, or was
    skipped because its source was alone, is fitted from scratch. Limits are those of the first plan: no parent is
    skipped or cut because sources were added.

    Parameters
    ----------
    store
        File of models that `deblend_catalog`, or an earlier restart, wrote. It is only read.
    exposure
        The exposure that it was made of.
    added
        Positions (y, x) in pixels of the sources to add, or a table with the columns ``x`` and ``y``.
    output
        File of models to write.
    center_error
        1σ error per axis of the added positions in pixels, one number or one per source.
    positions
        Positions of the rows of the store, as they were given, or as `StoredCatalog.positions`; by default those that
        are detected.
    position_error
        Their errors, if they were given to the run; an earlier restart's added ones are among them.
    detection, margin
        As they were given to the run.
    resume
        Whether to go on with the output if there is one, after the restart was stopped.
    progress
        Called as progress(number of blends just done, number of all blends to do).

    Returns
    -------
    StoredCatalog
        The whole catalog. Rows keep their numbers; those of added positions follow in the order given.

    Raises
    ------
    ValueError
        If exposure, positions and margin are not those of the store, or the store is unfinished or a shard; or as
        `deblend_catalog`.
    FileExistsError
        If there is an output already, and `resume` is not set.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> dark = jd.Exposure(np.zeros((1, 32, 40)), [1.0], jd.GaussianPSF(1.5), bands=["r"])
    >>> first = jd.deblend_catalog(dark, [(-5.0, 8.0)], store=folder / "models.h5")
    >>> again = jd.restart_catalog(
    ...     first.path, dark, [(3.0, 99.0)], output=folder / "again.h5", positions=first.positions
    ... )
    >>> again.table["id"].tolist(), again.positions.tolist()
    ([0, 1], [[-5.0, 8.0], [3.0, 99.0]])
    """
    if Path(output).absolute() == Path(store).absolute():
        raise ValueError(f"output: got {output}, which is the store; give another file.")
    StoreWriter.check_free(output)  # before the work of detection
    watch = Stopwatch()
    with ModelStore(store) as old:
        settings = _settings_of(old)
        exposure = with_bad_planes(exposure, settings.bad_mask)
        if detection is None:
            detection = detect(exposure.observation(), method=settings.detection, threshold=settings.threshold)
        check_detection(detection, exposure)
        watch.ended("detect")
        first = _run_of(old, exposure, detection, settings, positions, position_error, margin)
        new = given_positions(added, "added")
        run = first.extended(exposure, detection, new, positions_of(detection, new, center_error)[1], margin)
        kept = {unit.id for unit in first.plan if run.plan[unit.id] is unit}
        todo = tuple(unit for unit in run.plan if unit.id not in kept)
        watch.ended("plan")
        announce("%d sources added; %d blends of %d are fitted", len(new), len(todo), len(run.plan))
        cutter = StartCutter(Cutter(exposure, run.positions, run.errors), old, first.holders())
        runner = Runner(
            cutter.cut,
            settings.initialization(),
            settings.optimizer(),
            catch=settings.catch_failures,
            memory=settings.memory,
        )
        config, unit = run.config_text(exposure, settings), old.header.unit or exposure.unit or ""
        header = dataclasses.replace(old.header, config=config, unit=unit)
        copies = (record for record in old.records() if record.id in kept)
        into_store(runner, todo, Path(output), header, resume, progress, copies)
    watch.ended("fit")
    tables = stored_tables(output, run.positions)
    watch.ended("tables")
    memory = largest_memory(todo, len(exposure.bands))
    return StoredCatalog(Path(output), *tables, run.positions, detection, watch.seconds, memory)


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """What a store was, or will be, made of.

    Attributes
    ----------
    positions, errors
        Of all rows.
    plan
        The work units.
    config
        What the plan was made with; None: no limits.
    counts
        Number of rows of the first run, and after each restart.
    """

    positions: Float[np.ndarray, "source 2"]
    errors: Float[np.ndarray, " source"]
    plan: tuple[WorkUnit, ...]
    config: DeblendConfig | None
    counts: tuple[int, ...]

    def extended(
        self,
        exposure: Exposure,
        detection: Detection,
        positions: Float[np.ndarray, "added 2"],
        errors: Float[np.ndarray, " added"],
        margin: int | None,
    ) -> "_Run":
        """The same with more rows."""
        positions = np.concatenate([self.positions, positions])
        plan = extend_plan(exposure, detection, self.plan, positions, self.config, margin=margin)
        errors = np.concatenate([self.errors, errors])
        return _Run(positions, errors, plan, self.config, (*self.counts, len(positions)))

    def holders(self) -> dict[int, tuple[int, int]]:
        """Unit whose fit of a row is kept, and the row's place there, by row."""
        return {int(row): (unit.id, place) for unit in self.plan for place, row in enumerate(unit.own)}

    def digest(self, exposure: Exposure) -> str:
        """What the header of a store says of it."""
        return plan_digest(exposure, self.positions, self.errors, self.plan)

    def config_text(self, exposure: Exposure, settings: DeblendConfig) -> str:
        """Configuration for the header of a store."""
        added = " ".join(map(str, self.counts))
        return f"{settings.to_toml()}# plan {self.digest(exposure)}\n# added {added}\n"


def _settings_of(store: ModelStore) -> DeblendConfig:
    """Configuration of the run that made a store."""
    if not _DIGEST.search(store.header.config):
        raise ValueError(f"store: {store.path} was not made by deblend_catalog: it does not say of which plan it is.")
    return DeblendConfig.from_toml(store.header.config)


def _run_of(
    store: ModelStore,
    exposure: Exposure,
    detection: Detection,
    settings: DeblendConfig,
    positions: object | None,
    error: object | None,
    margin: int | None,
) -> _Run:
    """The run that made a store, found by its digest."""
    n, counts = len(store.table("sources")), _ADDED.search(store.header.config)
    rows = positions_of(detection, None if positions is None else given_positions(positions, "positions"), error)[0]
    if len(rows) != n:
        whose = "are detected" if positions is None else "were given"
        raise ValueError(
            f"positions: {len(rows)} {whose}, but {store.path} has {n} rows; give those of all of its rows, and the "
            "store of a whole run: shards are merged first."
        )
    numbers = (n,) if counts is None else tuple(map(int, counts[1].split()))
    for config in (settings, None):
        plan = _plan_of(store, exposure, detection, rows, numbers, config, margin)
        for errors in _possible_errors(detection, rows, error, numbers[0]):
            run = _Run(rows, errors, plan, config, numbers)
            if f"# plan {run.digest(exposure)}\n" in store.header.config:
                return run
    raise ValueError(
        f"store: {store.path} is of another exposure, of other positions or another margin; give those that it was "
        "made with."
    )


def _plan_of(
    store: ModelStore,
    exposure: Exposure,
    detection: Detection,
    positions: Float[np.ndarray, "source 2"],
    counts: tuple[int, ...],
    config: DeblendConfig | None,
    margin: int | None,
) -> tuple[WorkUnit, ...]:
    """The plan of a first run, and of restarts after it."""
    pseudo = np.zeros(counts[0], bool)
    for one in stored_outcomes(store):
        if one.reason == SKIPPED + PSEUDO:
            pseudo[one.rows] = True
    plan = make_plan(exposure, detection, positions[: counts[0]], config, pseudo=pseudo, margin=margin)
    for count in counts[1:]:
        plan = extend_plan(exposure, detection, plan, positions[:count], config, margin=margin)
    return plan


def _possible_errors(
    detection: Detection, positions: Float[np.ndarray, "source 2"], error: object | None, first: int
) -> Iterator[Float[np.ndarray, " source"]]:
    """Errors that the positions may have had: as given; or those that are usual, for given or detected positions."""
    usual = positions_of(detection, positions, error)[1]
    yield usual
    if error is None and len(detection.peaks) == first:
        yield np.concatenate([np.asarray(detection.peaks["error"], float), usual[first:]])


@dataclasses.dataclass(frozen=True, eq=False)
class StartCutter:
    """Cuts out work units, and reads stored models of their sources to start from.

    Attributes
    ----------
    cutter
        Cuts out pixels.
    store
        Where the models are.
    holders
        Blend that holds the model of a row, and its place there, by row.
    """

    cutter: Cutter
    store: ModelStore
    holders: dict[int, tuple[int, int]]

    @functools.cached_property
    def fwhm(self) -> float:
        """FWHM of the broadest PSF; found once, as many PSFs are measured for it."""
        return self.cutter.exposure.widest_fwhm()

    def cut(self, unit: WorkUnit) -> Cutout:
        """Cut out what one unit needs, and the models of sources whose light does not overlap with that of new ones.

        Models of the others have taken some of the light that was missed, and begin anew. Without many models that have
        not, all begin anew.
        """
        cutout = self.cutter.cut(unit)
        parts, started = [], []
        for number, places in self._held(unit, cutout.positions).items():
            record = self.store.record(number)
            if record.status in (RESULTS.CONVERGED, RESULTS.MAX_STEPS):
                members = np.array([self.holders[int(unit.rows[place])][1] for place in places])
                shift = np.subtract(record.box.start, unit.box.start).astype(record.blend.centers.dtype)
                parts.append(record.blend.take(members).trimmed().moved(shift, frame=unit.box.shape))
                started += places
        if len(started) < WORTHWHILE:
            return cutout
        return dataclasses.replace(cutout, start=Blend.join(parts), started=np.array(started))

    def _held(self, unit: WorkUnit, positions: Float[np.ndarray, "source 2"]) -> dict[int, list[int]]:
        """Places in the unit of the rows whose model is good to start with, by the blend that holds it."""
        new = np.array([int(row) not in self.holders for row in unit.rows])
        extent = light_extent(peak_significance(self.cutter.exposure, positions, self.fwhm), self.fwhm)
        distance = np.linalg.norm(positions[:, None] - positions[new], axis=-1)
        overlaps = np.any(distance <= extent[:, None] + extent[new], axis=1)
        found: dict[int, list[int]] = {}
        for place in np.flatnonzero(~new & ~overlaps):
            found.setdefault(self.holders[int(unit.rows[place])][0], []).append(int(place))
        return found
