"""The store of fitted models: its size and its speed; one JSON line.

    python -m benchmarks.store --blends 3000

Blends are made, not fitted: as many sources, components and stamps as those of a survey have, with shapes that are zero
on nineteen of twenty pixels, where they are fainter than the noise, as on fits to simulated LSST blends. They are
appended in random order, read one after the other, read one by one at random, merged from shards, and taken to FITS and
back. Megabytes are those of the models in memory, four bytes for each pixel of a stamp.
"""

import argparse
import filecmp
import json
import pathlib
import tempfile
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxdeblend as jd
from jaxdeblend.measurement.photometry import Measurements
from jaxdeblend.model.blend import FitRecord, Stack

BANDS = ("u", "g", "r", "i", "z", "y")
CONSTRAINTS = (jd.Positive(), jd.Monotonic(), jd.SparseThreshold(0.2), jd.CenterKept())
PRIORS = (jd.SymmetricPrior(0.2, 0.5),)


def make_blend(number: int, seed: int) -> jd.StoredBlend:
    """A blend of one to eight sources, half of its components on large stamps and half on small ones.

    Parameters
    ----------
    number
        Number of the blend.
    seed
        Seed of the set.
    """
    rng = np.random.default_rng((seed, number))
    n = min(1 + rng.poisson(2), 8)
    edge = int(rng.choice([31, 47, 63]))
    n_components = n + max(1, (n + 1) // 4)
    source = np.concatenate([np.arange(n), rng.integers(0, n, n_components - n)]).astype(np.int32)
    large = max(2, (n + 1) // 2)
    groups = ((slice(0, large), edge), (slice(large, None), edge // 2 | 1))
    stacks = tuple(_stack(rng, source[part], each) for part, each in groups if len(source[part]))
    centers = rng.uniform(5, edge - 5, (n, 2)).astype(np.float32)
    blend = jd.Blend(
        centers=centers,
        center_prior=jd.CenterPrior(centers + np.float32(0.05), np.full(n, 0.1, np.float32)),
        stacks=stacks,
        active=np.ones(n, dtype=bool),
        frame=(edge + 1, edge + 1),
        record=FitRecord(np.array(0, np.int32), flags=np.zeros(n, np.int32)),
    )
    n_steps = int(rng.integers(30, 150))
    loss = (1e4 + 1e3 * np.exp(-np.arange(n_steps) / 20)).astype(np.float32)
    fit = jd.FitResult(blend, loss, np.array(n_steps, np.int32), np.array(0, np.int32))
    box = jd.Box((int(rng.integers(4000)), int(rng.integers(4000))), (edge + 1, edge + 1))
    return jd.StoredBlend(number, number // 2, box, np.arange(n) + 8 * number, fit, _measurements(rng, centers))


def _stack(rng: np.random.Generator, source: np.ndarray, edge: int) -> Stack:
    """Components of sources: exponential disks with their noise, nothing below it."""
    count = len(source)
    offset = np.arange(edge) - edge // 2
    radius = np.hypot(offset[:, None], offset[None, :])
    scale = rng.lognormal(np.log(1.0), 0.3, (count, 1, 1))
    noise = 10 ** rng.uniform(-2.5, -0.5, (count, 1, 1))
    pixels = np.exp(-radius / scale) + 0.2 * noise * rng.normal(size=(count, edge, edge))
    pixels[pixels < 0.7 * noise] = 0.0
    spectra = rng.lognormal(3, 1, (count, len(BANDS))).astype(np.float32)
    one = jd.FactorizedComponent(
        jd.FreeSpectrum(jnp.zeros(len(BANDS))), jd.ImageMorphology(jnp.zeros((edge, edge)), CONSTRAINTS, PRIORS)
    )
    many = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], count, axis=0), one)
    component = eqx.tree_at(
        lambda part: (part.spectrum.amplitude, part.morphology.pixels), many, (spectra, pixels.astype(np.float32))
    )
    return Stack(component, source, rng.uniform(size=count) < 0.9)


def _measurements(rng: np.random.Generator, centers: np.ndarray) -> Measurements:
    n = len(centers)
    per_band = rng.lognormal(3, 1, (5, n, len(BANDS))).astype(np.float32)
    moments = rng.uniform(0, 4, (n, 3)).astype(np.float32)
    return Measurements(*per_band, centers, moments, np.ones(n, np.int32), np.zeros(n, np.int32))


def write(path: pathlib.Path, records: list[jd.StoredBlend], header: jd.StoreHeader) -> float:
    """Seconds in which a store was written and closed."""
    began = time.perf_counter()
    with jd.StoreWriter.create(path, header) as writer:
        for record in records:
            writer.append(record)
    return time.perf_counter() - began


def read_each(path: pathlib.Path, numbers: np.ndarray) -> tuple[float, float]:
    """Median milliseconds in which one blend was read, in an open store and together with its opening."""
    seconds = []
    with jd.ModelStore(path) as store:
        store.blend(int(numbers[0]))  # what is worked out once for each kind of component
        for number in numbers:
            began = time.perf_counter()
            store.blend(int(number))
            seconds.append(time.perf_counter() - began)
    cold = []
    for number in numbers[:10]:
        began = time.perf_counter()
        with jd.ModelStore(path) as store:
            store.blend(int(number))
        cold.append(time.perf_counter() - began)
    return 1e3 * float(np.median(seconds)), 1e3 * float(np.median(cold))


def is_exact(path: pathlib.Path, records: list[jd.StoredBlend]) -> bool:
    """Whether every blend of a store has the bits that were appended."""
    with jd.ModelStore(path) as store:
        for stored, record in zip(store.records(), sorted(records, key=lambda record: record.id), strict=True):
            leaves = [jax.tree.leaves((each.blend, each.measurements)) for each in (stored, record)]
            if any(a.tobytes() != np.asarray(b).tobytes() for a, b in zip(*leaves, strict=True)):
                return False
    return True


def measure(n_blends: int, *, seed: int, folder: pathlib.Path) -> dict[str, object]:
    """Make blends, store them, and report size and speed."""
    header = jd.StoreHeader(bands=BANDS, config="seed = 1\n")
    records = [make_blend(number, seed) for number in range(n_blends)]
    order = np.random.default_rng(seed).permutation(n_blends)
    pixels = sum(stack.component.morphology.pixels.size for record in records for stack in record.blend.stacks)
    megabytes = 4e-6 * pixels
    path = folder / "models.h5"
    write_s = write(path, [records[k] for k in order], header)
    began = time.perf_counter()
    with jd.ModelStore(path) as store:
        n_read = sum(1 for _ in store.records())
    read_s = time.perf_counter() - began
    warm, cold = read_each(path, order[:200])
    shards = [folder / f"{k}.h5" for k in range(3)]
    for k, shard in enumerate(shards):
        write(shard, [records[j] for j in order[k::3]], header)
    began = time.perf_counter()
    jd.merge_stores(shards, folder / "merged.h5")
    merge_s = time.perf_counter() - began
    jd.store_to_fits(path, folder / "models.fits")
    jd.store_from_fits(folder / "models.fits", folder / "again.h5")
    return {
        "n_blends": n_read,
        "n_sources": sum(len(record.rows) for record in records),
        "model_pixels": pixels,
        "bytes_per_pixel": round(path.stat().st_size / pixels, 4),
        "kb_per_blend": round(1e-3 * path.stat().st_size / n_blends, 2),
        "write_mb_per_s": round(megabytes / write_s, 1),
        "read_mb_per_s": round(megabytes / read_s, 1),
        "merge_mb_per_s": round(megabytes / merge_s, 1),
        "partial_read_ms": round(warm, 2),
        "open_and_read_ms": round(cold, 2),
        "exact": is_exact(path, records),
        "shards_equal": filecmp.cmp(path, folder / "merged.h5", shallow=False),
        "fits_equal": filecmp.cmp(path, folder / "again.h5", shallow=False),
        "fits_bytes_per_pixel": round((folder / "models.fits").stat().st_size / pixels, 3),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blends", type=int, default=3000, help="number of blends")
    parser.add_argument("--seed", type=int, default=1, help="seed of the blends")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(arguments.blends, seed=arguments.seed, folder=pathlib.Path(folder))))


if __name__ == "__main__":
    main()
