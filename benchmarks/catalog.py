"""A survey patch, from files to a catalog, by the command line; then the same with accidents. One JSON line.

    python -m benchmarks.catalog --small
    python -m benchmarks.catalog --output patch/
    python -m benchmarks.catalog --cluster --kills 0 --workers 0

A patch with known truth is simulated and deblended (`jaxdeblend simulate`, `jaxdeblend deblend-catalog`). The run is
then made again, killed at random moments and resumed after each; and once more by workers, of which one is killed. What
comes out is compared byte for byte. ``wall_s`` and ``peak_rss_gb`` are of the run without accidents; ``purity`` is the
share of its sources that are near a true one. With ``--cluster`` it is a globular cluster, thousands of stars in one
parent.
"""

import argparse
import collections
import filecmp
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend.catalog.compare import match_positions
from jaxdeblend.catalog.store import partial_folder
from jaxdeblend.simulate.survey import make_survey

SIZES = {False: (4000, 25_000), True: (1000, 1250)}
"""Edge of the patch in pixels, and number of its sources."""

CLUSTER = (640, 4000)
"""The same of a globular cluster."""

STARS = "point_below = inf\n"
"""Configuration for a cluster: all sources are stars."""

MIN_SNR = 10.0
"""Completeness and flux errors are of sources above this S/N, in all bands together and in the i band."""

MAGNITUDES = (17.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0)
"""Edges of the bins of flux errors."""

LOADED = 4e8
"""Bytes of a worker that has loaded JAX."""

POLL = 0.2
"""Seconds between looks at a run that is to be killed."""


def command(*arguments: object) -> list[str]:
    """The command line of jaxdeblend."""
    return [str(pathlib.Path(sys.executable).with_name("jaxdeblend")), *map(str, arguments)]


def deblend(patch: pathlib.Path, output: pathlib.Path, *more: object) -> list[str]:
    """The command that deblends a patch."""
    return command("deblend-catalog", patch / "exposure.toml", "-o", output, *more)


def run(arguments: list[str]) -> tuple[float, float]:
    """Seconds of a command, and the largest memory of its process in GB.

    Raises
    ------
    RuntimeError
        If it did not end well.
    """
    began = time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: there are rows without a flux
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(arguments)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024**2


def run_killed(arguments: list[str], store: pathlib.Path, moments: np.ndarray) -> int:
    """Kill a run at given moments, in seconds after it has begun to store blends, and resume it after each.

    Parameters
    ----------
    arguments
        The command.
    store
        Its store.
    moments
        When it is killed, each time anew.

    Returns
    -------
    int
        How often it was killed before it was done.
    """
    partial = partial_folder(store)
    killed = 0
    for moment in moments:
        process = subprocess.Popen([*arguments, "--resume"], stdout=subprocess.DEVNULL)
        pieces = len(list(partial.glob("*"))) if partial.exists() else 0
        while process.poll() is None and (not partial.exists() or len(list(partial.glob("*"))) <= pieces):
            time.sleep(POLL)
        time.sleep(float(moment))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    run([*arguments, "--resume"])
    return killed


def run_with_workers(arguments: list[str], workers: int) -> int:
    """A run by workers, of which one is killed soon after it has begun.

    Returns
    -------
    int
        How many were killed.
    """
    import psutil  # comes with Dask

    process = subprocess.Popen([*arguments, "--workers", str(workers)], stdout=subprocess.DEVNULL)
    busy = []
    while process.poll() is None and not busy:
        time.sleep(POLL)
        children = psutil.Process(process.pid).children(recursive=True)
        busy = [child for child in children if child.memory_info().rss > LOADED]
    time.sleep(2.0)
    for child in busy[:1]:
        child.send_signal(signal.SIGKILL)
    if process.wait() not in (0, 1):
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(arguments)} --workers {workers}")
    return len(busy[:1])


def same(one: pathlib.Path, two: pathlib.Path) -> bool:
    """Whether two runs made the same models and tables."""
    return all(
        filecmp.cmp(one / name, two / name, shallow=False)
        for name in ("models.h5", "catalog.ecsv", "parents.ecsv", "blends.ecsv")
    )


def score(table: Table, truth: Table, band: str = "i") -> dict:
    """Completeness, purity and flux errors, all and by magnitude.

    Parameters
    ----------
    table
        The catalog.
    truth
        All sources there are.
    band
        Band of the fluxes.
    """
    bands = [name.removeprefix("snr_") for name in truth.colnames if name.startswith("snr_")]
    snr = np.sqrt(np.sum([np.asarray(truth[f"snr_{name}"]) ** 2 for name in bands], axis=0))
    places = [np.stack([np.asarray(t["y"], float), np.asarray(t["x"], float)], axis=1) for t in (table, truth)]
    found, true = match_positions(*places)
    bright = snr >= MIN_SNR
    error = np.asarray(table[f"flux_{band}"], float)[found] / np.asarray(truth[f"flux_{band}"], float)[true] - 1
    used = np.isfinite(error) & (np.asarray(truth[f"snr_{band}"])[true] >= MIN_SNR)
    magnitude = make_survey([band]).magnitude(np.asarray(truth[f"flux_{band}"], float)[true])
    number = np.digitize(magnitude, MAGNITUDES)
    return {
        "n_true": len(truth),
        "completeness": round(float(np.mean(np.isin(np.flatnonzero(bright), true))), 4),
        "purity": round(len(found) / max(len(table), 1), 4),
        "flux_abs_median": round(float(np.median(np.abs(error[used]))), 4),
        "flux_by_magnitude": {
            f"{low:g}-{high:g}": {
                "n": int(mine.sum()),
                "median": round(float(np.median(error[mine])), 4),
                "abs_median": round(float(np.median(np.abs(error[mine]))), 4),
            }
            for k, (low, high) in enumerate(zip(MAGNITUDES, MAGNITUDES[1:], strict=False), start=1)
            if (mine := used & (number == k)).any()
        },
    }


