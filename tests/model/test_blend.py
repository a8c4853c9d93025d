import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import jaxdeblend as jd
from jaxdeblend.model.parameter import parameters
from jaxdeblend.ops import stamps

FRAME = (17, 15)
cube = eqx.filter_jit(lambda blend, *extent: blend.cube(*extent))
render = eqx.filter_jit(lambda source: source.render(FRAME))
log_prior = eqx.filter_jit(lambda blend: blend.log_prior(RMS))
RMS = jnp.array([1.0, 0.5])


def shape(edge, seed):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(edge, edge)), dtype=float)


def sources():
    """Stars, galaxies, a bulge and disk, a cube, each on stamps of another size: no two neighbours of one kind."""
    return [
        jd.PointSource((5.2, 6.0), jnp.array([3.0, 4.0]), edge=9, center_error=0.1),
        jd.ExtendedSource((8.0, 9.7), jnp.array([1.0, 2.0]), shape(5, 0), center_error=0.2),
        jd.Source((3.1, 3.2), (jd.CubeComponent(jnp.stack([shape(7, 1), shape(7, 2)])),)),
        jd.ExtendedSource((12.0, 4.5), jnp.array([[1.0, 0.5], [0.2, 2.0]]), jnp.stack([shape(5, 3), shape(5, 4)])),
        jd.PointSource((11.0, 12.6), jnp.array([1.0, 1.5]), edge=9),
        jd.ExtendedSource((0.3, 14.0), jnp.array([2.0, 2.0]), shape(5, 5)),
    ]


@pytest.fixture(scope="module")
def blend():
    return jd.Blend.of(sources(), frame=FRAME)


def with_padding(blend):
    """The blend with one dark component more in each stack, and one dark source more."""
    more = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), blend.stacks)
    stacks = tuple(eqx.tree_at(lambda stack: stack.active, stack, stack.active.at[-1].set(False)) for stack in more)
    prior = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1] + 3]), blend.center_prior)
    centers, active = jnp.concatenate([blend.centers, blend.centers[:1]]), jnp.append(blend.active, False)
    return jd.Blend(centers=centers, center_prior=prior, stacks=stacks, active=active, frame=FRAME)


# -------------------------------------------------------------------------------------------------- lists of sources


def test_a_blend_gives_its_sources_back_in_order(blend):
    back = blend.sources
    assert len(back) == 6 and len(blend.stacks) == 3
    for given, found in zip(sources(), back, strict=True):
        np.testing.assert_array_equal(found.center, given.center)
        np.testing.assert_array_equal(found.center_error, given.center_error)
        assert found.frame == FRAME
        assert jax.tree.structure(found.components) == jax.tree.structure(given.components)
        for a, b in zip(jax.tree.leaves(found.components), jax.tree.leaves(given.components), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_blend_is_the_sum_of_its_sources(blend):
    np.testing.assert_allclose(cube(blend), sum(render(source) for source in sources()), atol=1e-5)


def test_a_blend_without_sources_is_dark():
    empty = jd.Blend.of([], frame=FRAME)
    assert empty.sources == () and empty.frames() == ()
    np.testing.assert_array_equal(empty.cube(), np.zeros((1, *FRAME)))
    assert float(empty.log_prior(RMS)) == 0


def test_a_blend_of_numpy_arrays_is_a_blend(blend):
    host = jax.device_get(blend)
    assert isinstance(host.centers, np.ndarray)
    np.testing.assert_allclose(host.cube(), cube(blend), atol=1e-5)
    np.testing.assert_allclose(host.sources[3].flux, blend.sources[3].flux, rtol=1e-6)
    np.testing.assert_allclose(host.log_prior(RMS), log_prior(blend), rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------- padding


def test_padding_is_dark(blend):
    padded = with_padding(blend)
    assert len(padded.sources) == 6
    np.testing.assert_allclose(cube(padded), cube(blend), atol=1e-5)
    for stack in padded.stacks:
        assert not np.asarray(stack.membership(7))[6].any()
    assert float(log_prior(padded)) == pytest.approx(float(log_prior(blend)), rel=1e-5)
    np.testing.assert_array_equal(padded.step_sizes(RMS).centers[6], [0, 0])


def test_beyond_the_extent_a_model_is_zero(blend):
    whole, part = np.asarray(cube(blend)), np.asarray(cube(blend, jnp.array([12, 9])))
    np.testing.assert_allclose(part[:, :12, :9], whole[:, :12, :9], atol=1e-6)
    assert not part[:, 12:].any() and not part[:, :, 9:].any()


# -------------------------------------------------------------------------------------------------- linear algebra


def one_galaxy(spectrum, pixels):
    source = jd.ExtendedSource((6.3, 7.4), spectrum, pixels)
    return jd.Blend.of([source], frame=FRAME)


def test_cube_is_linear_in_spectrum_and_morphology_and_has_their_adjoints():
    """Of s ⊗ P m Pᵀ these are Σ m_frame g_b along the spectrum, and Pᵀ (Σ_b s_b g_b) P along the pixels."""
    spectrum, pixels = jnp.array([1.5, 0.5]), shape(7, 0)
    image = jnp.asarray(np.random.default_rng(1).normal(size=(2, *FRAME)), dtype=float)
    value, pull = jax.vjp(jax.jit(lambda s, m: one_galaxy(s, m).cube()), spectrum, pixels)
    rows, columns = (stamps.placement(jnp.asarray(c), n, 7) for c, n in zip((6.3, 7.4), FRAME, strict=True))
    frame = stamps.place(pixels, rows, columns)
    along_spectrum, along_pixels = pull(image)
    np.testing.assert_allclose(value, spectrum[:, None, None] * frame[None], atol=1e-5)
    np.testing.assert_allclose(along_spectrum, jnp.sum(image * frame[None], axis=(1, 2)), rtol=1e-4)
    weighted = jnp.sum(spectrum[:, None, None] * image, axis=0)
    np.testing.assert_allclose(along_pixels, stamps.cut(weighted, rows, columns), atol=1e-5)
    for left, right in ((spectrum * along_spectrum, value * image), (pixels * along_pixels, value * image)):
        assert float(jnp.sum(left)) == pytest.approx(float(jnp.sum(right)), rel=1e-4)


def test_gradient_with_respect_to_the_centres():
    with jax.enable_x64(True):
        blend = jd.Blend.of(sources()[1::2], frame=FRAME)
        image = jnp.asarray(np.random.default_rng(1).normal(size=(2, *FRAME)))

        @jax.jit
        def value(centers):
            return jnp.sum(eqx.tree_at(lambda b: b.centers, blend, centers).cube() * image)

        direction, step = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2))), 1e-6
        expected = (value(blend.centers + step * direction) - value(blend.centers - step * direction)) / (2 * step)
        found = jnp.sum(jax.grad(value)(blend.centers) * direction)
        assert float(found) == pytest.approx(float(expected), rel=1e-5)


