"""What the public verbs of the room take: a fit, or a blend, and an observation of the same pixels."""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Float, Int

from ..fitting.loop import RESULTS
from ..fitting.record import checksum, without_record
from ..fitting.render import render_terms
from ..fitting.spectra import solve_spectra
from ..instrument.observation import Observation
from ..model.blend import Blend
from ..runtime.host import AnyArray
from ..runtime.programs import Program


@runtime_checkable
class Fitted(Protocol):
    """A blend and how its fit ended: `jaxdeblend.FitResult` and `jaxdeblend.Deblended` are such."""

    @property
    def blend(self) -> Blend:
        """The fitted blend."""
        ...

    @property
    def status(self) -> Int[AnyArray, ""]:
        """Value of `jaxdeblend.RESULTS`."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A fit that was measured already, as `jaxdeblend.Deblended`."""

    def measured_on(self, obs: Observation) -> tuple[Any, Float[AnyArray, "source band y x"]] | None:
        """Measurements and source models, if they are those of this very observation."""
        ...


def measurements_at_hand(
    fitted: object, obs: Observation, refit_spectra: bool | None
) -> tuple[Any, Float[AnyArray, "source band y x"]] | None:
    """Measurements and source models of a fit that was measured on this very observation, unless others are wanted."""
    if refit_spectra or not isinstance(fitted, Measured):
        return None
    return fitted.measured_on(obs)


def blend_and_status(fitted: Blend | Fitted) -> tuple[Blend, Int[AnyArray, ""] | int]:
    """The blend, and how its fit ended; a blend that did not come from a fit counts as converged."""
    if not isinstance(fitted, Blend):
        if not isinstance(fitted, Fitted):
            raise ValueError(f"fitted: got {type(fitted).__name__}; give a blend, or what fit or deblend returned.")
        return fitted.blend, fitted.status
    if fitted.record is None:
        return fitted, RESULTS.CONVERGED
    return fitted, fitted.record.status


def check_observation(blend: Blend, obs: Observation) -> None:
    """Refuse an observation of other pixels or bands than those of the blend."""
    if blend.frame != obs.shape:
        raise ValueError(
            f"obs: got shape {obs.shape} for a blend of the frame {blend.frame}; give its own observation, or another "
            "of the same pixels."
        )
    n_bands = {eqx.filter_eval_shape(stack.terms)[0].shape[-1] for stack in blend.stacks}
    if n_bands and n_bands != {len(obs.bands)}:
        raise ValueError(
            f"obs: got {len(obs.bands)} bands for a blend of {n_bands.pop()}; give its own observation, or another of "
            "as many bands in the same order."
        )


def blend_on(blend: Blend, obs: Observation, *, refit_spectra: bool) -> Blend:
    """The blend with the fluxes that it has on an observation, if they are wanted; without its record."""
    plain = without_record(blend)
    return _solved(plain, obs) if refit_spectra else plain


def needs_spectra(blend: Blend, obs: Observation) -> bool:
    """Whether the blend is known to have been fitted to another observation: its fluxes are then of that one."""
    if blend.record is None or blend.record.observation is None:
        return False
    here = checksum(obs)
    return here is not None and int(here) != int(blend.record.observation)


@Program
def _solved(blend: Blend, obs: Observation) -> Blend:
    """The blend with the best spectra for an observation."""
    return solve_spectra(blend, obs, render_terms(blend, obs))
