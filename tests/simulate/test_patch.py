import numpy as np
import pytest
from scipy.spatial import KDTree

import jaxdeblend as jd
from jaxdeblend.simulate import simulate_cluster, simulate_patch
from jaxdeblend.simulate.clustering import draw_clustered
from jaxdeblend.simulate.defects import SATURATION

BANDS = ("g", "i")
SHAPE = (320, 384)
N = 150


@pytest.fixture(scope="module")
def patch():
    return simulate_patch(5, shape=SHAPE, bands=BANDS, n_sources=N)


@pytest.fixture(scope="module")
def stars():
    """Few stars, far apart mostly, seen with a PSF that varies; no defects."""
    return simulate_patch(
        2, shape=SHAPE, bands=BANDS, n_sources=24, star_fraction=1.0, magnitudes=(20.0, 22.0), defects=False
    )


def test_shapes_and_types(patch):
    cube = (2, *SHAPE)
    assert patch.images.shape == patch.variance.shape == patch.mask_bits.shape == patch.noiseless.shape == cube
    assert {array.dtype for array in (patch.images, patch.variance, patch.noiseless)} == {np.dtype("f4")}
    assert patch.mask_bits.dtype == np.uint16 and patch.bands == BANDS and patch.zero_point.shape == (2,)
    assert isinstance(patch.psf, jd.PolynomialPSFField) and patch.psf.n_bands == 2


def test_truth_has_a_row_for_each_source_inside(patch):
    x, y = patch.truth["x"], patch.truth["y"]
    assert len(patch.truth) == N and patch.truth["id"].tolist() == list(range(N))
    assert np.all((x >= -0.5) & (x < SHAPE[1] - 0.5) & (y >= -0.5) & (y < SHAPE[0] - 0.5))
    assert len(patch.outside) > 0 and patch.outside["id"][0] == N
    assert np.mean(patch.truth["kind"] == "star") == pytest.approx(0.1)
    assert patch.truth.colnames == [
        *("id", "x", "y", "ra", "dec", "kind", "group", "radius", "e1", "e2", "neighbor"),
        *("flux_g", "flux_i", "snr_g", "snr_i", "blendedness_g", "blendedness_i"),
    ]
    assert np.all(patch.truth["flux_i"] > 0) and np.all(patch.truth["snr_i"] > 0)
    size = np.hypot(patch.truth["e1"], patch.truth["e2"])
    assert np.all(size < 1) and np.all(size[patch.truth["kind"] == "star"] == 0) and size.max() > 0.5


def test_the_same_seed_gives_the_same_bits(patch):
    again = simulate_patch(5, shape=SHAPE, bands=BANDS, n_sources=N)
    for name in ("images", "variance", "mask_bits", "noiseless"):
        np.testing.assert_array_equal(getattr(again, name), getattr(patch, name))
    assert all((again.truth[name] == patch.truth[name]).all() for name in again.truth.colnames)
    generator = np.random.default_rng(5)
    one, two = (simulate_patch(generator, shape=(64, 64), bands=("i",), n_sources=3) for _ in range(2))
    assert not np.array_equal(one.noiseless, two.noiseless)


def test_light_is_that_of_the_sources(stars):
    """What is inside by more than half a stamp arrives whole; nothing else is there."""
    edge = stars.psf.edge // 2 + 1
    x, y = np.asarray(stars.truth["x"]), np.asarray(stars.truth["y"])
    whole = (x > edge) & (x < SHAPE[1] - edge) & (y > edge) & (y < SHAPE[0] - edge)
    for number, band in enumerate(BANDS):
        flux = np.asarray(stars.truth[f"flux_{band}"])
        cut = flux[~whole].sum() + np.asarray(stars.outside[f"flux_{band}"]).sum()
        total = stars.noiseless[number].sum(dtype=float)
        assert flux[whole].sum() * (1 - 1e-4) < total < (flux[whole].sum() + cut) * (1 + 1e-4)


def test_galaxies_keep_their_flux_and_have_their_size():
    """A lone round disk: the aperture of its half-light radius holds half of it, once the PSF is small beside it."""
    patch = simulate_patch(
        8,
        shape=(256, 256),
        bands=("i",),
        n_sources=1,
        star_fraction=0.0,
        structured=0.0,
        magnitudes=(18.0, 18.2),
        defects=False,
        psf_fwhm=2.0,
    )
    row = patch.truth[0]
    outside = float(np.sum(patch.outside["flux_i"]))
    assert abs(patch.noiseless.sum(dtype=float) - row["flux_i"]) < 0.02 * row["flux_i"] + outside
    assert row["snr_i"] > 100 and row["blendedness_i"] < 0.2