# -------------------------------------------------------------------------------------------------------- posterior


def test_log_prior_is_that_of_shapes_and_free_centres(blend):
    moved = eqx.tree_at(lambda b: b.centers, blend, blend.centers + 0.1)
    shapes = sum(float(part.log_prior(RMS)) for source in sources() for part in source.components)
    centers = -0.5 * (2 * 0.1**2 / 0.1**2 + 2 * 0.1**2 / 0.2**2)
    assert float(log_prior(blend)) == pytest.approx(shapes, rel=1e-5)
    assert float(log_prior(moved)) == pytest.approx(shapes + centers, rel=1e-4)


def test_project_projects_every_component(blend):
    projected = eqx.filter_jit(lambda b: b.project(RMS))(blend)
    for before, after in zip(sources(), projected.sources, strict=True):
        for a, b in zip(before.components, after.components, strict=True):
            np.testing.assert_allclose(b.terms()[1], a.project(RMS).terms()[1], atol=1e-5)


def test_steps_of_centres_are_for_those_with_an_error(blend):
    steps = blend.step_sizes(RMS)
    np.testing.assert_array_equal(np.asarray(steps.centers).any(axis=1), [True, True, False, False, False, False])
    assert steps.center_prior.mean is None and steps.active is None


# --------------------------------------------------------------------------------------------------- made by the user


class Halo(jd.AbstractComponent):
    """A Gaussian of free width, in two colours: inside and outside."""

    sigma: Float[Array, ""]
    spectra: Float[Array, "2 band"]

    def terms(self):
        offset = jnp.arange(-5, 6, dtype=self.sigma.dtype)
        square = offset[:, None] ** 2 + offset[None, :] ** 2
        blob = jnp.exp(-0.5 * square / self.sigma**2)
        return self.spectra, jnp.stack([jnp.where(square < 9, blob, 0.0), jnp.where(square < 9, 0.0, blob)])

    def project(self, rms):  # noqa: ARG002
        return Halo(jnp.clip(self.sigma, 0.8, 4.0), jnp.maximum(self.spectra, 0.0))

    def log_prior(self, rms):  # noqa: ARG002
        return -0.5 * (self.sigma - 2) ** 2

    def step_sizes(self, rms):
        return parameters(self, sigma=0.05, spectra=0.1 * rms[None])


