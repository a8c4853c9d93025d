"""The products of a catalog run: whether they are exact, and how fast they are made; one JSON line.

    python -m benchmarks.products --size 300 --sources 260

A simulated patch in five bands, with its defects and PSFs that vary, is deblended by short fits into a store. Parents
of more sources than ``--piece`` are cut in pieces, those of one are skipped. The footprints are compared with
`jaxdeblend.render_sources` of some stored blends, in σ of the background, and the sum of a parent's sources and of what
is unassigned with the image, relative to the pixel or to σ, whichever is more.
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable

import equinox as eqx
import numpy as np

import jaxdeblend as jd
from jaxdeblend.simulate import simulate_patch

COMPARED = 20
"""Blends whose footprints are compared with their models: each is compiled for its own shape."""


def make_store(size: int, sources: int, piece: int, path: pathlib.Path, *, seed: int) -> tuple[jd.Exposure, int]:
    """Deblend a patch.

    Parameters
    ----------
    size
        Edge of the patch in pixels.
    sources
        Number of its sources.
    piece
        Sources that are fitted together.
    path
        The store.
    seed
        Seed of the patch.

    Returns
    -------
    exposure, count
        The patch, and the number of rows of the catalog.
    """
    patch = simulate_patch(seed, shape=(size, size), n_sources=sources)
    exposure = jd.Exposure(
        patch.images,
        patch.variance,
        patch.psf,
        bands=patch.bands,
        mask_bits=patch.mask_bits,
        mask_planes=patch.mask_planes,
        wcs=patch.wcs,
    )
    config = jd.DeblendConfig(max_iter=15, max_components=1, max_sources_per_piece=piece, process_singles=False)
    result = jd.deblend_catalog(exposure, config=config, store=path)
    return exposure, len(result.table)


def measure(size: int, sources: int, piece: int, *, seed: int, folder: pathlib.Path) -> dict[str, object]:
    """Make all products, and compare them with what they should be.

    Parameters
    ----------
    size, sources, piece, seed
        As for `make_store`.
    folder
        Folder for the store.

    Returns
    -------
    dict
        The line.
    """
    exposure, n_rows = make_store(size, sources, piece, folder / "models.h5", seed=seed)
    with jd.ModelStore(folder / "models.h5") as store:
        fitted = [record for record in store.records() if record.fit is not None]
        pieces = [len(store.blends_of(parent)) for parent in {record.parent for record in fitted}]
        list(jd.update_footprints(store, exposure, band=exposure.bands[0], redistribute_image=True))  # compiles
        models, footprints_s = _timed(lambda: [_footprints(store, exposure, band, False) for band in exposure.bands])
        shares, shares_s = _timed(lambda: [_footprints(store, exposure, band, True) for band in exposure.bands])
        jd.render_image(store, exposure)
        _, image_s = _timed(lambda: jd.render_image(store, exposure))
        return {
            "rows": n_rows,
            "fitted": sum(len(record.rows) for record in fitted),
            "parents": len(pieces),
            "cut_parents": sum(count > 1 for count in pieces),
            "most_pieces": max(pieces),
            "skipped": len(store.reasons()),
            "rows_lost": 5 * n_rows - sum(len(parent.sources) for band in models for parent in band),
            "footprint_error": max(_model_error(exposure, fitted[:: 1 + len(fitted) // COMPARED], models)),
            "sum_error": max(_sum_error(exposure, b, band) for b, band in enumerate(shares)),
            "given_twice": sum(_given_twice(exposure, band) for band in shares),
            "image_ms_per_blend": round(1e3 * image_s / len(fitted), 2),
            "footprint_ms_per_source": round(1e3 * footprints_s / n_rows / len(exposure.bands), 2),
            "share_ms_per_source": round(1e3 * shares_s / n_rows / len(exposure.bands), 2),
        }


def _timed(make: Callable[[], object]) -> tuple:
    start = time.perf_counter()
    made = make()
    return made, time.perf_counter() - start


def _footprints(
    store: jd.ModelStore, exposure: jd.Exposure, band: str, redistribute: bool
) -> list[jd.ParentFootprints]:
    return list(jd.update_footprints(store, exposure, band=band, redistribute_image=redistribute))


def _model_error(
    exposure: jd.Exposure, records: Iterable[jd.StoredBlend], found: list[list[jd.ParentFootprints]]
) -> Iterable[float]:
    """Largest difference of any pixel from the stored fit, in σ, blend by blend."""
    render_sources = eqx.filter_jit(jd.render_sources)
    sigma = np.asarray(exposure.observation().background_rms)
    sources = [{source.id: source for parent in band for source in parent.sources} for band in found]
    for record in records:
        cubes = np.asarray(render_sources(record.blend, exposure.observation(record.box)))
        for row, cube in zip(record.rows.tolist(), cubes, strict=True):
            for b, known in enumerate(sources):
                source = known[row]
                own = source.box.shifted_by(-record.box.start[0], -record.box.start[1])
                if source.area:
                    difference = np.abs(source.image - cube[b][own.slices])[source.spans]
                    yield float(difference.max() / sigma[b])


def _sum_error(exposure: jd.Exposure, band: int, parents: list[jd.ParentFootprints]) -> float:
    """Largest difference of sources and what is unassigned from the image, relative to the pixel or to σ."""
    sigma = float(np.asarray(exposure.observation().background_rms)[band])
    errors = [0.0]
    for parent in parents:
        if parent.unassigned is not None:
            image = exposure.images[(band, *parent.box.slices)]
            used = np.isfinite(image)
            difference = np.abs(parent.summed() + parent.unassigned - image)[used]
            errors.append(float((difference / np.maximum(np.abs(image[used]), sigma)).max(initial=0)))
    return max(errors)


def _given_twice(exposure: jd.Exposure, parents: list[jd.ParentFootprints]) -> int:
    """Number of pixels that two parents got."""
    count = np.zeros(exposure.shape, int)
    for parent in parents:
        count[parent.box.slices] += parent.summed() != 0
    return int((count > 1).sum())


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=300, help="edge of the patch in pixels")
    parser.add_argument("--sources", type=int, default=260, help="number of its sources")
    parser.add_argument("--piece", type=int, default=6, help="sources that are fitted together at most")
    parser.add_argument("--seed", type=int, default=1, help="seed of the patch")
    arguments = parser.parse_args(argv)
    given = arguments.size, arguments.sources, arguments.piece
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(*given, seed=arguments.seed, folder=pathlib.Path(folder))))


if __name__ == "__main__":
    main()
