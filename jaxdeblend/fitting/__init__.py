"""How model and data meet: rendering, likelihood, optimizer, the fit, initial models."""

from .extend import add_sources as add_sources
from .initialize import Initialization as Initialization
from .initialize import initialize as initialize
from .likelihood import log_likelihood as log_likelihood
from .likelihood import log_posterior as log_posterior
from .loop import RESULTS as RESULTS
from .loop import FitResult as FitResult
from .loop import fit as fit
from .optimizer import ProximalAdam as ProximalAdam
from .render import render as render
from .render import render_sources as render_sources
