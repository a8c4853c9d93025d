"""Models of the LSST pipelines, from JSON written by hand as the formats of their versions describe it."""

import json
import zipfile

import jax
import numpy as np
import pytest

import jaxdeblend as jd
from jaxdeblend.fitting.record import without_record

BANDS = ("g", "r", "i")
RNG = np.random.default_rng(5)
MORPHS = [RNG.uniform(size=shape).round(3) for shape in ((5, 7), (4, 3), (6, 6))]
ORIGINS, PEAKS = [(12, 20), (14, 27), (11, 19)], [(14, 23), (16, 28), (14, 23)]
SPECTRA = RNG.uniform(1, 9, (3, 3)).round(3)
CUBE = RNG.uniform(size=(3, 3, 5)).round(3)
CUBE_ORIGIN = (13, 21)
BOX = jd.Box((10, 17), (12, 18))


def model_of(source, box=BOX):
    """The cube of a source by sums over its boxes: components 0 and 2, and the cube, or component 1."""
    cube = np.zeros((3, 40, 50))
    for k in (0, 2) if source == 0 else (1,):
        (y, x), (h, w) = ORIGINS[k], MORPHS[k].shape
        cube[:, y : y + h, x : x + w] += SPECTRA[k][:, None, None] * MORPHS[k]
    if source == 0:
        (y, x), (_, h, w) = CUBE_ORIGIN, CUBE.shape
        cube[:, y : y + h, x : x + w] += CUBE
    return cube[(slice(None), *box.slices)]


def factorized(k, **names):
    part = {"origin": ORIGINS[k], "shape": MORPHS[k].shape, "peak": PEAKS[k], "spectrum": SPECTRA[k].tolist()}
    part["morph"] = MORPHS[k].ravel().tolist()
    return {names.get(name, name): value for name, value in part.items()}


def cube(**more):
    part = {"origin": CUBE_ORIGIN, "shape": CUBE.shape, "peak": PEAKS[0], "model": CUBE.ravel().tolist()}
    return part | more


def psf(name):
    stamp = np.asarray(jd.GaussianPSF(0.8).stamp(15)[0], float)
    return {name: stamp.ravel().tolist()}, {"shape": stamp.shape}


def old_blend(**names):
    """A blend before schema 1: components that are factorized in a list of their own."""
    first = {"components": [cube()], "factorized": [factorized(0, **names), factorized(2, **names)], "peak_id": 3}
    second = {"components": [], "factorized": [factorized(1, **names)], "peak_id": 4}
    about = {"psf_center": [15.0, 25.0], "psf_shape": [1, 1, 1], "psf": [1.0], "bands": BANDS}
    return {"origin": BOX.start, "shape": BOX.shape, "sources": {"71": first, "72": second}} | about


def new_blend():
    """A blend of schema 1."""
    version = {"version": "1.0.0"}
    kinds = [factorized(k) | {"component_type": "factorized"} | version for k in range(3)]
    whole = cube(component_type="component") | version
    first = {"source_type": "source", "components": [whole, kinds[0], kinds[2]], "metadata": {"id": 71}} | version
    second = {"source_type": "source", "components": [kinds[1]]} | version
    return {
        "blend_type": "blend",
        "origin": BOX.start,
        "shape": BOX.shape,
        "sources": {"71": first, "72": second},
    } | version


def v29():
    values, shape = psf("psf")
    return {"blends": {"12": old_blend()}, "psfShape": shape["shape"]} | values


def version_1():
    values, shape = psf("model_psf")
    metadata = {"bands": BANDS, "model_psf_shape": shape["shape"], "array_keys": ["model_psf"]} | values
    parent = {"blend_type": "hierarchical", "children": {"500": new_blend()}, "metadata": None, "version": "1.0.0"}
    alone = {"source_type": "isolated", "origin": [1, 2], "shape": [1, 2], "peak": [1, 2], "span_array": [1.0, 1.0]}
    return {
        "model_type": "lsst",
        "blends": {"12": parent},
        "isolated": {"90": alone},
        "metadata": metadata,
        "version": "1.0.1",
    }


