"""What comes out: fluxes and their errors, shapes, flags, re-apportioned images."""

from .flags import Flag as Flag
from .photometry import Apportioned as Apportioned
from .photometry import apportion_flux as apportion_flux
from .table import measure as measure
