"""The single-band deblender: one blend, or many at once."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax

from ..runtime.host import settings_of_this_thread, usable_cores
from ..runtime.programs import Program
from .blend import BlendArrays, Children, deblend_arrays
from .config import SingleBandConfig
from .pack import Bucket, Item, pack
from .result import SingleBandResult, result_of, undivided

Group = tuple[Bucket, list[int]]
"""Numbers of blends that share a call."""


def deblend_single_band(
    image: object,
    variance: object,
    psf: object,
    centers: object,
    *,
    footprint: object | None = None,
    mask: object | None = None,
    config: SingleBandConfig | None = None,
) -> SingleBandResult:
    """Separate the sources of one image by templates.

    Each peak gets a template: the PSF, if that describes it, else the smaller of each pixel and its mirror image about
    the peak, smoothed and made monotone. Every pixel is then divided in proportion to the templates: no light is lost
    or made (Lupton 2001, "SDSS image processing II: the photo pipelines"; LSST's ``meas_deblender``). It takes one
    band and no iterations; where several bands are at hand, `jaxdeblend.deblend` knows more.

    Parameters
    ----------
    image
        Image (y, x), sky subtracted.
    variance
        Variance of each pixel, or of all.
    psf
        PSF, or a stamp of odd edge.
    centers
        Peaks (source, 2), (y, x) in pixels, integers at the centres of pixels; the more exact the better.
    footprint
        Boolean image of the blend's pixels; by default all.
    mask
        True where a pixel is unusable; pixels that are not finite, or whose variance is not positive, are so, too.
    config
        Options.

    Returns
    -------
    SingleBandResult
        Children, templates and a row for each peak, in the order of the input. What cannot be deblended has a dark
        child and a flag that says why; its light is ``unassigned``. `SingleBandResult.table` lists columns and flags.

    Raises
    ------
    ValueError
        If shapes or types do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.single_band import deblend_single_band
    >>> psf = jd.GaussianPSF(1.5)
    >>> scene = np.zeros((32, 40))
    >>> scene[1:30, 1:30] += 300 * np.asarray(psf.stamp(29)[0])
    >>> scene[1:30, 9:38] += 100 * np.asarray(psf.stamp(29)[0])
    >>> result = deblend_single_band(scene, 0.01, psf, [(15, 15), (15, 23)])
    >>> result.table()["flux"].round(-1).tolist()
    [300.0, 100.0]
    """
    blend = (image, variance, psf, centers)
    return deblend_single_band_batch([blend], footprints=[footprint], masks=[mask], config=config)[0]


def deblend_single_band_batch(
    blends: Iterable[tuple[object, object, object, object]],
    *,
    footprints: Iterable[object | None] | None = None,
    masks: Iterable[object | None] | None = None,
    config: SingleBandConfig | None = None,
) -> list[SingleBandResult]:
    """Separate the sources of many images, of any shapes and numbers of peaks, in few compiled programs.

    Images, PSFs and lists of peaks are padded to a short ladder of sizes, with one program for each; once a rung has
    been seen, nothing is compiled for it again. On a CPU each core takes one blend at a time; on an accelerator a fixed
    number of blends share a call. The results are those of `deblend_single_band`, and do not depend on the blends that
    come with one, on a CPU to the last bit.

    Parameters
    ----------
    blends
        ``(image, variance, psf, centers)`` of each blend.
    footprints, masks
        One for each blend, or None where there is none.
    config
        Options of all.

    Returns
    -------
    list of SingleBandResult
        In the order of the input.

    Raises
    ------
    ValueError
        As `deblend_single_band`; the message tells which blend.

    Examples
    --------
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.single_band import deblend_single_band_batch
    >>> blends = [(np.ones((n, 20)), 1.0, jd.GaussianPSF(1.5), [(10, 10)]) for n in (20, 24, 31)]
    >>> [result.children.shape for result in deblend_single_band_batch(blends)]
    [(1, 20, 20), (1, 24, 20), (1, 31, 20)]
    """
    options = SingleBandConfig() if config is None else config
    items = _checked(list(blends), footprints, masks, options)
    results = [undivided(item) for item in items]
    for number, result in _deblended(items, options):
        results[number] = result
    return results


def deblend_packed(blends: BlendArrays, config: SingleBandConfig, bucket: Bucket) -> Children:
    """Children of blends that have been padded to one shape, one in each lane; see `deblend_arrays`."""
    if len(blends.active) > 1:
        return jax.vmap(lambda blend: deblend_arrays(blend, config, bucket.fit_radius, in_turn=False))(blends)
    # without a lane, what a condition excludes costs nothing
    blend = jax.tree.map(lambda array: array[0], blends)
    children = deblend_arrays(blend, config, bucket.fit_radius, in_turn=bucket.in_turn)
    return jax.tree.map(lambda array: array[None], children)


run = Program(deblend_packed)
"""Compiled for all cores of a CPU. Two such calls at a time may wait for each other's threads forever."""

run_beside = Program(deblend_packed, one_core=True)
"""Compiled for one core of a CPU; calls run side by side."""


def _checked(blends: list, footprints: Iterable | None, masks: Iterable | None, config: SingleBandConfig) -> list[Item]:
    regions, masked = _one_each("footprints", footprints, blends), _one_each("masks", masks, blends)
    members = zip(blends, regions, masked, strict=True)
    return [_item(number, len(blends), *member, config) for number, member in enumerate(members)]


def _one_each(name: str, values: Iterable | None, blends: list) -> list:
    given = [None] * len(blends) if values is None else list(values)
    if len(given) != len(blends):
        raise ValueError(f"{name}: got {len(given)} for {len(blends)} blends; give one for each, or None.")
    return given


def _item(number: int, n_blends: int, blend: tuple, footprint: object, mask: object, config: SingleBandConfig) -> Item:
    try:
        image, variance, psf, centers = blend
        return Item.of(image, variance, psf, centers, footprint, mask, config)
    except ValueError as error:
        if n_blends > 1:
            raise ValueError(f"blend {number}: {error}") from error
        raise


def _deblended(items: list[Item], config: SingleBandConfig) -> Iterator[tuple[int, SingleBandResult]]:
    """Numbers and results of the blends in which anything is deblended."""
    as_here = settings_of_this_thread()

    def call(group: Group) -> list[tuple[int, SingleBandResult]]:
        bucket, numbers = group
        compiled = run_beside if bucket.side_by_side else run
        with as_here():
            children = jax.device_get(compiled(pack([items[k] for k in numbers], bucket), config, bucket))
        lanes = [jax.tree.map(lambda array, lane=lane: array[lane], children) for lane in range(len(numbers))]
        return [(k, result_of(items[k], lane)) for k, lane in zip(numbers, lanes, strict=True)]

    alone, first, others = _groups(items)
    for group in alone:
        yield from call(group)
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="jaxdeblend") as pool:
        for groups in (first, others):  # two calls that need the same program must not both compile it
            for results in pool.map(call, groups):
                yield from results


def _groups(items: list[Item]) -> tuple[list[Group], list[Group], list[Group]]:
    """Blends that share a call, large ones first: those that have all cores, one of each bucket, and all others.

    Those in which nothing is deblended need none.
    """
    members: dict[Bucket, list[int]] = {}
    for number, item in enumerate(items):
        if item.active.any():
            members.setdefault(item.bucket, []).append(number)
    alone, first, others = [], [], []
    for bucket, numbers in sorted(members.items(), key=lambda pair: -pair[0].cost):
        groups = [(bucket, numbers[k : k + bucket.lanes]) for k in range(0, len(numbers), bucket.lanes)]
        if bucket.side_by_side:
            first.append(groups[0])
            others += groups[1:]
        else:
            alone += groups
    return alone, first, others
