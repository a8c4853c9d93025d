"""The command line: jaxdeblend deblend | detect | match-psf | simulate | info | demo | warmup."""

from .main import main as main
from .main import run as run
