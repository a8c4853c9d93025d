"""Work units on their way through many processes, on one machine or on many, by Dask.distributed.

The plan alone says which units are sent together, so that timing decides only where and when something is fitted, never
what comes out. A worker is sent cut-outs as NumPy arrays and returns records of NumPy arrays; it sees neither the
exposure nor the store.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._version import __version__
from ..runtime.host import MACHINE_CORES
from .config import DeblendConfig
from .plan import WorkUnit
from .records import FAILED, unfitted_record
from .running import Cutout, Finished, Runner, one_blas_thread
from .store import StoredBlend

logger = logging.getLogger(__name__)

CHUNK = 64
"""Most blends that are sent to a worker at a time."""

USUAL_COST = 64**2 * 4
"""Cost of a usual blend, of 64 pixels and four sources; a chunk ends at that of as many as it may hold."""

AHEAD = 2
"""Chunks that are sent for each thread of a worker: one in work, one that waits."""

ALLOWED_FAILURES = 1
"""Workers of a local cluster that a chunk may lose before its blends are tried one by one."""


def require_distributed() -> Any:
    """Import Dask.distributed.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import distributed
    except ImportError as error:
        raise ImportError("workers need Dask.distributed: pip install 'jaxdeblend[distributed]'.") from error
    return distributed


@dataclasses.dataclass(frozen=True)
class Job:
    """How a worker fits.

    Attributes
    ----------
    config
        Settings of the fits.
    catch
        As for `Runner`.
    x64
        Whether in double precision.
    software
        Versions that the worker must have, so that it computes the same.
    """

    config: DeblendConfig
    catch: bool
    x64: bool
    software: str

    @classmethod
    def of(cls, config: DeblendConfig, *, catch: bool) -> "Job":
        """The job of this process and thread."""
        return cls(config, catch, bool(jax.config.jax_enable_x64), _software())  # pyright: ignore[reportAttributeAccessIssue]


def chunks(units: Iterable[WorkUnit], size: int = CHUNK) -> Iterator[tuple[WorkUnit, ...]]:
    """Cut units into what is sent together, the largest first.

    Parameters
    ----------
    units
        The units.
    size
        Most units of a chunk. It also ends before its cost exceeds that of as many usual blends.

    Yields
    ------
    tuple of WorkUnit
        Units that are sent together.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> edges = [40, 30, 500, 30, 30]
    >>> units = [WorkUnit(k, k, np.array([k]), 1, jd.Box((0, 0), (edge, edge))) for k, edge in enumerate(edges)]
    >>> [[unit.id for unit in chunk] for chunk in chunks(units, 3)]
    [[2], [0, 1, 3], [4]]
    """
    chunk: list[WorkUnit] = []
    cost = 0
    for unit in sorted(units, key=lambda unit: (-unit.cost, unit.id)):
        if chunk and (len(chunk) == size or cost + unit.cost > size * USUAL_COST):
            yield tuple(chunk)
            chunk, cost = [], 0
        chunk.append(unit)
        cost += unit.cost
    if chunk:
        yield tuple(chunk)


def fit_chunk(cutouts: Sequence[Cutout], job: Job) -> list[StoredBlend]:
    """Fit what a worker was sent.

    Parameters
    ----------
    cutouts
        As from `sent`.
    job
        How.

    Returns
    -------
    list of StoredBlend
        A record of each; all arrays are NumPy's.

    Raises
    ------
    RuntimeError
        If the worker has other versions than the process that sent it.
    """
    if job.software != _software():
        raise RuntimeError(f"a worker has {_software()}, but is to compute as {job.software}: install the same.")
    with jax.enable_x64(job.x64), one_blas_thread():
        here = {one.unit.id: _received(one) for one in cutouts}
        config = job.config
        runner = Runner(
            lambda unit: here[unit.id],
            config.initialization(),
            config.optimizer(),
            catch=job.catch,
            memory=config.memory,
        )
        return [_on_host(record) for record in runner.records([one.unit for one in here.values()])]


@dataclasses.dataclass(frozen=True, eq=False)
class _Device:
    """An array that was on the device, on its way as one of NumPy."""

    values: np.ndarray