def newest():
    values, shape = psf("data")
    data = version_1()
    data["metadata"] = {"bands": BANDS, "model_psf": {"psf_type": "image", "dtype": "float32"} | values | shape}
    data["blends"]["12"] |= {
        "blend_type": "lsst_hierarchical",
        "span_array": "gA==",
        "shape": [1, 1],
        "origin": [10, 17],
    }
    return data | {"version": "1.0.3"}


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def archive(path, data, about):
    with zipfile.ZipFile(path, "w") as file:
        for key, entry in (data["blends"] | data.get("isolated", {}) | about).items():
            file.writestr(str(key), json.dumps(entry))
    return path


def v29_archive(path):
    data = v29()
    return archive(path, data, {"psf": data["psf"], "psf_shape": data["psfShape"]})


FILES = {
    "v29.json": (lambda path: write(path, v29()), 12, ()),
    "v29.scarlet": (v29_archive, 12, ()),
    "1.json": (lambda path: write(path, version_1()), 500, (90,)),
    "1.scarlet": (lambda path: archive(path, version_1(), {"metadata": version_1()["metadata"]}), 500, (90,)),
    "newest.json": (lambda path: write(path, newest()), 500, (90,)),
}


@pytest.fixture(scope="module")
def stamp():
    return np.asarray(jd.GaussianPSF(0.8).stamp(15)[0])


@pytest.mark.parametrize("name", FILES)
def test_every_version_gives_the_same_models(name, tmp_path, stamp):
    make, number, isolated = FILES[name]
    models = jd.read_lsst_models(make(tmp_path / name))
    assert models.bands == BANDS and models.isolated == isolated
    np.testing.assert_allclose(models.model_psf, stamp, rtol=1e-6)
    (read,) = models.blends
    assert (read.id, read.parent, read.box, read.source_ids.tolist()) == (number, 12, BOX, [71, 72])
    np.testing.assert_array_equal(read.blend.centers, np.subtract(PEAKS[:2], BOX.start))
    assert [len(source.components) for source in read.blend.sources] == [3, 1]


@pytest.fixture(scope="module")
def blend(tmp_path_factory):
    path = FILES["1.json"][0](tmp_path_factory.mktemp("lsst") / "models.json")
    return jd.read_lsst_models(path, options=jd.Initialization(priors=()), center_error=0.3).blends[0].blend


def test_the_models_are_the_same_pixels(blend):
    """A blend is what its boxes add up to, cut at the border of its window."""
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(blend))
    np.testing.assert_allclose(blend.cube(), model_of(0) + model_of(1), rtol=1e-5, atol=1e-6)
    fluxes = [np.asarray(source.flux) for source in blend.sources]
    whole = jd.Box((0, 0), (40, 50))
    np.testing.assert_allclose(fluxes, [model_of(k, whole).sum(axis=(1, 2)) for k in (0, 1)], rtol=1e-5)


def test_a_fit_may_go_on_under_constraints_of_ours(blend):
    np.testing.assert_array_equal(blend.center_prior.sigma, np.float32(0.3))
    morphologies = [stack.component.morphology for stack in blend.stacks if hasattr(stack.component, "morphology")]
    assert all(len(morphology.constraints) == 4 and morphology.priors == () for morphology in morphologies)
    assert {morphology.pixels.shape[-1] for morphology in morphologies} <= {15, 21, 31}


def test_they_can_be_stored(blend, tmp_path):
    fit = jd.FitResult(blend, np.zeros(0, np.float32), np.array(0), np.array(int(jd.RESULTS.MAX_STEPS)))
    with jd.StoreWriter.create(tmp_path / "models.h5", jd.StoreHeader(bands=BANDS)) as writer:
        writer.append(jd.StoredBlend(500, 12, BOX, np.array([0, 1]), fit, source_ids=np.array([71, 72])))
    again = jd.ModelStore(tmp_path / "models.h5").blend(500)
    assert again.record is not None and int(again.record.status) == int(jd.RESULTS.MAX_STEPS)
    assert jax.tree.structure(without_record(again)) == jax.tree.structure(blend)


