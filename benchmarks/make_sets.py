"""Simulate a set of blends with known truth.

python -m benchmarks.make_sets --kind asymmetric --n 64 --seed 1 -o asymmetric64.npz
"""

import argparse
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxdeblend.simulate import save_truth_set, simulate_blend
from jaxdeblend.simulate.scene import Scene

logger = logging.getLogger(__name__)


def make_scenes(
    n: int,
    *,
    kind: str,
    seed: int,
    shape: tuple[int, int],
    bands: Sequence[str],
    n_sources: tuple[int, int],
    psf: np.ndarray | None = None,
    sky: np.ndarray | None = None,
) -> list[Scene]:
    """Simulate blends. Scene k has a random stream of its own: a longer set begins with the shorter one.

    Parameters
    ----------
    n
        Number of blends.
    kind
        "sersic" or "asymmetric".
    seed
        Seed of the set.
    shape, bands, n_sources
        As in `simulate_blend`.
    psf, sky
        PSF stamps (band, y, x) and sky variance (band,) of the survey; by default those of the simulation.

    Returns
    -------
    list of Scene
        The blends.

    Examples
    --------
    >>> len(make_scenes(2, kind="sersic", seed=1, shape=(32, 32), bands=("i",), n_sources=(1, 2)))
    2
    """
    return [
        simulate_blend(
            np.random.default_rng([seed, k]),
            kind=kind,
            shape=shape,
            bands=bands,
            n_sources=n_sources,
            psf=psf,
            sky=None if sky is None else list(sky),
        )
        for k in range(n)
    ]


def read_survey(path: str | pathlib.Path, bands: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """PSF stamps and sky variance of another set, in the order of `bands`.

    Parameters
    ----------
    path
        File with `psf`, `sky_var` and `bands`.
    bands
        Bands wanted.

    Returns
    -------
    tuple of np.ndarray
        Stamps (band, y, x) and sky variance (band,).

    Raises
    ------
    ValueError
        If a band is not in the file.
    """
    with np.load(path, allow_pickle=False) as file:
        names = [str(name) for name in file["bands"]]
        missing = [band for band in bands if band not in names]
        if missing:
            raise ValueError(f"`bands`: {path} has {names}, not {missing}.")
        rows = [names.index(band) for band in bands]
        return file["psf"][rows], file["sky_var"][rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    psf, sky = read_survey(options.psf_from, options.bands) if options.psf_from else (None, None)
    how = {
        "kind": options.kind,
        "seed": options.seed,
        "shape": (options.size, options.size),
        "n_sources": (options.min_sources, options.max_sources),
    }
    scenes = make_scenes(options.n, bands=tuple(options.bands), psf=psf, sky=sky, **how)
    save_truth_set(options.output, scenes, meta={"generator": "jaxdeblend.simulate", "n": options.n, **how})
    logger.info("%s: %d blends, %d sources", options.output, len(scenes), sum(len(s.kind) for s in scenes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.make_sets", description="Simulate a set of blends with known truth."
    )
    parser.add_argument("--kind", choices=("sersic", "asymmetric"), default="sersic", help="kind of galaxies")
    parser.add_argument("--n", type=int, default=64, help="number of blends (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="edge of the images in pixels (default: %(default)s)")
    parser.add_argument("--bands", default="ugrizy", help="bands, out of ugrizy (default: %(default)s)")
    parser.add_argument("--min-sources", type=int, default=2, help="fewest sources (default: %(default)s)")
    parser.add_argument("--max-sources", type=int, default=8, help="most sources (default: %(default)s)")
    parser.add_argument("--psf-from", type=pathlib.Path, help="take PSFs and sky from another set")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True, help="file to write, .npz")
    return parser


if __name__ == "__main__":
    main()