def sent(cutout: Cutout) -> Cutout:
    """A cut-out without arrays on the device and without what its observation says already."""

    def lift(leaf: object) -> object:
        return _Device(np.asarray(leaf)) if isinstance(leaf, jax.Array) else leaf

    unit = dataclasses.replace(cutout.unit, exclude=None, footprint=None)
    return dataclasses.replace(cutout, unit=unit, obs=jax.tree.map(lift, cutout.obs))


def _received(cutout: Cutout) -> Cutout:
    """What `sent` was given. A PSF is rendered where its arrays are, and NumPy's last bits are not those of JAX."""

    def lower(leaf: object) -> object:
        return jnp.asarray(leaf.values) if isinstance(leaf, _Device) else leaf

    obs = jax.tree.map(lower, cutout.obs, is_leaf=lambda leaf: isinstance(leaf, _Device))
    return dataclasses.replace(cutout, obs=obs)


def _on_host(record: StoredBlend) -> StoredBlend:
    fit, measurements = _numpy((record.fit, record.measurements))
    return dataclasses.replace(record, fit=fit, measurements=measurements)


def _numpy(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, tree)


def _software() -> str:
    return f"jaxdeblend {__version__}, jax {jax.__version__}"


@dataclasses.dataclass(eq=False)
class Distributor:
    """Fits work units on the workers of a Dask cluster.

    Attributes
    ----------
    workers
        As for `connected`.
    cut
        As for `Runner`; called here, not on the workers.
    job
        How workers fit.
    chunk
        Most blends that are sent to a worker at a time.
    """

    workers: Any
    cut: Callable[[WorkUnit], Cutout]
    job: Job
    chunk: int = CHUNK

    def records(self, units: Sequence[WorkUnit]) -> Generator[StoredBlend, None, None]:
        """Fit units, the largest first. A few chunks for each worker are under way at a time.

        A chunk whose worker dies is sent to another. When one has lost as many workers as the scheduler allows, all of
        its blends are fitted one at a time, after all others, so that none is taken for the one that kills.

        Parameters
        ----------
        units
            The units.

        Yields
        ------
        StoredBlend
            A record of each unit, as it comes back.

        Raises
        ------
        RuntimeError
            If a blend alone kills its workers, and failures are not caught.
        """
        if not units:
            return
        with connected(self.workers) as client:
            if not client.nthreads():
                logger.warning("the scheduler has no workers yet: the run waits for some")
            suspects: list[WorkUnit] = []
            yield from self._through(client, chunks(units, self.chunk), suspects)
            if suspects:
                logger.warning("workers died again and again; %d blends are fitted one by one", len(suspects))
            for unit in suspects:
                guilty: list[WorkUnit] = []
                yield from self._through(client, iter([(unit,)]), guilty)
                for one in guilty:
                    yield self._deadly(one)

    def _through(
        self, client: Any, waiting: Iterator[tuple[WorkUnit, ...]], killed: list[WorkUnit]
    ) -> Iterator[StoredBlend]:
        """Records of chunks; `killed` gets the units of those that lost all their workers."""
        distributed = require_distributed()
        running: dict[Any, tuple[WorkUnit, ...]] = {}
        completed = distributed.as_completed(loop=client.loop)
        try:
            while True:
                while len(running) < _places(client) and (units := next(waiting, None)) is not None:
                    cutouts, failed = self._cut(units)
                    yield from failed
                    if cutouts:
                        future = _submit(client, cutouts, self.job)
                        running[future] = tuple(one.unit for one in cutouts)
                        completed.add(future)
                if not running:
                    return
                future = next(completed)
                units = running.pop(future)
                try:
                    records = future.result()
                except distributed.KilledWorker:
                    killed += units
                else:
                    yield from records
        finally:
            client.cancel(list(running))

    def _cut(self, units: tuple[WorkUnit, ...]) -> tuple[list[Cutout], list[StoredBlend]]:
        """What is sent, and records of what could not be cut out."""
        cutouts, failed = [], []
        for unit in units:
            try:
                cutouts.append(sent(self.cut(unit)))
            except Exception as error:
                if not self.job.catch:
                    raise
                failed.append(Finished.failed(unit, error).recorded()[0])
        return cutouts, failed

    def _deadly(self, unit: WorkUnit) -> StoredBlend:
        text = "its workers died, each time that it was tried alone"
        if not self.job.catch:
            raise RuntimeError(f"blend {unit.id}: {text}; it may need more memory than a worker has.")
        logger.warning("blend %d failed: %s", unit.id, text)
        return unfitted_record(unit, FAILED + text)


