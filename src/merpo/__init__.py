"""merpo: model-based offline meta-reinforcement learning."""

from merpo import devices, distributed, rivals
from merpo.algorithms.merpo_config import MerPOConfig
from merpo.algorithms.rac import RACConfig
from merpo.api import MerPO, Meta, load
from merpo.data import SetInfo, TaskData, TaskSet, Transitions, from_arrays
from merpo.dynamics.ensemble import DynamicsConfig
from merpo.errors import ConfigError, DataError, DivergenceError, MerpoError, StorageError, UnknownNameError
from merpo.policies import Policy, PolicySet
from merpo.runs import Checkpoints

__version__ = "0.1.0"

__all__ = [
    "Checkpoints",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "DynamicsConfig",
    "MerPO",
    "MerPOConfig",
    "MerpoError",
    "Meta",
    "Policy",
    "PolicySet",
    "RACConfig",
    "SetInfo",
    "StorageError",
    "TaskData",
    "TaskSet",
    "Transitions",
    "UnknownNameError",
    "devices",
    "distributed",
    "from_arrays",
    "load",
    "rivals",
]
