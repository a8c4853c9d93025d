"""A real, crowded blend (five bands, eleven sources), each band deblended by templates; one JSON line.

    python -m benchmarks.crowded
    python -m benchmarks.crowded --figure crowded.png --band i

``conservation`` is the largest |Σ children + unassigned - image| in the footprint, in units of the image's maximum, of
all bands; ``flags`` are the numbers of sources that have each flag; ``ms`` is the time of all bands, once compiled. No
plane of bad, saturated or missing pixels is set in the mask of this blend, and interpolated ones are used.
"""

import argparse
import json
import time
from collections.abc import Mapping

import numpy as np

import jaxdeblend as jd
from jaxdeblend.single_band import SingleBandConfig, SingleBandFlag, SingleBandResult, deblend_single_band_batch
from jaxdeblend.view import asinh_norm, single_band_figure

from .data import find

BANDS = ("g", "r", "i", "z", "y")


def footprint_of(data: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pixels of the blend: those of ``footprint``, or all others where the sources lie outside of it."""
    inside = data["footprint"][tuple(data["centers"].T)]
    if inside.all() == inside.any():
        return data["footprint"] if inside.all() else ~data["footprint"]
    raise SystemExit("--set: some sources lie in the footprint and some do not.")


def deblend(data: Mapping[str, np.ndarray], config: SingleBandConfig) -> list[SingleBandResult]:
    """Each band by itself."""
    planes = zip(data["images"], data["variance"], data["psfs"], strict=True)
    blends = [(*plane, data["centers"]) for plane in planes]
    return deblend_single_band_batch(blends, footprints=[footprint_of(data)] * len(blends), config=config)


def conservation(image: np.ndarray, footprint: np.ndarray, result: SingleBandResult) -> float:
    """Largest difference between the image and what it was divided into, in units of its maximum."""
    total = result.children.sum(axis=0, dtype=float) + result.unassigned
    return float(np.abs(total - image)[footprint | result.footprint].max() / image[footprint].max())


def flags_of(result: SingleBandResult) -> dict[str, int]:
    """Number of sources that have each flag, of those that occur."""
    counts = {str(flag.name): int(((result.flags & int(flag)) != 0).sum()) for flag in SingleBandFlag}
    return {name: count for name, count in counts.items() if count}


def is_finite(result: SingleBandResult) -> bool:
    arrays = (result.children, result.variances, result.templates, result.unassigned)
    return all(bool(np.isfinite(array).all()) for array in arrays)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="testdata_3_0", help="name of the file in ../shared/data, or a path")
    parser.add_argument("--symmetry", default=SingleBandConfig.symmetry, help="what templates are mirrored about")
    parser.add_argument("--figure", help="file to draw one band to")
    parser.add_argument("--band", choices=BANDS, default="i", help="which")
    options = parser.parse_args(arguments)
    data, config = np.load(find(options.set)), SingleBandConfig(symmetry=options.symmetry)
    deblend(data, config)
    began = time.perf_counter()
    results = deblend(data, config)
    elapsed = time.perf_counter() - began
    footprint = footprint_of(data)
    lost = [conservation(image, footprint, result) for image, result in zip(data["images"], results, strict=True)]
    report = {
        "sources": len(data["centers"]),
        "finite": all(is_finite(result) for result in results),
        "conservation": float(f"{max(lost):.3g}"),
        "children": dict(zip(BANDS, [int((result.flags & 1 == 0).sum()) for result in results], strict=True)),
        "flags": {band: flags_of(result) for band, result in zip(BANDS, results, strict=True)},
        "symmetry": config.symmetry,
        "ms": round(1e3 * elapsed, 1),
        "version": jd.__version__,
    }
    if options.figure:
        number = BANDS.index(options.band)
        image, variance, result = data["images"][number], data["variance"][number], results[number]
        single_band_figure(
            image,
            result.templates,
            result.children,
            centers=data["centers"],
            flags=result.flags,
            norm=asinh_norm(image[None], variance[None]),
            path=options.figure,
        )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
