"""Every field of the configuration changes what it says it changes.

Where the plan shows it, nothing is fitted. All fits are of blends in windows of at most 32 pixels, through two
programs: that of the defaults, and one for all the fields that need another, see `STATIC`.
"""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.ndimage
from astropy.table import Table

import jaxdeblend as jd
from jaxdeblend import DeblendConfig, deblend_catalog
from jaxdeblend.batch import stages
from jaxdeblend.catalog import running
from jaxdeblend.catalog.distribute import Job, fit_chunk, sent
from tests.scenes import PSF_SIGMA, gaussian

BANDS = ("g", "i")
SHAPE = (72, 112)
GALAXY, STAR, ALONE, FAINT, LOPSIDED, *TRAIL, OUTSIDE = range(8)
CENTERS = np.array(
    [[16.3, 16.8], [19.1, 22.9], [16.0, 48.0], [46.4, 20.2], [18.0, 82.0], [54.0, 58.0], [54.0, 84.0], [-4.0, 3.0]]
)
"""The first two are one parent, the two on the trail another; the last is off the image."""
FLUX = np.array([[6000.0, 4000.0], [1500.0, 3000.0], [1200.0, 900.0], [200.0, 2.0], [2500.0, 2000.0]])
"""In each band; the faint one is seen in the first only."""
SIGMAS = (1.5, 0.0, 1.2, 1.8, 1.2)
N_FITTED = 5
"""The first rows, which are fitted where any are."""
STATIC = {"max_iter": 20, "max_components": 1, "symmetry": False}
"""Each of these needs a program of its own, which takes ten seconds to compile: they share one."""


def lights():
    """Images of all that shines: sources, a clump at the side of the lopsided one, and the trail of a satellite."""
    shapes = [gaussian(SHAPE, c, np.hypot(PSF_SIGMA, s)) for c, s in zip(CENTERS[:5], SIGMAS, strict=True)]
    cube = np.einsum("nb,nyx->byx", FLUX, shapes)
    cube += np.array([800.0, 200.0])[:, None, None] * gaussian(SHAPE, (20.0, 85.0), 1.7)
    y, x = np.indices(SHAPE)
    return cube + 20 * np.exp(-0.5 * (y - 54) ** 2 / PSF_SIGMA**2) * ((x > 45) & (x < 97))


@pytest.fixture(scope="module")
def exposure():
    noise = np.random.default_rng(5).normal(0, 1, (2, *SHAPE))
    bits = np.zeros((2, *SHAPE), int)
    bits[0, 3] = 1
    bits[1, 20:23, 47:50] = 2  # at the side of the galaxy that is alone
    planes = {"BAD": 0, "SAT": 1}
    psf = jd.GaussianPSF(PSF_SIGMA)
    return jd.Exposure(lights() + noise, [1.0, 1.0], psf, bands=BANDS, mask_bits=bits, mask_planes=planes)


class Run:
    """What a configuration makes of the exposure."""

    def __init__(self, exposure, centers, config, *, fits):
        self.units, self.finished, run = [], [], running.Runner.run

        def spied(runner, units):
            self.runner, self.units = runner, units
            for done in run(runner, units) if fits else ():
                self.finished.append(done)
                yield done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running.Runner, "run", spied)
            self.result = deblend_catalog(exposure, centers, config=config)

    @property
    def skipped(self):
        """Rows of the image that are not fitted, and why."""
        rows, texts = (self.result.table[name].tolist() for name in ("id", "skip_reason"))
        return {row: text for row, text in zip(rows, texts, strict=True) if text and "outside" not in text}

    def fit_of(self, row):
        """The fit of a row."""
        return next(done for done in self.finished if row in done.unit.own)

    def n_steps(self):
        """Steps of the fits of all rows."""
        return np.array([int(self.fit_of(row).result.n_steps) for row in range(N_FITTED)])


