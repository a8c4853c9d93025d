"""Batches of ragged blends. All of them lie on one rung of the ladder, so that few programs are compiled."""

import logging
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdeblend as jd
from jaxdeblend.batch import schedule
from jaxdeblend.batch.plan import Item
from jaxdeblend.batch.schedule import Limits
from jaxdeblend.runtime import programs
from tests.scenes import fluxes_of, gaussian

OPTIONS = jd.Initialization(max_components=1, passes=1)
FEW_STEPS = jd.ProximalAdam(max_steps=12)


def blend(seed, shape=None, n_sources=None, psf_edge=None, **options):
    """A blend of stars and galaxies of any shape that fits on the first rung: (observation, centers)."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(20, 33, 2)) if shape is None else shape
    n_sources = rng.integers(1, 5) if n_sources is None else n_sources
    psf_edge = rng.choice([11, 13, 15]) if psf_edge is None else psf_edge
    centers = rng.uniform(2, np.array(shape) - 3, (n_sources, 2))
    sigma = rng.uniform(1.2, 1.6)
    widths = np.hypot(sigma, rng.choice([0.0, 1.0, 1.5], n_sources))
    profiles = [gaussian(shape, center, width) for center, width in zip(centers, widths, strict=True)]
    images = np.einsum("nb,nyx->byx", rng.uniform(300, 2000, (n_sources, 2)), profiles) if n_sources else 0.0
    images = images + rng.normal(size=(2, *shape))
    psf = gaussian((psf_edge, psf_edge), (psf_edge // 2, psf_edge // 2), sigma)
    return jd.Observation(images, np.ones(2), psf, bands=("g", "r"), **options), centers


def deblend_batch(blends, **options):
    return jd.deblend_batch(blends, options=OPTIONS, optimizer=FEW_STEPS, **options)


def deblend(obs, centers, **more):
    return jd.deblend(obs, centers, options=OPTIONS, optimizer=FEW_STEPS, **more)


def flux_of(result):
    return np.asarray(result.measurements.flux)


def assert_same(result, expected):
    """The same fluxes to 1e-3 of each source."""
    np.testing.assert_allclose(flux_of(result), flux_of(expected), rtol=1e-3)
    np.testing.assert_array_equal(result.measurements.flags, expected.measurements.flags)


@pytest.fixture(scope="module")
def few():
    """Ten blends, and what a batch makes of them."""
    blends = [blend(seed) for seed in range(10)]
    return blends, deblend_batch(blends)


def test_after_warming_up_a_new_blend_compiles_nothing(few, caplog):
    for n_sources in (2, 4):
        deblend(*blend(100 + n_sources, n_sources=n_sources))
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        results = deblend_batch(blend(seed) for seed in range(1000, 1200))
        assert not compilations(caplog), "\n".join(compilations(caplog))
        jax.jit(lambda x: x + 1)(jnp.zeros(3))
        assert compilations(caplog), "what counts compilations must see one"
    assert len(results) == 200 and all(np.isfinite(flux_of(result)).all() for result in results)


def compilations(caplog):
    words = ("Compiling", "Finished XLA compilation", "Finished tracing")
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(words)]


def test_company_and_order_do_not_matter(few):
    blends, results = few
    order = np.random.default_rng(2).permutation(len(blends))
    shuffled = deblend_batch([blends[n] for n in order])
    for place, n in enumerate(order):
        assert_same(shuffled[place], results[n])


def test_a_batch_is_its_blends_one_by_one(few):
    for (obs, centers), result in zip(*few, strict=True):
        assert_same(deblend(obs, centers), result)


def test_neither_company_nor_order_matter_to_the_end():
    """With default settings, where a fit goes on until it stops by itself: crowded blends, to the last bit on a CPU."""
    blends = [blend(seed, n_sources=4) for seed in range(50, 56)]
    results = jd.deblend_batch(blends)
    backwards = jd.deblend_batch(blends[::-1])[::-1]
    alone = [jd.deblend(*one) for one in blends]
    assert max(int(result.n_steps) for result in results) > FEW_STEPS.max_steps
    for others in (backwards, alone):
        for other, result in zip(others, results, strict=True):
            assert_same(other, result)
            if jax.default_backend() == "cpu":
                np.testing.assert_array_equal(other.model, result.model)


def test_every_blend_comes_back_once_in_order(few):
    blends, results = few
    done = []
    again = deblend_batch((one for one in blends), progress=done.append)
    assert sum(done) == len(blends) == len(again) == len(results)
    for (obs, centers), result in zip(blends, again, strict=True):
        assert len(result.table()) == len(result.blend.sources) == len(centers)
        assert result.source_models.shape == (len(centers), *obs.images.shape) and result.blend.frame == obs.shape
        moved = np.abs(np.asarray(result.measurements.center) - centers)
        assert moved.max() < 2.0


@pytest.mark.parametrize("lanes", [None, 8])
def test_a_stream_is_read_as_it_goes(few, monkeypatch, lanes):
    """Every blend once, the same as in a batch, and never more read than may be held, also if that fills no lanes."""
    monkeypatch.setattr(schedule, "READ_AHEAD", 3)
    monkeypatch.setattr(schedule, "LANES_AHEAD", 3)
    blends, results = few
    read, returned = [], []

    def source():
        for number, one in enumerate(blends):
            read.append(number)
            yield one

    for number, result in jd.deblend_stream(source(), options=OPTIONS, optimizer=FEW_STEPS, lanes=lanes):
        assert len(read) - len(returned) <= 3
        returned.append(number)
        assert_same(result, results[number])
    assert sorted(returned) == list(range(len(blends)))


def test_a_stream_can_be_left(few):
    first = next(jd.deblend_stream(few[0], options=OPTIONS, optimizer=FEW_STEPS))
    assert_same(first[1], few[1][first[0]])


def test_an_interrupted_batch_does_not_wait_for_what_runs(few, monkeypatch):
    begun, may_end = threading.Event(), threading.Event()

    def call(*_):
        begun.set()
        may_end.wait(60)
        return []

    def interrupt(*_, **__):
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(schedule.Calls, "call", call)
    monkeypatch.setattr(schedule, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        jd.deblend_batch(few[0])
    assert any(thread.name.startswith("jaxdeblend") for thread in threading.enumerate()), "the call does not run"
    may_end.set()


@pytest.mark.parametrize(("errors", "message"), [([0.1], "got 1 entries, and more blends"), ([0.1] * 3, "than the 2")])
def test_a_stream_wants_one_error_per_blend(few, errors, message):
    with pytest.raises(ValueError, match=f"center_error: .*{message}"):
        list(jd.deblend_stream(few[0][:2], center_error=errors, options=OPTIONS, optimizer=FEW_STEPS))


def test_lanes_change_nothing(few):
    """Several blends share a call, enter and leave, more than there are lanes; one has no source."""
    blends = [*few[0], (few[0][0][0], [])]
    *again, empty = deblend_batch(blends, lanes=8)
    for result, alone in zip(again, few[1], strict=True):
        assert_same(result, alone)
        assert result.n_steps == alone.n_steps and result.result is alone.result
    assert len(empty.table()) == 0


def test_a_blend_that_needs_many_steps_holds_up_no_other(few):
    """It stays in its lane while the others come and go."""
    (obs, centers), (other, others) = few[0][:2]
    slow = jd.Observation(obs.images, np.full(2, 1e-4), obs.psf, bands=obs.bands), centers
    fast = jd.Observation(other.images, np.full(2, 1e4), other.psf, bands=other.bands), others
    optimizer = jd.ProximalAdam(max_steps=35)
    stream = jd.deblend_stream([slow, *[fast] * 9], options=OPTIONS, optimizer=optimizer, lanes=4)
    order = [(number, int(result.n_steps)) for number, result in stream]
    steps = dict(order)
    assert steps[0] == 35 and max(steps[n] for n in range(1, 10)) <= 20
    assert [number for number, _ in order].index(0) >= 4


@pytest.mark.parametrize(("limits", "message"), [({"lanes": 0}, "lanes: got 0"), ({"memory": 0.0}, "memory: got 0.0")])
def test_bad_limits(few, limits, message):
    with pytest.raises(ValueError, match=message):
        deblend_batch(few[0], **limits)


def test_programs_that_are_dropped_for_lack_of_room_are_compiled_again(few, monkeypatch):
    monkeypatch.setattr(programs, "share_of_mappings", lambda: 0.9)
    for result, before in zip(deblend_batch(few[0]), few[1], strict=True):
        assert_same(result, before)


def test_memory_limits_how_many_blends_are_fitted_at_a_time(few):
    bucket = Item.of(*few[0][0], 0.1).bucket
    assert Limits(lanes=64, memory=3.5 * bucket.memory).lanes_of(bucket) == 3
    assert Limits(lanes=64, memory=1.0).lanes_of(bucket) == 1
    for result, alone in zip(deblend_batch(few[0][:3], memory=1.0), few[1], strict=False):
        assert_same(result, alone)


def test_lanes_on_an_accelerator(few, monkeypatch):
    """As many as there is memory for, but no more than a few blends need."""
    bucket = Item.of(*few[0][0], 0.1).bucket
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert Limits(memory=1e12).lanes_of(bucket) == 512
    assert Limits(memory=100.0 * bucket.memory).lanes_of(bucket) == 64
    assert Limits(memory=1e12, expected={bucket: 9}).lanes_of(bucket) == 16
    assert Limits(memory=1.0).lanes_of(bucket) == 1
    assert Limits().lanes_of(bucket) > 1


def test_no_blend_and_no_source(few):
    assert deblend_batch([]) == []
    obs, _ = blend(3)
    result = deblend(obs, [])
    assert len(result.table()) == 0 and result.table().colnames == few[1][0].table().colnames
    assert result.model.shape == obs.images.shape and not result.model.any()


def test_results_hold_what_the_functions_of_one_blend_say(few):
    """Measurements and models are made in the same program; `measure` and `render` agree."""
    (obs, _), result = few[0][0], few[1][0]
    table = jd.measure(result.blend, obs, status=result.status)
    for name in result.table().colnames:
        np.testing.assert_allclose(
            np.asarray(result.table()[name]), np.asarray(table[name]), rtol=2e-3, atol=2e-3, err_msg=name
        )
    np.testing.assert_allclose(result.model, render(result.blend, obs), atol=2e-3 * result.model.max())
    assert result.result in jd.RESULTS and bool(result.converged) == (result.result is jd.RESULTS.CONVERGED)
    assert len(result.loss) == FEW_STEPS.max_steps and np.isfinite(result.loss[: int(result.n_steps)]).all()


def test_positions_outside_and_not_finite_are_kept():
    obs, centers = blend(5, n_sources=2)
    result = deblend(obs, [*centers, (-9.0, 4.0), (np.nan, 3.0)])
    assert np.isfinite(flux_of(result)[:2]).all() and np.isnan(flux_of(result)[2:]).all()
    assert [int(flags) & jd.Flag.OUTSIDE_IMAGE for flags in result.measurements.flags] == [0, 0, 1, 1]


def test_one_bad_lane_spoils_no_other(few):
    blends, results = few
    obs, centers = blends[4]
    dark = jd.Observation(obs.images, np.ones(2), obs.psf, bands=obs.bands, mask=np.ones(obs.shape, dtype=bool))
    again = deblend_batch([*blends[:4], (dark, centers), *blends[5:]])
    assert again[4].result is jd.RESULTS.NO_DATA
    for n in (*range(4), *range(5, 10)):
        assert_same(again[n], results[n])


def test_errors_of_positions_are_per_blend_and_per_source(few):
    blends = few[0][:2]
    numbers = [len(centers) for _, centers in blends]
    errors = [0.0, np.linspace(0.1, 0.2, numbers[1])]
    cases = ((errors, errors), (np.array([0.2, 0.3]), [0.2, 0.3]), (0, [0, 0]), (0.25, [0.25, 0.25]))
    for center_error, expected in cases:
        for result, error, n in zip(deblend_batch(blends, center_error=center_error), expected, numbers, strict=True):
            np.testing.assert_allclose(result.blend.center_prior.sigma, np.broadcast_to(error, n), rtol=1e-6)
    fixed = deblend_batch(blends, center_error=0.0)[0]
    np.testing.assert_allclose(fixed.blend.centers, blends[0][1], rtol=1e-6)
    with pytest.raises(ValueError, match="center_error: got 3 entries for 2 blends; give one per blend"):
        deblend_batch(blends, center_error=[0.1, 0.2, 0.3])


def test_bad_positions():
    with pytest.raises(ValueError, match=r"centers: got shape \(1, 3\); give \(source, 2\)"):
        deblend_batch([(blend(0)[0], [(1.0, 2.0, 3.0)])])


# shape, sources, PSF: every one compiles its own exact programs, so one is for all tests, with draws of many blends
FRAME = (58, 50), 7, 13


def exact(obs, centers, options=None, optimizer=None):
    """The same blend without any padding: its own frame, PSF and number of sources."""
    return jd.fit(jd.initialize(obs, centers, options=options), obs, optimizer)


@given(seed=st.integers(0, 1000))
@settings(max_examples=12, derandomize=True)
def test_padding_changes_nothing(seed):
    with jax.enable_x64(True):
        check_padding(*blend(seed, *FRAME))


@pytest.mark.parametrize("corner", [(0.0, 0.0), (55.3, 46.4), (31.0, 48.8)])
def test_padding_changes_nothing_for_a_source_at_the_edge(corner):
    (shape, n_sources, psf_edge), rng = FRAME, np.random.default_rng(8)
    centers = np.array([corner, *rng.uniform(8, 42, (n_sources - 1, 2))])
    images = 900.0 * sum(gaussian(shape, center, 1.5) for center in centers)[None] + rng.normal(size=(2, *shape))
    psf = gaussian((psf_edge, psf_edge), (psf_edge // 2, psf_edge // 2), 1.4)
    with jax.enable_x64(True):
        check_padding(jd.Observation(images, np.ones(2), psf, bands=("g", "r")), centers)


def check_padding(obs, centers):
    """In double precision, where rounding hides nothing; PSFs are deconvolved on grids of other sizes (2e-6 here)."""
    padded, plain = jd.deblend(obs, centers), exact(obs, centers)
    fluxes = fluxes_of(plain.blend)
    assert flux_of(padded).dtype == fluxes.dtype == np.float64
    assert padded.n_steps == plain.n_steps
    np.testing.assert_allclose(flux_of(padded), fluxes, rtol=1e-5)
    np.testing.assert_allclose(padded.blend.centers, plain.blend.centers, atol=1e-6)


def test_padding_changes_the_typical_flux_by_rounding_only():
    """In single precision."""
    differences = []
    for seed in range(12):
        obs, centers = blend(seed, (27, 20), 3, 11)
        padded, plain = flux_of(deblend(obs, centers)), fluxes_of(exact(obs, centers, OPTIONS, FEW_STEPS).blend)
        differences.append(np.abs(padded / plain - 1).max())
    assert np.median(differences) < 1e-4


render = eqx.filter_jit(jd.render)


def test_another_model_psf_is_honoured():
    obs, centers = blend(6, (25, 25), 2, 15)
    own = jd.Observation(obs.images, np.ones(2), obs.psf, bands=obs.bands, model_psf=jd.GaussianPSF(0.9))
    result, _ = deblend_batch([(own, centers), (obs, centers)])
    tolerance = 1e-3 * result.model.max()
    np.testing.assert_allclose(result.model, render(result.blend, own), atol=tolerance)
    assert np.abs(result.model - render(result.blend, obs)).max() > 10 * tolerance


def test_an_own_difference_kernel_is_honoured():
    obs, centers = blend(7, (25, 25), 2, 15)
    identity = jnp.zeros((2, 15, 15)).at[:, 7, 7].set(1.0)
    own = jd.Observation(obs.images, np.ones(2), obs.psf, bands=obs.bands, kernel=jd.DifferenceKernel(identity))
    with_own = deblend(own, centers)
    # the identity leaves models as they are in model space
    np.testing.assert_allclose(
        with_own.model, eqx.filter_jit(lambda b: b.cube())(with_own.blend), atol=1e-3 * with_own.model.max()
    )
    assert np.abs(with_own.model - deblend(obs, centers).model).max() > 0.01 * with_own.model.max()