def counts(table: Table, parents: Table) -> dict:
    """How many rows have each flag, and how many parents each status."""
    flags = np.asarray(table["flags"])
    return {
        "flags": {flag.name: n for flag in jd.Flag if (n := int(np.sum((flags & flag.value) != 0)))},
        "statuses": dict(collections.Counter(np.asarray(parents["status"]).tolist())),
        "n_parents": len(parents),
        "n_cut": int(np.sum(np.asarray(parents["n_pieces"]) > 1)),
        "largest_parent": int(np.max(np.asarray(parents["n_sources"]), initial=0)),
    }


def simulate(folder: pathlib.Path, *, edge: int, sources: int, seed: int, cluster: bool) -> None:
    """Simulate a patch, or a cluster, into a folder, if it is not there yet."""
    if (folder / "exposure.toml").exists():
        return
    kind = ("cluster", "--stars") if cluster else ("patch", "--sources")
    given = ("-o", folder, "--shape", edge, edge, "--seed", seed, "--no-pictures")
    seconds, memory = run(command("simulate", *kind, sources, *given))
    print(json.dumps({"stage": "simulate", "wall_s": round(seconds, 1), "peak_rss_gb": round(memory, 2)}), flush=True)


def benchmark(
    folder: pathlib.Path,
    *,
    edge: int,
    sources: int,
    seed: int = 1,
    kills: int = 3,
    workers: int = 2,
    cluster: bool = False,
) -> dict:
    """Simulate, deblend, and deblend again with accidents.

    Parameters
    ----------
    folder
        Where everything is written. A patch, or a run without accidents, that is there already is taken as it is.
    edge, sources, seed
        Of the patch.
    kills
        How often a run is killed; 0: not at all.
    workers
        Workers of the run with workers; 0: there is none.
    cluster
        Whether it is a globular cluster.

    Returns
    -------
    dict
        What `main` prints.
    """
    patch, plain = folder / "patch", folder / "plain"
    simulate(patch, edge=edge, sources=sources, seed=seed, cluster=cluster)
    config = folder / "config.toml"
    config.write_text(STARS if cluster else "")
    if not (plain / "catalog.ecsv").exists():
        seconds, memory = run(deblend(patch, plain, "--config", config))
        (plain / "cost.json").write_text(json.dumps({"wall_s": round(seconds, 1), "peak_rss_gb": round(memory, 2)}))
    table, truth = Table.read(plain / "catalog.ecsv"), Table.read(patch / "truth.fits")
    cost = json.loads((plain / "cost.json").read_text())
    record = json.loads((plain / "run.json").read_text())
    result = {
        "edge": edge,
        "n_peaks": len(Table.read(plain / "positions.ecsv")),
        "n_rows": len(table),
        **cost,
        "seconds": record["seconds"],
        **score(table, truth),
        **counts(table, Table.read(plain / "parents.ecsv")),
    }
    print(json.dumps({"stage": "plain"} | result), flush=True)
    if kills:
        moments = np.random.default_rng(seed).uniform(0, 0.6 * record["seconds"]["fit"] / kills, kills)
        killed = run_killed(
            deblend(patch, folder / "killed", "--config", config), folder / "killed" / "models.h5", moments
        )
        result |= {"killed": killed, "resumed_equal": same(plain, folder / "killed")}
    if workers:
        lost = run_with_workers(deblend(patch, folder / "dask", "--config", config), workers)
        result |= {"workers_killed": lost, "dask_equal": same(plain, folder / "dask")}
    return result | {"version": jd.__version__}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="1000 x 1000 pixels instead of 4000 x 4000")
    parser.add_argument("--cluster", action="store_true", help="a globular cluster, of 640 x 640 pixels and 4000 stars")
    parser.add_argument("--edge", type=int, help="edge of the patch in pixels")
    parser.add_argument("--sources", type=int, help="number of its sources")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3, help="how often a run is killed and resumed")
    parser.add_argument("--workers", type=int, default=2, help="workers of the run that loses one; 0: none")
    parser.add_argument("--output", type=pathlib.Path, help="folder that is kept; what is there is not made again")
    arguments = parser.parse_args(argv)
    edge, sources = CLUSTER if arguments.cluster else SIZES[arguments.small]
    given = {
        "edge": arguments.edge or edge,
        "sources": sources if arguments.sources is None else arguments.sources,
        "seed": arguments.seed,
        "kills": arguments.kills,
        "workers": arguments.workers,
        "cluster": arguments.cluster,
    }
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(benchmark(arguments.output or pathlib.Path(scratch), **given)))


if __name__ == "__main__":
    main()