class Runs:
    """Runs of the exposure under changed configurations, each made once."""

    def __init__(self, exposure):
        self.exposure, self._known = exposure, {}

    def planned(self, centers=CENTERS, **changes):
        """Nothing is fitted: the table has those rows that are skipped."""
        return Run(self.exposure, centers, DeblendConfig(**changes), fits=False)

    def fitted(self, **changes):
        """The first rows are fitted."""
        config = DeblendConfig(**changes)
        if (key := config.to_toml()) not in self._known:
            self._known[key] = Run(self.exposure, CENTERS[:N_FITTED], config, fits=True)
        return self._known[key]


@pytest.fixture(scope="module")
def runs(exposure):
    return Runs(exposure)


def snr(exposure):
    """S/N of a point source at each place on the image, by band."""
    shapes = np.array([gaussian(SHAPE, center, PSF_SIGMA) for center in CENTERS[:OUTSIDE]])
    return np.einsum("nyx,byx->nb", shapes, exposure.images) / np.sqrt(np.sum(shapes**2, axis=(1, 2)))[:, None]


def detected(run):
    """Rows that were detected; the two of the trail stand for whatever is seen of it."""
    found = run.result.detection.centers
    on_trail = np.abs(found[:, 0] - CENTERS[TRAIL[0], 0]) < 2
    distance = np.linalg.norm(found[~on_trail, None] - CENTERS[None, :OUTSIDE], axis=-1)
    assert (distance.min(axis=1) < 1).all()
    return sorted(distance.argmin(axis=1).tolist() + TRAIL * bool(on_trail.any()))


def same_fit(one, two):
    return all(
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(jax.tree.leaves(one.result.fit), jax.tree.leaves(two.result.fit), strict=True)
    )


def check_threshold(runs):
    total = np.linalg.norm(snr(runs.exposure), axis=1)
    for run, threshold in ((runs.planned(None), 5), (runs.planned(None, threshold=150.0), 150)):
        assert detected(run) == np.flatnonzero(total > threshold).tolist()


def check_detection(runs):
    together, merged = (runs.planned(None, detection=method) for method in ("chi2", "merge"))
    assert detected(merged) == detected(together)
    assert "merge_peak_g" not in together.result.detection.peaks.colnames
    seen = snr(runs.exposure) > 5
    peaks, centers = merged.result.detection.peaks, merged.result.detection.centers
    for row in range(N_FITTED):
        nearest = np.linalg.norm(centers - CENTERS[row], axis=1).argmin()
        assert [peaks[f"merge_peak_{band}"][nearest] for band in BANDS] == seen[row].tolist()


def check_relative_error(runs):
    usual, strict = runs.fitted(), runs.fitted(relative_error=1e-5)
    assert (strict.n_steps() >= usual.n_steps()).all() and (strict.n_steps() > usual.n_steps()).any()
    for row in range(N_FITTED):
        coarse, fine = (np.nanmin(run.fit_of(row).result.loss) for run in (usual, strict))
        assert fine <= coarse


def check_max_iter(runs):
    few = STATIC["max_iter"]
    assert runs.fitted().n_steps().max() > few >= runs.fitted(**STATIC).n_steps().max()


def check_min_iter(runs):
    many = 60
    assert runs.fitted().n_steps().min() < many <= runs.fitted(min_iter=many).n_steps().min()


def off_balance(done):
    """Σ w M (I - ΣM) of each source and band in σ of a flux, which is 0 for spectra of least squares."""
    weights, models = np.asarray(done.cutout.obs.weights, float), np.nan_to_num(done.result.source_models)
    residual = np.asarray(done.cutout.obs.images, float) - models.sum(axis=0)
    return np.abs(np.sum(weights * residual * models, axis=(2, 3))) / np.sqrt(np.sum(weights * models**2, axis=(2, 3)))


def check_set_spectra(runs):
    exact, left = runs.fitted(), runs.fitted(set_spectra=False)
    for row in range(N_FITTED):
        solved, as_fitted = exact.fit_of(row), left.fit_of(row)
        np.testing.assert_array_equal(solved.result.loss, as_fitted.result.loss)
        assert off_balance(solved).max() < 1e-3 and off_balance(as_fitted).max() > 0.02