def test_a_users_component_works_in_a_blend_and_its_gradient_flows():
    halos = [Halo(jnp.asarray(sigma), jnp.array([[1.0, 2.0], [2.0, -1.0]])) for sigma in (1.5, 6.0)]
    mixed = [jd.Source((8.0, 7.0), (halos[0],)), sources()[1], jd.Source((4.0, 4.0), (halos[1],))]
    blend = jd.Blend.of(mixed, frame=FRAME)
    np.testing.assert_allclose(cube(blend), sum(render(source) for source in mixed), atol=1e-5)
    projected = eqx.filter_jit(lambda b: b.project(RMS))(blend).sources[2].components[0]
    assert float(projected.sigma) == 4 and float(projected.spectra.min()) == 0
    gradient = eqx.filter_jit(eqx.filter_grad(lambda b: jnp.sum(b.cube() ** 2) + b.log_prior(RMS)))(blend)
    halo = gradient.stacks[0].component
    assert np.asarray(halo.sigma).all() and np.asarray(halo.spectra).any() and np.isfinite(halo.sigma).all()
    np.testing.assert_allclose(blend.step_sizes(RMS).stacks[0].component.sigma, [0.05, 0.05], rtol=1e-6)


# -------------------------------------------------------------------------------------------------- algebra


def test_taken_sources_are_those_of_the_list_in_the_order_wanted(blend):
    index = np.array([3, 0, 2])
    taken = blend.take(index)
    assert_sources_are(taken, [blend.sources[k] for k in index])
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(taken))


def test_taking_keeps_padding_and_trimming_drops_it(blend):
    padded = with_padding(blend)
    everything = padded.take(np.arange(len(padded.centers)))
    assert n_components(everything) == n_components(padded) > n_components(blend)
    trimmed = everything.trimmed()
    assert n_components(trimmed) == n_components(blend)
    assert_sources_are(trimmed, blend.sources)


def test_a_source_without_light_keeps_its_components(blend):
    dark = eqx.tree_at(
        lambda b: [stack.active for stack in b.stacks], blend, [np.asarray(s.source) != 1 for s in blend.stacks]
    )
    trimmed = dark.trimmed()
    assert len(trimmed.sources) == len(blend.sources)
    assert n_components(trimmed) == n_components(blend)


def test_joined_blends_have_the_sources_of_both(blend):
    other = blend.take(np.array([1, 3]))
    both = jd.Blend.join([blend, other])
    assert_sources_are(both, [*blend.sources, *other.sources])
    assert len(both.stacks) == len(blend.stacks)
    np.testing.assert_allclose(cube(both), cube(blend) + cube(other), atol=1e-5)


def test_a_joined_blend_is_the_same_under_jit(blend):
    both = jax.jit(lambda a, b: jd.Blend.join([a, b]))(blend, blend)
    np.testing.assert_array_equal(cube(both), cube(jd.Blend.join([blend, blend])))


def test_padding_is_dark_and_no_source(blend):
    frame = (FRAME[0] + 8, FRAME[1] + 3)
    padded = blend.padded(9, lambda n: n + 2, frame=frame)
    assert len(padded.centers) == 9 and padded.frame == frame
    assert_sources_are(padded, blend.sources)
    np.testing.assert_allclose(cube(padded)[:, : FRAME[0], : FRAME[1]], cube(blend), atol=1e-5)


def test_a_moved_blend_shines_elsewhere(blend):
    moved = blend.moved(np.array([2.0, 3.0], np.float32), frame=FRAME)
    np.testing.assert_allclose(cube(moved)[:, 2:, 3:], cube(blend)[:, :-2, :-3], atol=1e-4)
    shift = np.asarray(moved.center_prior.mean - blend.center_prior.mean)
    np.testing.assert_allclose(shift, np.tile([2.0, 3.0], (len(shift), 1)), rtol=1e-6)


def test_blends_are_made_by_keyword_only(blend):
    with pytest.raises(TypeError, match="positional"):
        jd.Blend(blend.centers, blend.center_prior, blend.stacks, blend.active, FRAME)


def n_components(blend):
    return sum(len(stack.source) for stack in blend.stacks)


def assert_sources_are(blend, expected):
    """Compare positions, fluxes and numbers of components, in order."""
    assert len(blend.sources) == len(expected)
    for source, wanted in zip(blend.sources, expected, strict=True):
        np.testing.assert_array_equal(source.center, wanted.center)
        np.testing.assert_allclose(source.flux, wanted.flux, rtol=1e-6)
        assert len(source.components) == len(wanted.components)
