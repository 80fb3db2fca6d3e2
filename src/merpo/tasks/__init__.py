"""Task families that can be simulated, behaviour policies, and the collection of data sets.

    family = merpo.tasks.get_family("point-robot-goal")
    data = merpo.tasks.generate(family, "medium", episodes=50, seed=0)

Importing this room registers the Gymnasium ids where Gymnasium is installed; the families themselves work
without.
"""

from __future__ import annotations

import importlib.util

from merpo.tasks.analytic import greedy_act
from merpo.tasks.behaviour import (
    behaviour_act,
    expert_act,
    pedigree,
    reference_returns,
    select_checkpoints,
    shipped,
    train_behaviour,
)
from merpo.tasks.collect import env_specs, generate
from merpo.tasks.family import QUALITIES, Act, Family, JaxPolicy, Rollout, Simulator
from merpo.tasks.names import families, family_of, get_family
from merpo.tasks.own import own_agents
from merpo.tasks.record import training_record
from merpo.tasks.replay import replay
from merpo.tasks.sac import SACConfig

if importlib.util.find_spec("gymnasium") is not None:
    from merpo.tasks.environments import register

    register()

__all__ = [
    "QUALITIES",
    "Act",
    "Family",
    "JaxPolicy",
    "Rollout",
    "SACConfig",
    "Simulator",
    "behaviour_act",
    "env_specs",
    "expert_act",
    "families",
    "family_of",
    "generate",
    "get_family",
    "greedy_act",
    "own_agents",
    "pedigree",
    "reference_returns",
    "replay",
    "select_checkpoints",
    "shipped",
    "train_behaviour",
    "training_record",
]