def check_max_spectrum_cutoff(runs):
    cutoff = 32 * 32
    exact, left, mixed = runs.fitted(), runs.fitted(set_spectra=False), runs.fitted(max_spectrum_cutoff=cutoff)
    small = [
        done.unit.own[0] for done in exact.finished if len(done.unit.rows) * done.cutout.obs.images[0].size < cutoff
    ]
    assert sorted(small) == [ALONE, FAINT]
    for row in range(N_FITTED):
        assert same_fit(mixed.fit_of(row), (exact if row in small else left).fit_of(row))


def check_process_singles(runs):
    skipped = runs.planned(process_singles=False).skipped
    assert skipped == dict.fromkeys([ALONE, FAINT, LOPSIDED], "skipped: process_singles: it is alone")
    assert not runs.planned().skipped


def check_max_components(runs):
    assert set(runs.fitted().result.table["n_components"]) == {1, 2}
    assert set(runs.fitted(**STATIC).result.table["n_components"]) == {1}


def components(done, *, points=True):
    """Shape and spectrum of each component that is lit, with or without points, and its source."""
    for stack in done.result.blend.stacks:
        pixels, spectra = stack.component.morphology.pixels, stack.component.spectrum.amplitude
        for which in np.flatnonzero(np.asarray(stack.active) & (points | ~np.asarray(stack.is_point))):
            yield np.asarray(pixels[which]), np.asarray(spectra[which]), int(stack.source[which])


def check_background_thresh(runs):
    lit = {}
    for level in (0.2, 2.0):  # spectra that were solved for would scale the shapes after they were cut
        run = runs.fitted(background_thresh=level, set_spectra=False)
        noise = np.asarray(run.fit_of(0).cutout.obs.background_rms)
        found = [
            np.max(flux / noise) * shape for done in run.finished for shape, flux, _ in components(done, points=False)
        ]
        lit[level] = np.concatenate([image[image > 0] for image in found])
        assert lit[level].min() > 0.999 * level
    assert (lit[0.2] < 2.0).any() and len(lit[2.0]) < len(lit[0.2])


def lopsidedness(run, row):
    """Share of a model's light that has none to match on the other side."""
    parts = [flux.sum() * shape for shape, flux, _ in components(run.fit_of(row))]
    image = np.sum(parts, axis=0)
    return np.abs(image - image[::-1, ::-1]).sum() / (2 * image.sum())


def check_symmetry(runs):
    for row, most in ((ALONE, 0.35), (FAINT, 0.25), (LOPSIDED, 0.9)):  # the last is so in truth, and bright
        with_prior, without = (lopsidedness(run, row) for run in (runs.fitted(), runs.fitted(**STATIC)))
        assert with_prior < most * without
    assert [len(DeblendConfig(symmetry=wanted).initialization().priors) for wanted in (True, False)] == [1, 0]


def check_point_below(runs):
    usual, changed = runs.fitted(), runs.fitted(point_below=100.0)
    assert np.flatnonzero(np.linalg.norm(snr(runs.exposure)[:N_FITTED], axis=1) < 100) == [FAINT]
    star = np.asarray(changed.fit_of(FAINT).cutout.obs.model_psf.stamp(31)[0])
    ((before, *_),), ((after, *_),) = (components(run.fit_of(FAINT)) for run in (usual, changed))
    np.testing.assert_allclose(after, star / star.max(), atol=1e-6)
    assert np.abs(before - after).max() > 0.1
    assert all(same_fit(usual.fit_of(row), changed.fit_of(row)) for row in range(N_FITTED) if row != FAINT)


def check_two_above(runs):
    significance = np.linalg.norm(snr(runs.exposure)[:N_FITTED], axis=1)
    significance[STAR] = 0  # of two sources, only the brighter may have two
    for run, level in (
        (runs.fitted(), 300),
        (runs.fitted(two_above=100.0), 100),
        (runs.fitted(two_above=np.inf), np.inf),
    ):
        np.testing.assert_array_equal(run.result.table["n_components"], 1 + (significance > level))