def _places(client: Any) -> int:
    """Chunks that may be under way; workers may come and go."""
    return AHEAD * max(1, sum(client.nthreads().values()))


def _submit(client: Any, cutouts: list[Cutout], job: Job) -> Any:
    with warnings.catch_warnings():
        # Dask would like large input to lie on a worker already; there it would be lost with that worker
        warnings.filterwarnings("ignore", message="Sending large graph")
        return client.submit(fit_chunk, cutouts, job, pure=False)


@contextlib.contextmanager
def connected(workers: Any) -> Iterator[Any]:
    """A client of the workers.

    Parameters
    ----------
    workers
        Number of processes to start on this machine, address of a scheduler, or a client.

    Yields
    ------
    distributed.Client
        The client. What was started is stopped at the end.

    Raises
    ------
    ValueError
        If it is none of these.
    OSError
        If there is no scheduler at the address.
    """
    distributed = require_distributed()
    if isinstance(workers, distributed.Client) and not workers.asynchronous:
        yield workers
    elif isinstance(workers, str):
        with distributed.Client(workers, set_as_default=False) as client:
            yield client
    elif isinstance(workers, int) and workers >= 1:
        with local_workers(workers) as client:
            yield client
    else:
        raise ValueError(
            f"workers: got {workers!r}; give a number of processes, the address of a scheduler, or a "
            "distributed.Client that is not asynchronous."
        )


@contextlib.contextmanager
def local_workers(count: int) -> Iterator[Any]:
    """Processes on this machine, of one thread each, that share its cores, memory and accelerators.

    Processes are spawned, not forked: JAX does not survive a fork.

    Parameters
    ----------
    count
        Number of processes.

    Yields
    ------
    distributed.Client
        A client of them.
    """
    distributed = require_distributed()
    plugin = distributed.WorkerPlugin()
    plugin.name = "jaxdeblend"
    plugin.setup = functools.partial(
        prepare_worker,
        count=count,
        devices=_devices(),
        cache=jax.config.jax_compilation_cache_dir,  # pyright: ignore[reportAttributeAccessIssue]
    )
    with (
        _spawning(),
        distributed.LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=distributed.system.MEMORY_LIMIT // count,
            scheduler_kwargs={"allowed_failures": ALLOWED_FAILURES},
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(plugin)
        yield client


def prepare_worker(worker: Any, *, count: int, devices: Sequence[str] = (), cache: str | None = None) -> None:
    """Give this process its share of the machine, before JAX begins to compute.

    Threads that are started later, among them those of XLA, stay on the cores of the share. Where a system cannot bind
    threads to cores, all workers use all of them.

    Parameters
    ----------
    worker
        Worker of this process; its name is its number, from 0.
    count
        Number of all workers.
    devices
        Accelerators, as ``CUDA_VISIBLE_DEVICES`` names them: each worker sees one.
    cache
        Folder of compiled programs, which all share.
    """
    index = int(worker.name)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.environ[MACHINE_CORES] = ",".join(map(str, cores))
        os.environ.setdefault("NPROC", str(len(cores)))  # number of threads of JAX's CPU client, as in one process
        os.sched_setaffinity(0, cores[index % len(cores) :: count])
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others may use the same one
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _devices() -> tuple[str, ...]:
    """The NVIDIA GPUs that this process computes on."""
    if jax.default_backend() != "gpu":
        return ()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(named or [str(number) for number in range(jax.local_device_count())])


@contextlib.contextmanager
def _spawning() -> Iterator[None]:
    """Processes that Dask starts are spawned, whatever its configuration says."""
    from dask import config

    with config.set({"distributed.worker.multiprocessing-method": "spawn"}):
        yield
