"""Scenes with known truth, for demonstrations, tests and benchmarks."""

from .field import Field as Field
from .field import simulate_field as simulate_field
from .patch import Patch as Patch
from .patch import simulate_cluster as simulate_cluster
from .patch import simulate_patch as simulate_patch
from .scene import Scene as Scene
from .scene import simulate_blend as simulate_blend
from .truth_set import save_truth_set as save_truth_set
from .truth_set import truth_set as truth_set
