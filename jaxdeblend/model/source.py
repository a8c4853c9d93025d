"""Sources: a centre, and the components around it."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..instrument.box import Box
from ..instrument.psf import AbstractPSF, GaussianPSF
from ..ops import stamps
from ..runtime.host import AnyArray, device_array
from ..runtime.programs import Program
from .component import AbstractComponent, FactorizedComponent
from .constraint import AbstractConstraint, CenterKept, Monotonic, Positive
from .morphology import ImageMorphology, PointMorphology
from .prior import AbstractPrior, SymmetricPrior
from .spectrum import FreeSpectrum


class Source(eqx.Module):
    """One star or galaxy: components that share a sub-pixel centre.

    Parameters
    ----------
    center
        Position (y, x) in pixels of the observation's frame.
    components
        At least one component; stamps may differ in size.
    center_error
        1σ error per axis of the position, in pixels. The centre is fitted under a prior of this width; 0 keeps it
        fixed.
    frame
        Shape (y, x) of the observation that `render` renders for.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> source = jd.PointSource((10.3, 12.0), flux=jnp.array([5.0, 7.0]), frame=(24, 24))
    >>> [round(float(f), 4) for f in source.flux], source.render().shape
    ([5.0, 7.0], (2, 24, 24))
    """

    center: Float[Array, "2"]
    components: tuple[AbstractComponent, ...]
    center_error: Float[Array, ""]
    frame: tuple[int, int] | None = eqx.field(static=True)

    def __init__(
        self,
        center: object,
        components: tuple[AbstractComponent, ...],
        *,
        center_error: float | AnyArray = 0.0,
        frame: tuple[int, int] | None = None,
    ):
        if not components:
            raise ValueError("components: got none; a source needs at least one component.")
        self.center = device_array(center, float)
        self.components = tuple(components)
        self.center_error = device_array(center_error, float)
        self.frame = frame

    @property
    def flux(self) -> Float[Array, " band"]:
        """Total flux of the model in each band, in image units."""
        return _flux(self.components)

    @property
    def spectrum(self) -> Float[Array, "term band"]:
        """Brightness of each term's maximum in each band."""
        return jnp.concatenate([component.terms()[0] for component in self.components])

    @property
    def morphology(self) -> tuple[Float[Array, "s s"], ...]:
        """Stamp of each term on the source's own grid."""
        return tuple(stamp for component in self.components for stamp in component.terms()[1])

    @property
    def box(self) -> Box:
        """Pixels under the largest stamp, without the ripples of its interpolation; may reach beyond the frame."""
        edge = max(stamp.shape[-1] for stamp in self.morphology) + 2
        y, x = (int(round(float(c))) - edge // 2 for c in self.center)
        return Box((y, x), (edge, edge))

    def render(self, frame: tuple[int, int] | None = None) -> Float[Array, "band y x"]:
        """The source in model space, before the PSF, in the observation's frame.

        Parameters
        ----------
        frame
            Shape (y, x) of the frame, if not the one that the source was made for.
        """
        shape = self.frame if frame is None else frame
        if shape is None:
            raise ValueError("frame: got None; give the shape (y, x) to render on.")
        return sum(self._render(part, shape) for part in self.components[1:]) + self._render(self.components[0], shape)

    def _render(self, component: AbstractComponent, shape: tuple[int, int]) -> Float[Array, "band y x"]:
        spectra, images = component.terms()
        rows = stamps.placement(self.center[0], shape[0], images.shape[-2])
        columns = stamps.placement(self.center[1], shape[1], images.shape[-1])
        return jnp.einsum("tb,ys,tsu,xu->byx", spectra, rows, images, columns)


@Program
def _flux(components: tuple[AbstractComponent, ...]) -> Float[Array, " band"]:
    """Flux of all components together."""
    fluxes = [jnp.einsum("tb,tyx->b", *component.terms()) for component in components]
    return sum(fluxes[1:], start=fluxes[0])


@Program
def _peak_of_flux(flux: Float[Array, " band"], stamp: Float[Array, "s s"]) -> Float[Array, " band"]:
    """Brightness of the maximum of a stamp that has this flux."""
    return flux / stamp.sum()


def PointSource(  # noqa: N802
    center: object,
    flux: Float[AnyArray, " band"] | Sequence[float],
    *,
    edge: int = 15,
    model_psf: AbstractPSF | None = None,
    center_error: float = 0.0,
    frame: tuple[int, int] | None = None,
) -> Source:
    """A star: the PSF at a position.

    Parameters
    ----------
    center
        Position (y, x) in pixels.
    flux
        Total flux in each band.
    edge
        Odd edge of its stamp.
    model_psf
        PSF of model space, if not the default of `Observation`.
    center_error
        1σ error per axis of the position, in pixels; 0 keeps it fixed.
    frame
        Shape (y, x) of the observation.

    Returns
    -------
    Source
        Source with one component.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> round(float(jd.PointSource((3, 4), jnp.array([2.0])).flux[0]), 5)
    2.0
    """
    morphology = PointMorphology.of(GaussianPSF(0.8) if model_psf is None else model_psf, edge)
    spectrum = FreeSpectrum(_peak_of_flux(device_array(flux, float), morphology.image()))
    return Source(center, (FactorizedComponent(spectrum, morphology),), center_error=center_error, frame=frame)


def ExtendedSource(  # noqa: N802
    center: object,
    spectrum: Float[AnyArray, " band"] | Float[AnyArray, "component band"] | Sequence[float],
    morphology: Float[AnyArray, "y x"] | Float[AnyArray, "component y x"],
    *,
    constraints: tuple[AbstractConstraint, ...] | None = None,
    priors: tuple[AbstractPrior, ...] | None = None,
    center_error: float = 0.0,
    frame: tuple[int, int] | None = None,
) -> Source:
    """A galaxy of one component, or of several (bulge and disk) with a colour each.

    Parameters
    ----------
    center
        Position (y, x) in pixels.
    spectrum
        Brightness of each morphology's maximum in each band, (band,) or (component, band).
    morphology
        Stamp with odd edge about the centre, (y, x) or (component, y, x).
    constraints
        Constraints on each morphology, in the order in which they are applied; by default `Positive`, `Monotonic` and
        `CenterKept`.
    priors
        Priors on each morphology; by default `SymmetricPrior`.
    center_error
        1σ error per axis of the position, in pixels; 0 keeps it fixed.
    frame
        Shape (y, x) of the observation.

    Returns
    -------
    Source
        Source with one component, or as many as there are morphologies.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> galaxy = jd.ExtendedSource((8, 8), jnp.ones((2, 3)), jnp.ones((2, 9, 9)))   # bulge + disk in 3 bands
    >>> len(galaxy.components), galaxy.flux.shape
    (2, (3,))
    """
    spectra = device_array(spectrum, float)
    spectra = spectra[None] if spectra.ndim == 1 else spectra
    images = device_array(morphology, float)
    images = images[None] if images.ndim == 2 else images
    if len(spectra) != len(images) or images.shape[-1] != images.shape[-2] or images.shape[-1] % 2 == 0:
        raise ValueError(
            f"morphology: got shape {images.shape} for {len(spectra)} spectra; give one square stamp of odd edge "
            "for each spectrum."
        )
    constraints = (Positive(), Monotonic(), CenterKept()) if constraints is None else constraints
    priors = (SymmetricPrior(),) if priors is None else priors
    components = tuple(
        FactorizedComponent(FreeSpectrum(values), ImageMorphology(image, constraints, priors))
        for values, image in zip(spectra, images, strict=True)
    )
    return Source(center, components, center_error=center_error, frame=frame)
