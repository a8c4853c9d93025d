"""How much faster than another deblender, on the same blends in the same run; one JSON line.

    python3 -m venv .venv-peers && .venv-peers/bin/pip install scarlet2
    python -m benchmarks.peers
    python -m benchmarks.peers --python /path/to/bin/python --adapter /path/to/peers_other.py

A peer lives in an environment of its own, and a script stands between: an adapter, which that environment's Python
runs as ``python -I ADAPTER in.npz out.npz``. The first file has ``bands`` and, for each blend, ``b000_images`` and
``b000_variance`` (band, y, x), infinite where a pixel is unusable, ``b000_psfs`` (band, h, w) and ``b000_centers``
(source, 2) as (y, x). The adapter writes to the second ``version`` and ``device``, which are strings, and for each
blend ``b000_first_s``, the seconds that it took with set-up and compilation, ``b000_again_s``, those of a second time
without compilation (NaN: cannot be told), ``b000_flux`` (source, band) and ``b000_steps`` (NaN: has none).
`benchmarks.peers_scarlet2` is one, and says how scarlet2 is set up.

The peer runs first, then jaxdeblend: once, which compiles every program, and again ``--repeat`` times, of which the
median counts. Neither time has the imports in it. ``speedup_first`` is the ratio of the times with compilation,
``speedup_again`` that without. ``flux_error_snr20`` is the median relative error in the i band of sources above an S/N
of 20, where a lost source, one whose flux is not finite, counts as infinitely wrong.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import tempfile

import jax
import numpy as np

import jaxdeblend as jd

from .data import find
from .ragged import Case, flux_error, load_cases
from .throughput import deblend_all

ADAPTER = pathlib.Path(__file__).with_name("peers_scarlet2.py")


def select(cases: list[Case], n: int) -> list[Case]:
    """So many of the blends, evenly over the set.

    Parameters
    ----------
    cases
        All blends.
    n
        How many are wanted.

    Returns
    -------
    list of Case
        All, if there are no more than that.

    Examples
    --------
    >>> select(list("abcdefgh"), 3)
    ['a', 'c', 'e']
    """
    return cases[:: max(1, len(cases) // n)][:n]


def write_blends(path: pathlib.Path, cases: list[Case]) -> None:
    """Write what an adapter reads.

    Parameters
    ----------
    path
        The .npz file.
    cases
        Blends, all of the same bands.
    """
    arrays: dict = {"bands": np.array(cases[0].obs.bands)}
    for number, case in enumerate(cases):
        obs = case.obs
        images, weights = np.asarray(obs.images), np.asarray(obs.weights)
        psfs = np.asarray(obs.psf.stamp(obs.psf.edge))
        arrays |= {
            f"b{number:03d}_images": images,
            f"b{number:03d}_variance": np.divide(1, weights, out=np.full_like(weights, np.inf), where=weights > 0),
            f"b{number:03d}_psfs": np.broadcast_to(psfs, (len(obs.bands), *psfs.shape[1:])),
            f"b{number:03d}_centers": case.centers,
        }
    np.savez(path, **arrays)


def run_peer(cases: list[Case], *, python: str | os.PathLike, adapter: str | os.PathLike) -> dict:
    """Have a peer deblend blends.

    Parameters
    ----------
    cases
        Blends, all of the same bands.
    python
        Interpreter of the peer's environment.
    adapter
        The script that it runs.

    Returns
    -------
    dict
        ``version``, ``device``, and, with an entry for each blend, ``first_s``, ``again_s``, ``steps`` and ``flux``.

    Raises
    ------
    SystemExit
        If the interpreter is missing, or the adapter fails or writes something else than the above.
    """
    name = pathlib.Path(adapter).stem.removeprefix("peers_")
    recipe = f"python3 -m venv .venv-peers && .venv-peers/bin/pip install {name}"
    with tempfile.TemporaryDirectory() as folder:
        blends, output = pathlib.Path(folder) / "in.npz", pathlib.Path(folder) / "out.npz"
        write_blends(blends, cases)
        command = [str(part) for part in (python, "-I", adapter, blends, output)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise SystemExit(f"--python: cannot run {str(python)!r} ({error.strerror}); make it: {recipe}") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"it left with {done.returncode}"])[-1]
            raise SystemExit(f"{name}: {last}; the peer's environment is made so: {recipe}")
        try:
            return _read(output, cases)
        except (OSError, KeyError, ValueError) as error:
            raise SystemExit(f"{name}: not what an adapter should write: {error}") from None


def _read(path: pathlib.Path, cases: list[Case]) -> dict:
    names = [f"b{number:03d}" for number in range(len(cases))]
    with np.load(path, allow_pickle=False) as file:
        result: dict = {key: str(file[key]) for key in ("version", "device")}
        for key in ("first_s", "again_s", "steps"):
            result[key] = np.array([float(file[f"{name}_{key}"]) for name in names])
        result["flux"] = [file[f"{name}_flux"] for name in names]
    for name, case, flux in zip(names, cases, result["flux"], strict=True):
        if flux.shape != case.truth.shape:
            raise ValueError(f"{name}_flux has shape {flux.shape} instead of {case.truth.shape}")
    return result


def measure(
    cases: list[Case], *, python: str | os.PathLike, adapter: str | os.PathLike = ADAPTER, repeat: int = 5
) -> dict:
    """Time a peer and jaxdeblend.

    Parameters
    ----------
    cases
        Blends, all of the same bands.
    python
        Interpreter of the peer's environment.
    adapter
        The script that it runs.
    repeat
        How often jaxdeblend deblends them after the first time; the median counts.

    Returns
    -------
    dict
        What `main` prints.
    """
    peer = run_peer(cases, python=python, adapter=adapter)  # first: only then do we take memory of an accelerator
    results, first = deblend_all(cases)
    again = float(np.median([deblend_all(cases)[1] for _ in range(repeat)]))
    fluxes = [np.asarray(result.measurements.flux) for result in results]
    device = jax.devices()[0]
    ours = _summary(cases, fluxes, first, again, [int(result.n_steps) for result in results])
    theirs = _summary(cases, peer["flux"], peer["first_s"].sum(), peer["again_s"].sum(), peer["steps"])
    return {
        "peer": peer["version"],
        "blends": len(cases),
        "sources": sum(len(case.centers) for case in cases),
        "speedup_first": _rounded(peer["first_s"].sum() / first, 2),
        "speedup_again": _rounded(peer["again_s"].sum() / again, 2),
        "ours": ours | {"device": device.device_kind, "version": jd.__version__},
        "theirs": theirs | {"device": peer["device"]},
    }


def _summary(cases: list[Case], fluxes: list[np.ndarray], first: float, again: float, steps: object) -> dict:
    return {
        "first_s": _rounded(first, 2),
        "again_s": _rounded(again, 3),
        "flux_error_snr20": _rounded(flux_error(cases, fluxes, snr_min=20.0), 4),
        "lost": sum(int((~np.isfinite(flux).all(axis=1)).sum()) for flux in fluxes),
        "steps_median": _rounded(np.median(np.asarray(steps)), 1),
    }


def _rounded(value: float, digits: int) -> float | None:
    """None, which JSON can say, for a number that is not finite."""
    return round(float(value), digits) if math.isfinite(value) else None


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="mixed100", help="name of a set in ../shared/data, or a path")
    parser.add_argument("--blends", type=int, default=12, help="how many blends, evenly over the set")
    parser.add_argument("--python", default=".venv-peers/bin/python", help="Python of the peer's environment")
    parser.add_argument("--adapter", default=ADAPTER, help="script that runs the peer")
    parser.add_argument("--repeat", type=int, default=5, help="how often jaxdeblend is run after it is compiled")
    arguments = parser.parse_args(argv)
    cases = select(load_cases(find(arguments.set)), arguments.blends)
    report = measure(cases, python=arguments.python, adapter=arguments.adapter, repeat=arguments.repeat)
    print(json.dumps({"set": arguments.set} | report))


if __name__ == "__main__":
    main()
