"""Pure modules: perceptrons, the tanh-Gaussian actor, the critic pair. They know nothing of learning."""

from merpo.networks.critic import TwinCritic
from merpo.networks.mlp import MLP, Dense
from merpo.networks.tanh_gaussian import ACTION_LIMIT, Actor, Noise, TanhGaussian

__all__ = ["ACTION_LIMIT", "MLP", "Actor", "Dense", "Noise", "TanhGaussian", "TwinCritic"]