def test_names_of_the_first_versions(tmp_path):
    data = v29()
    data["blends"]["12"] = old_blend(spectrum="sed", peak="center")
    (read,) = jd.read_lsst_models(write(tmp_path / "models.json", data)).blends
    np.testing.assert_array_equal(read.blend.centers, np.subtract(PEAKS[:2], BOX.start))


def test_parents_are_read_one_by_one(tmp_path):
    data = version_1()
    data["blends"] |= {"13": data["blends"]["12"], "14": new_blend()}
    path = archive(tmp_path / "m.scarlet", data, {"metadata": data["metadata"], "14": {"nonsense": 1}})
    models = jd.read_lsst_models(path, parents=[13])
    assert [blend.parent for blend in models.blends] == [13] and models.isolated == ()
    with pytest.raises(ValueError, match="parents: .*m.scarlet has no parent 15"):
        jd.read_lsst_models(path, parents=[15])
    with pytest.raises(ValueError, match="m.scarlet: blend 14 is not understood"):
        jd.read_lsst_models(path)


def test_blends_without_sources(tmp_path):
    data = version_1()
    data["blends"]["12"]["children"]["500"]["sources"] = {}
    (read,) = jd.read_lsst_models(write(tmp_path / "m.json", data)).blends
    assert read.blend.centers.shape == (0, 2) and read.blend.sources == ()


def changed(**changes):
    data = version_1()
    data["blends"]["12"]["children"]["500"]["sources"]["72"]["components"][0] |= changes
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"nothing": 1}, "not models of scarlet_lite .it has no blends"),
        ([1, 2], "it has no blends"),
        ({"blends": {"x": {}}}, "not models of scarlet_lite"),
        ({"blends": {"1": 3}}, "a blend, or what is said about all of them, is no object of JSON"),
        ({"blends": {}, "version": "2.0.0"}, "models of version 2.0.0; known are those up to version 1"),
        ({"blends": {"1": new_blend()}}, "bands: .* names none; give them"),
        (changed(component_type="spline"), "blend 12 is not understood .unknown component_type 'spline'"),
        (changed(spectrum=[1.0]), "a component of 1 bands among those of 3"),
        (changed(morph=[1.0, 2.0]), "blend 12 is not understood .cannot reshape"),
        (changed(peak=None), "blend 12 is not understood"),
        ({"blends": {"1": {"blend_type": "tree"}}, "metadata": {"bands": ["g"]}}, "unknown blend_type 'tree'"),
        ({"blends": {"1": {"shape": [2, 3]}}, "metadata": {"bands": ["g"]}}, "it has no 'origin'"),
        (version_1() | {"metadata": {"bands": BANDS, "psf": [1.0], "psfShape": [2, 2]}}, "model PSF is not understood"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, data, message):
    with pytest.raises(ValueError, match=message):
        jd.read_lsst_models(write(tmp_path / "models.json", data))


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.json: no such file"):
        jd.read_lsst_models(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{ not JSON")
    with pytest.raises(ValueError, match="text.json: not models of scarlet_lite"):
        jd.read_lsst_models(tmp_path / "text.json")
    whole = FILES["1.scarlet"][0](tmp_path / "m.scarlet").read_bytes()
    (tmp_path / "short.scarlet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="short.scarlet: not models of scarlet_lite"):
        jd.read_lsst_models(tmp_path / "short.scarlet")


def test_bands_can_be_given(tmp_path):
    data = version_1()
    del data["metadata"]["bands"]
    assert jd.read_lsst_models(write(tmp_path / "m.json", data), bands=("u", "v", "w")).bands == ("u", "v", "w")