def test_isolated_stars_show_the_psf_at_their_place(stars):
    reach = 12
    x, y = np.asarray(stars.truth["x"]), np.asarray(stars.truth["y"])
    inside = (np.minimum(x, y) > reach) & (x < SHAPE[1] - 1 - reach) & (y < SHAPE[0] - 1 - reach)
    alone = np.flatnonzero((stars.truth["neighbor"] > 60) & inside)
    assert len(alone) >= 3
    for row in alone:
        local = np.asarray(stars.psf.stamps(np.array([[y[row], x[row]]])))[0]
        middle = stars.psf.edge // 2
        iy, ix = round(y[row]), round(x[row])
        for number, band in enumerate(BANDS):
            seen = stars.noiseless[number, iy - reach : iy + reach + 1, ix - reach : ix + reach + 1]
            shares, moments = [], []
            grid = np.mgrid[-reach : reach + 1, -reach : reach + 1]
            stamp = local[number, middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
            for image, center in (
                (seen / stars.truth[f"flux_{band}"][row], (y[row] - iy, x[row] - ix)),
                (stamp, (0.0, 0.0)),
            ):
                dy, dx = grid[0] - center[0], grid[1] - center[1]
                weight = image * np.exp(-(dy**2 + dx**2) / 2 / 3.0**2)
                shares.append(image.sum())
                moments.append([(weight * m).sum() / weight.sum() for m in (dy, dx, dy**2, dy * dx, dx**2)])
            assert shares[0] == pytest.approx(shares[1], abs=2e-3)
            np.testing.assert_allclose(moments[0], moments[1], atol=5e-3)


def test_the_psf_varies_over_the_patch_and_between_bands(patch):
    corners = np.array([[0.0, 0.0], [0.0, SHAPE[1] - 1], [SHAPE[0] - 1, 0.0], [SHAPE[0] - 1, SHAPE[1] - 1]])
    stamps = np.asarray(patch.psf.stamps(corners))
    np.testing.assert_allclose(stamps.sum(axis=(2, 3)), 1, rtol=1e-5)
    change = np.abs(stamps[1:] - stamps[0]).max(axis=(0, 2, 3)) / stamps.max()
    assert np.all(change > 0.01) and np.all(change < 0.3)
    assert np.abs(stamps[:, 0] - stamps[:, 1]).max() > 0.02 * stamps.max()


def test_noise_is_what_the_variance_says(patch):
    good = ~patch.mask
    pull = ((patch.images - patch.noiseless) / np.sqrt(patch.variance))[good]
    assert pull.std() == pytest.approx(1, abs=0.02)
    faint = good & (patch.noiseless < 1)
    pull = (patch.images / np.sqrt(patch.variance))[faint]
    assert pull.std() == pytest.approx(1, abs=0.02) and abs(pull.mean()) < 0.02
    sky = [np.median(values[mask]) for values, mask in zip(patch.variance, good, strict=True)]
    assert patch.variance[good].min() > 0 and max(v.max() for v in patch.variance[good][None]) > max(sky)


def test_signal_to_noise_is_that_of_the_best_filter(stars):
    row = int(np.argmax(stars.truth["neighbor"]))
    local = np.asarray(stars.psf.stamps(np.array([[stars.truth["y"][row], stars.truth["x"][row]]])))[0]
    for number, band in enumerate(BANDS):
        sky = float(np.median(stars.variance[number][stars.noiseless[number] < 1]))
        light = stars.truth[f"flux_{band}"][row] * local[number].astype(float)
        expected = np.sqrt(np.sum(light**2 / (sky + light)))
        assert stars.truth[f"snr_{band}"][row] == pytest.approx(expected, rel=0.02)


def test_positions_agree_with_the_coordinates(patch):
    x, y = patch.wcs.world_to_pixel_values(patch.truth["ra"], patch.truth["dec"])
    np.testing.assert_allclose([x, y], [patch.truth["x"], patch.truth["y"]], atol=1e-6)
    np.testing.assert_allclose(patch.wcs.proj_plane_pixel_scales()[0].to_value("arcsec"), 0.2)


def test_sources_are_where_the_truth_says(stars):
    for x, y in zip(stars.truth["x"], stars.truth["y"], strict=True):
        iy, ix = min(round(y), SHAPE[0] - 1), min(round(x), SHAPE[1] - 1)
        window = stars.noiseless[1, max(iy - 3, 0) : iy + 4, max(ix - 3, 0) : ix + 4]
        near = stars.noiseless[1, max(iy - 1, 0) : iy + 2, max(ix - 1, 0) : ix + 2]
        assert near.max() >= 0.99 * window.max() or np.any(stars.truth["neighbor"] < 8)


def test_blendedness_and_neighbours(stars):
    points = np.stack([stars.truth["y"], stars.truth["x"]], axis=1)
    others = np.concatenate([points, np.stack([stars.outside["y"], stars.outside["x"]], axis=1)])
    expected = KDTree(others).query(points, k=2)[0][:, 1]
    np.testing.assert_allclose(stars.truth["neighbor"], expected)
    blended = np.asarray(stars.truth["blendedness_i"])
    far = expected > 2 * stars.psf.edge
    assert np.all(blended[far] < 1e-6) and np.all((blended >= 0) & (blended <= 1))


# ---- masks


def test_masks_have_every_plane(patch):
    planes = {name: (patch.mask_bits >> bit & 1).astype(bool) for name, bit in patch.mask_planes.items()}
    assert all(plane.any() for name, plane in planes.items() if name != "SAT")
    assert planes["NO_DATA"][:, -1, 0].all() and not planes["NO_DATA"][:, 0, -1].any()
    np.testing.assert_array_equal(np.isnan(patch.images), planes["NO_DATA"])
    np.testing.assert_array_equal(np.isnan(patch.variance), planes["NO_DATA"])
    assert planes["EDGE"][:, 0, 50].all() and not planes["EDGE"][:, 10, 50].any()
    assert np.all(planes["BAD"][planes["CR"]])
    exposure = jd.Exposure(
        patch.images,
        patch.variance,
        patch.psf,
        bands=patch.bands,
        mask_bits=patch.mask_bits,
        mask_planes=patch.mask_planes,
    )
    np.testing.assert_array_equal(exposure.mask, patch.mask)


def test_pixels_under_a_mask_do_not_tell_what_was_there():
    """Other sources in the same frame: the same pixels are spoiled, and hold the same values."""
    options = {"shape": (160, 200), "bands": ("i",), "star_fraction": 0.0}
    one, two = (simulate_patch(4, n_sources=n, **options) for n in (5, 80))
    np.testing.assert_array_equal(one.mask_bits, two.mask_bits)
    assert one.mask.any() and not np.array_equal(one.noiseless[one.mask], two.noiseless[one.mask])
    for name in ("images", "variance"):
        np.testing.assert_array_equal(getattr(one, name)[one.mask], getattr(two, name)[one.mask])
        assert not np.array_equal(getattr(one, name)[~one.mask], getattr(two, name)[~one.mask])


def test_bright_stars_saturate_and_bleed_along_columns():
    options = {"shape": (160, 160), "bands": ("i",), "n_sources": 6, "star_fraction": 1.0, "magnitudes": (17.0, 17.1)}
    patch = simulate_patch(1, **options)
    full = patch.mask_bits[0] >> patch.mask_planes["SAT"] & 1 == 1
    bright = patch.noiseless[0] > SATURATION
    data = ~np.isnan(patch.images[0])
    assert full.sum() > 20 and np.all(full[bright & data])
    only = patch.mask_bits[0] == 1 << patch.mask_planes["SAT"]
    assert np.all(patch.images[0][only] == np.float32(SATURATION))
    assert full.sum() > 1.5 * bright.sum()
    np.testing.assert_array_equal(full.any(axis=0), (bright & data).any(axis=0))
    clean = simulate_patch(1, **options, defects=False)
    assert not clean.mask.any() and clean.images.max() > SATURATION


# ---- clustering


def test_galaxies_keep_company():
    """Pairs closer than 15 pixels, against those of as many positions at random."""
    shape, n = (2000, 2000), 3000
    expected, counts = 0.5 * n * (n - 1) * np.pi * 15**2 / (shape[0] * shape[1]), {}
    for clustered in (0.0, 0.4):
        centers, group = draw_clustered(np.random.default_rng(3), shape, n, fraction=clustered)
        counts[clustered] = len(KDTree(centers).query_pairs(15))
    sizes = np.bincount(group[group >= 0])
    assert abs(counts[0.0] - expected) < 5 * np.sqrt(expected)
    assert counts[0.4] > 1.8 * expected
    assert sizes.sum() == round(0.4 * n) and np.mean(sizes <= 10) > 0.8 and sizes.max() >= 20


def test_a_cluster_is_one_crowd():
    cluster = simulate_cluster(1, shape=(128, 128), bands=("g", "i"), n_stars=160, core_radius=30.0)
    assert len(cluster.truth) == 160 and set(cluster.truth["kind"]) == {"star"} and not cluster.mask.any()
    y, x = (np.asarray(cluster.truth[name]) for name in ("y", "x"))
    radius = np.hypot(y - 63.5, x - 63.5)
    assert np.median(radius) < 40 and np.median(cluster.truth["blendedness_i"]) > 0.05
    colour = -2.5 * np.log10(cluster.truth["flux_g"] / cluster.truth["flux_i"])
    faint = cluster.truth["flux_i"] < np.median(cluster.truth["flux_i"])
    assert np.corrcoef(colour[faint], cluster.truth["flux_i"][faint])[0, 1] < -0.5  # cooler where it is fainter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": "gH"}, "`bands` must be different names"),
        ({"star_fraction": 1.5}, "`star_fraction` must be a fraction from 0 to 1, got 1.5"),
        ({"clustered": -0.1}, "`clustered` must be a fraction"),
        ({"shape": (8, 100)}, r"`shape` must be \(y, x\) of at least 16 pixels, got \(8, 100\)"),
        ({"n_sources": -3}, "the number of sources must not be negative, got -3"),
        ({"psf_fwhm": (3.0,)}, "`psf_fwhm` must be positive"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_patch(1, **{"shape": (64, 64), "bands": BANDS, "n_sources": 2, **options})


def test_an_empty_sky():
    patch = simulate_patch(1, shape=(64, 64), bands=("r",), n_sources=0)
    assert len(patch.truth) == 0 and "flux_r" in patch.truth.colnames and not patch.noiseless.any()