def sizes(runs):
    """Rows of each parent, and height and width of its footprint."""
    labels = runs.planned().result.detection.labels
    of = labels[tuple(np.round(CENTERS[:OUTSIDE]).astype(int).T)]
    for number in np.unique(of[of > 0]):
        rectangle = scipy.ndimage.find_objects(labels)[number - 1]
        yield np.flatnonzero(of == number).tolist(), *(edge.stop - edge.start for edge in rectangle)


def check_limit(runs, name, size):
    """The limit is the size of the second largest parent: only the largest is skipped."""
    measured = {tuple(rows): size(len(rows), height, width) for rows, height, width in sizes(runs)}
    limit = sorted(measured.values())[-2]
    beyond = {row: value for rows, value in measured.items() if value > limit for row in rows}
    assert runs.planned(**{name: limit}).skipped == {
        row: f"skipped: {name}: {value} > {limit}" for row, value in beyond.items()
    }
    assert 0 < len(beyond) < OUTSIDE and sum(map(len, measured)) == OUTSIDE


def check_max_number_of_peaks(runs):
    assert runs.planned(max_number_of_peaks=1).skipped == dict.fromkeys(
        [GALAXY, STAR, *TRAIL], "skipped: max_number_of_peaks: 2 > 1"
    )
    assert not runs.planned(max_number_of_peaks=2).skipped


def check_max_footprint_area(runs):
    check_limit(runs, "max_footprint_area", lambda _, height, width: height * width)


def check_max_area_times_peaks(runs):
    check_limit(runs, "max_area_times_peaks", lambda n, height, width: n * height * width)


def check_max_footprint_size(runs):
    check_limit(runs, "max_footprint_size", lambda _, height, width: max(height, width))


def check_min_footprint_axis_ratio(runs):
    skipped = runs.planned(min_footprint_axis_ratio=0.3).skipped
    assert list(skipped) == TRAIL and all("min_footprint_axis_ratio" in text for text in skipped.values())


def check_bad_mask(runs):
    for planes, pattern in ((None, 3), (("BAD",), 1), (("SAT",), 2), ((), 0)):
        run = runs.planned(bad_mask=planes)
        bad = runs.exposure.mask_bits & pattern > 0
        np.testing.assert_array_equal(np.isnan(run.result.residual), bad)
        for unit in run.units:
            weights = np.asarray(run.runner.cut(unit).obs.weights)
            np.testing.assert_array_equal(weights == 0, bad[(slice(None), *unit.box.slices)] | unit.exclude)


def check_mask_limits(runs):
    label = runs.planned().result.detection.labels
    pixels = label == label[16, 48]
    share = np.mean((runs.exposure.mask_bits[:, pixels] & 2).any(axis=0))
    for limit, skipped in ((share - 0.01, [ALONE]), (share + 0.01, [])):
        found = runs.planned(mask_limits={"SAT": limit}).skipped
        assert list(found) == skipped and all("of SAT" in text for text in found.values())


def check_pseudo_columns(runs):
    y, x = CENTERS.T
    row = np.arange(len(CENTERS))
    table = Table({"y": y, "x": x, "sky_source": row == FAINT, "empty": row == STAR})
    for changes, pseudo in (({}, FAINT), ({"pseudo_columns": ("empty", "absent")}, STAR)):
        run = runs.planned(table, **changes)
        assert run.skipped == {pseudo: "skipped: pseudo source"}
        assert run.result.table["flags"][run.result.table["id"] == pseudo] == jd.Flag.NOT_DEBLENDED
        assert pseudo not in np.concatenate([unit.rows for unit in run.units])


