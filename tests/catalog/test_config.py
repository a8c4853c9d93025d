import dataclasses

import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend import DeblendConfig

OTHER = {
    "threshold": 7.5,
    "detection": "merge",
    "relative_error": 1e-5,
    "max_iter": 77,
    "min_iter": 12,
    "set_spectra": False,
    "max_spectrum_cutoff": 10**6,
    "process_singles": False,
    "max_components": 1,
    "background_thresh": 1.0,
    "symmetry": False,
    "point_below": 8.0,
    "two_above": np.inf,
    "max_number_of_peaks": 600,
    "max_footprint_area": 2_000_000,
    "max_area_times_peaks": 10**9,
    "max_footprint_size": 500,
    "min_footprint_axis_ratio": 0.05,
    "bad_mask": ("BAD", "SAT"),
    "mask_limits": {"SAT": 0.5, "NO_DATA": 0.0},
    "pseudo_columns": ("sky",),
    "catch_failures": False,
    "split_valley": 0.0,
    "max_sources_per_piece": 32,
    "max_window": 128,
    "max_memory": 4.0,
}


def test_every_field_is_written_and_read():
    assert OTHER.keys() == {field.name for field in dataclasses.fields(DeblendConfig)}
    config = DeblendConfig(**OTHER)
    for name, value in OTHER.items():
        assert getattr(DeblendConfig(), name) != value
    assert DeblendConfig.from_toml(config.to_toml()) == config
    assert DeblendConfig.from_toml(DeblendConfig().to_toml()) == DeblendConfig() == DeblendConfig.from_toml("")


def test_files_are_read(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("# large blends\nmax_area_times_peaks = 1e9\nthreshold = 4\n")
    expected = DeblendConfig(max_area_times_peaks=10**9, threshold=4.0)
    assert DeblendConfig.from_toml(path) == DeblendConfig.from_toml(str(path)) == expected
    with pytest.raises(FileNotFoundError, match=r"none\.toml: no such file"):
        DeblendConfig.from_toml(tmp_path / "none.toml")
    path.write_text("threshold == 4")
    with pytest.raises(ValueError, match=r"config\.toml: not readable as TOML"):
        DeblendConfig.from_toml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_itre = 5", "unknown key 'max_itre'; did you mean 'max_iter'"),
        ("max_iter = 5.5", "max_iter: got 5.5; give a whole number"),
        ("max_iter = true", "max_iter: got True; give a whole number"),
        ("max_iter = 0", "max_iter: got 0; give at least 1"),
        ("min_iter = 151", "min_iter: got 151; give 0 to max_iter, which is 150"),
        ("threshold = '5'", "threshold: got '5'; give a number"),
        ("threshold = nan", "threshold: got nan; give a positive number of sigma"),
        ("symmetry = 1", "symmetry: got 1; give true or false"),
        ("detection = 3", "detection: got 3; give text"),
        ("detection = 'sum'", "detection: got 'sum'; give one of"),
        ("bad_mask = 'SAT'", "bad_mask: got 'SAT'; give a list of names"),
        ("mask_limits = {SAT = 'x'}", "mask_limits: got {'SAT': 'x'}; give a table of numbers"),
        ("mask_limits = {SAT = 2}", "mask_limits: got {'SAT': 2.0}; give fractions"),
        ("max_footprint_size = -1", "max_footprint_size: got -1; give a positive number, or 0"),
        ("max_spectrum_cutoff = -1", "max_spectrum_cutoff: got -1; give a positive number, or 0"),
        ("background_thresh = -0.1", "background_thresh: got -0.1; give a number of sigma, or 0"),
        ("max_window = 8", "max_window: got 8; give at least 32"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        DeblendConfig.from_toml(text)


def test_presets():
    assert DeblendConfig.redistribute().relative_error == 1e-3
    assert DeblendConfig.measure().relative_error == 1e-4
    assert DeblendConfig.measure().max_iter > DeblendConfig.redistribute(symmetry=False).max_iter
    assert not DeblendConfig.redistribute(symmetry=False).symmetry


def test_the_fit_gets_its_settings():
    config = DeblendConfig(**OTHER)
    optimizer, options = config.optimizer(), config.initialization()
    assert (optimizer.max_steps, int(optimizer.min_steps)) == (77, 12)
    assert float(optimizer.relative_tolerance) == pytest.approx(1e-5)
    assert options.priors == () and options.max_components == 1
    assert float(options.point_below) == 8.0 and np.isinf(options.two_above)
    assert not optimizer.exact_spectra
    levels = [float(one.level) for one in options.constraints if isinstance(one, jd.SparseThreshold)]
    assert levels == [1.0] and len(options.constraints) == len(jd.Initialization().constraints)


def test_defaults_are_those_of_the_fit():
    for ours, theirs in [
        (DeblendConfig().optimizer(), jd.ProximalAdam()),
        (DeblendConfig().initialization(), jd.Initialization()),
    ]:
        assert str(ours) == str(theirs)
        for name in (field.name for field in dataclasses.fields(ours)):
            if name not in ("constraints", "priors"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_fit_makes_the_fewest_steps():
    noise = np.random.default_rng(3).normal(0, 1, (1, 24, 24)).astype(np.float32)
    obs = jd.Observation(noise, np.ones((1, 24, 24)), jd.GaussianPSF(1.5), bands=("r",))
    blend = jd.Blend.of([jd.PointSource((12, 12), [20.0])], frame=(24, 24))
    free, held = (jd.fit(blend, obs, jd.ProximalAdam(min_steps=steps)) for steps in (0, 90))
    assert int(free.n_steps) < 90 <= int(held.n_steps) < 150 and free.converged and held.converged