def check_catch_failures(runs):
    usual, cut = runs.fitted(), running.Cutter.cut

    def cut_or_fail(self, unit):
        if (self.positions[unit.own] == CENTERS[FAINT]).all():
            raise ValueError("no luck")
        return cut(self, unit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running.Cutter, "cut", cut_or_fail)
        table = deblend_catalog(runs.exposure, CENTERS[:N_FITTED], config=DeblendConfig()).table
        with pytest.raises(ValueError, match="no luck"):
            deblend_catalog(runs.exposure, CENTERS[[FAINT]], config=DeblendConfig(catch_failures=False))
    assert table["skip_reason"][FAINT] == "failed: ValueError: no luck" and np.isnan(table["flux_g"][FAINT])
    others = np.arange(N_FITTED) != FAINT
    np.testing.assert_array_equal(table["flux_g"][others], usual.result.table["flux_g"][others])


def check_pieces(runs, **changes):
    """A crowd of one parent is cut, every source has one piece of its own, and pieces keep their limits."""
    crowd = np.stack(np.meshgrid(np.arange(6, 66, 5.0), np.arange(6, 82, 5.0), indexing="ij"), -1).reshape(-1, 2)
    loose = {"split_valley": 0.0, "max_sources_per_piece": 1000, "max_window": 256}
    (whole,) = runs.planned(crowd, **loose).units
    assert len(whole.own) == len(crowd)
    pieces = runs.planned(crowd, **loose | changes).units
    assert len(pieces) > 1 and sorted(row for unit in pieces for row in unit.own) == list(range(len(crowd)))
    return max(len(unit.rows) for unit in pieces), max(max(unit.box.shape) for unit in pieces)


def check_max_sources_per_piece(runs):
    assert check_pieces(runs, max_sources_per_piece=60)[0] <= 60


def check_max_window(runs):
    assert check_pieces(runs, max_window=48)[1] <= 48


def check_max_memory(runs):
    """Pieces are cut so that each takes no more, and so many are fitted at a time."""
    run = runs.planned(max_memory=0.5)
    assert run.runner.memory == 0.5e9
    n_rows, _ = check_pieces(runs, max_memory=1.1 * 64 * 256**2 * len(BANDS) * 48 / 1e9)
    assert n_rows <= 48


def check_split_valley(runs):
    """Two stars of one footprint part where the map between them, of variance 2 σ², is low enough."""
    shape, places = (48, 64), ((24.0, 25.0), (24.0, 37.0))
    image = 1e5 * sum(gaussian(shape, place, PSF_SIGMA) for place in places)
    exposure = jd.Exposure(image[None], [1.0], jd.GaussianPSF(PSF_SIGMA), bands=["r"])
    between = 2 * np.exp(-(6**2) / (4 * PSF_SIGMA**2))
    for valley, n_units in ((0.0, 1), (0.7 * between, 1), (min(1.0, 1.4 * between), 2)):
        config = DeblendConfig(split_valley=valley)
        assert len(Run(exposure, None, config, fits=False).units) == n_units


CHECKS = {name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")}
FIELDS = [field.name for field in dataclasses.fields(DeblendConfig)]


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_does_what_it_says(name, runs):
    assert name in CHECKS, f"{name} is a new field: write check_{name}."
    CHECKS[name](runs)


def test_spectra_of_both_kinds_come_of_one_program(runs, monkeypatch):
    def trace(*_):
        raise AssertionError("a program is traced")

    runs.fitted()
    monkeypatch.setattr(stages, "first_models", trace)
    assert len(runs.fitted(set_spectra=False, catch_failures=False).finished) == 4


def test_workers_leave_out_the_same_spectra(runs):
    config = DeblendConfig(max_spectrum_cutoff=32 * 32)
    here = {done.unit.id: done for done in runs.fitted(max_spectrum_cutoff=32 * 32).finished}
    records = fit_chunk([sent(done.cutout) for done in here.values()], Job.of(config, catch=True))
    assert len(records) == len(here) > 2
    for record in records:
        pairs = zip(jax.tree.leaves(record.fit), jax.tree.leaves(here[record.id].recorded()[0].fit), strict=True)
        assert all(np.array_equal(one, two, equal_nan=True) for one, two in pairs)
