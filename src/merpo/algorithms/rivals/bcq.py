"""BCQ (Fujimoto, Meger, Precup 2019): actions from a model of the logged ones, slightly corrected, the best by value.

    VAE    <- argmin E_D[ ||D(s, x) - a||^2 / |A| + 1/2 KL(N(mu, sigma^2) || N(0, 1)) / |x| ],  x ~ N(mu, sigma^2)(s, a)
    Q      <- argmin E_D[ (r + gamma (1 - terminated) max_i [ w min_j Qbar_j + (1 - w) max_j Qbar_j ](s', a_i) - Q)^2 ]
    a_i     = D(s', x_i) + xi_bar(s', D(s', x_i)),   x_i ~ N(0, 1) clipped to +-0.5
    xi     <- argmax E[ Q_1(s, a + xi(s, a)) ],  |xi| <= perturbation

States may be (s, z). The policy that is left behind draws its candidates once and for all, so that it is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from merpo.algorithms.rivals.settings import check_counts, check_shares, check_steps, check_weights, check_widths
from merpo.algorithms.rivals.td import Trained, bootstrap, kl_to_normal, polyak, td_loss
from merpo.data.types import Transitions
from merpo.networks import ACTION_LIMIT, MLP, TanhGaussian, TwinCritic


@dataclass(frozen=True)
class BCQConfig:
    """Settings of BCQ."""

    hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of critics and perturbation."""
    vae_hidden: tuple[int, ...] = (256, 256, 256)
    """Widths of the hidden layers of the VAE's two networks."""
    learning_rate: float = 1e-3
    """Adam step size of all networks."""
    tau: float = 0.005
    """Polyak rate of target critics and target perturbation."""
    perturbation: float = 0.05
    """Largest correction of an action."""
    candidates: int = 10
    """Actions per next state in the target."""
    act_candidates: int = 100
    """Actions per state that the policy chooses from."""
    min_weight: float = 0.75
    """Weight of the lesser critic; the greater one has the rest."""
    kl_weight: float = 0.5
    """Weight of the VAE's KL."""

    def __post_init__(self) -> None:
        check_widths(self, "hidden", "vae_hidden")
        check_steps(self, "learning_rate")
        check_shares(self, "tau", "perturbation", "min_weight")
        check_counts(self, "candidates", "act_candidates")
        check_weights(self, "kl_weight")


class VAE(eqx.Module):
    """Model of the logged actions; the latent has twice the action's length."""

    encoder: MLP
    decoder: MLP

    @staticmethod
    def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, hidden: tuple[int, ...]) -> VAE:
        """Random weights."""
        k_encoder, k_decoder = jax.random.split(key)
        latent = 2 * act_dim
        return VAE(
            MLP(obs_dim + act_dim, 2 * latent, hidden, k_encoder), MLP(obs_dim + latent, act_dim, hidden, k_decoder)
        )

    def encode(
        self, obs: Float[Array, "*n obs"], action: Float[Array, "*n act"]
    ) -> tuple[Float[Array, "*n x"], Float[Array, "*n x"]]:
        """mu and log sigma, the latter in [-4, 15]."""
        mean, log_std = jnp.split(self.encoder(jnp.concatenate([obs, action], axis=-1)), 2, axis=-1)
        return mean, jnp.clip(log_std, -4.0, 15.0)

    def decode(self, obs: Float[Array, "*n obs"], x: Float[Array, "*n x"]) -> Float[Array, "*n act"]:
        """D(s, x)."""
        return jnp.tanh(self.decoder(jnp.concatenate([obs, x], axis=-1)))


class Perturbation(eqx.Module):
    """a + xi(s, a), kept in [-1, 1]."""

    net: MLP
    limit: float = eqx.field(static=True)

    def __call__(self, obs: Float[Array, "*n obs"], action: Float[Array, "*n act"]) -> Float[Array, "*n act"]:
        """The corrected action."""
        step = self.limit * jnp.tanh(self.net(jnp.concatenate([obs, action], axis=-1)))
        return jnp.clip(action + step, -1.0, 1.0)


class Agent(eqx.Module):
    """All state of BCQ."""

    vae: Trained
    perturbation: Trained
    critic: Trained
    perturbation_target: Perturbation
    critic_target: TwinCritic
    act_latents: Float[Array, "*job candidate x"]


class Constrained(eqx.Module):
    """The policy: the best by Q_1 of its candidates."""

    vae: VAE
    perturbation: Perturbation
    critic: TwinCritic
    latents: Float[Array, "*job candidate x"]
    z: Float[Array, "*job z"]
    """The task, behind every observation; length 0 without."""

    def __call__(self, obs: Float[Array, "*n obs"]) -> TanhGaussian:
        """The chosen action as a distribution of hardly any width."""
        obs = jnp.concatenate([obs, jnp.broadcast_to(self.z, (*obs.shape[:-1], self.z.shape[-1]))], axis=-1)
        action = candidates(self.vae, self.perturbation, obs, _latents_for(obs, self.latents))
        value = self.critic(_repeat(obs, self.latents.shape[0]), action)[0]
        best = jnp.argmax(value, axis=-1)
        chosen = jnp.take_along_axis(action, best[..., None, None], axis=-2)[..., 0, :]
        mean = jnp.arctanh(jnp.clip(chosen, -ACTION_LIMIT, ACTION_LIMIT))
        return TanhGaussian(mean, jnp.full_like(mean, -5.0))

    def given(self, z: Float[Array, " z"]) -> Constrained:
        """pi(. | s, z) as a policy of s alone."""
        return eqx.tree_at(lambda p: p.z, self, z)


def init(key: PRNGKeyArray, obs_dim: int, act_dim: int, config: BCQConfig) -> Agent:
    """From random networks; `obs_dim` counts z too."""
    k_vae, k_perturb, k_critic, k_act = jax.random.split(key, 4)
    perturbation = Perturbation(MLP(obs_dim + act_dim, act_dim, config.hidden, k_perturb), config.perturbation)
    critic = TwinCritic(obs_dim, act_dim, config.hidden, k_critic)
    return Agent(
        Trained.start(VAE.init(k_vae, obs_dim, act_dim, config.vae_hidden)),
        Trained.start(perturbation),
        Trained.start(critic),
        perturbation,
        critic,
        prior(k_act, (config.act_candidates, 2 * act_dim)),
    )


def prior(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "*n x"]:
    """Latents of likely actions: N(0, 1) clipped to +-0.5."""
    return jnp.clip(jax.random.normal(key, shape, jnp.float32), -0.5, 0.5)


def _repeat(obs: Float[Array, "*n obs"], count: int) -> Float[Array, "*n candidate obs"]:
    return jnp.broadcast_to(obs[..., None, :], (*obs.shape[:-1], count, obs.shape[-1]))


def _latents_for(obs: Float[Array, "*n obs"], x: Float[Array, "candidate x"]) -> Float[Array, "*n candidate x"]:
    return jnp.broadcast_to(x, (*obs.shape[:-1], *x.shape))


def candidates(
    vae: VAE, perturbation: Perturbation, obs: Float[Array, "*n obs"], x: Float[Array, "*n candidate x"]
) -> Float[Array, "*n candidate act"]:
    """Corrected actions for given latents."""
    repeated = _repeat(obs, x.shape[-2])
    return perturbation(repeated, vae.decode(repeated, x))


def vae_loss(vae: VAE, batch: Transitions, noise: Float[Array, "row x"], kl_weight: float) -> Float[Array, ""]:
    """Reconstruction and KL, both means over coordinates as in the authors' code."""
    mean, log_std = vae.encode(batch.obs, batch.action)
    action = vae.decode(batch.obs, mean + jnp.exp(log_std) * noise)
    return jnp.mean((action - batch.action) ** 2) + kl_weight * jnp.mean(kl_to_normal(mean, log_std))


def clipped_value(q: Float[Array, "2 *n"], min_weight: float) -> Float[Array, "*n"]:
    """w min_j Q_j + (1 - w) max_j Q_j (equation 13)."""
    return min_weight * jnp.min(q, axis=0) + (1.0 - min_weight) * jnp.max(q, axis=0)


def target(
    agent: Agent, batch: Transitions, x: Float[Array, "row candidate x"], gamma: float, min_weight: float
) -> Float[Array, " row"]:
    """y: the best candidate at the *next* state."""
    action = candidates(agent.vae.net, agent.perturbation_target, batch.next_obs, x)
    q = agent.critic_target(_repeat(batch.next_obs, x.shape[-2]), action)
    return bootstrap(batch, jnp.max(clipped_value(q, min_weight), axis=-1), gamma)


def perturbation_loss(
    perturbation: Perturbation, vae: VAE, critic: TwinCritic, obs: Float[Array, "row obs"], x: Float[Array, "row x"]
) -> Float[Array, ""]:
    """-E[Q_1(s, a + xi(s, a))], a ~ VAE."""
    return -jnp.mean(critic(obs, perturbation(obs, vae.decode(obs, x)))[0])


def finish(
    agent: Agent, critic: Trained, batch: Transitions, key: PRNGKeyArray, config: BCQConfig
) -> tuple[Agent, dict[str, Array]]:
    """What follows the critics' step: VAE, perturbation, targets."""
    k_vae, k_perturb = jax.random.split(key)
    width = agent.act_latents.shape[-1]
    noise = jax.random.normal(k_vae, (batch.reward.shape[0], width), jnp.float32)
    loss, grads = jax.value_and_grad(vae_loss)(agent.vae.net, batch, noise, config.kl_weight)
    vae = agent.vae.step(grads, config.learning_rate)
    x = prior(k_perturb, (batch.reward.shape[0], width))
    value, grads = jax.value_and_grad(perturbation_loss)(agent.perturbation.net, vae.net, critic.net, batch.obs, x)
    perturbation = agent.perturbation.step(grads, config.learning_rate)
    new = Agent(
        vae,
        perturbation,
        critic,
        polyak(agent.perturbation_target, perturbation.net, config.tau),
        polyak(agent.critic_target, critic.net, config.tau),
        agent.act_latents,
    )
    return new, {"bcq/vae": loss, "actor/q": -value}


def next_latents(agent: Agent, batch: Transitions, key: PRNGKeyArray, config: BCQConfig) -> Float[Array, "row c x"]:
    """Candidates' latents for a target."""
    return prior(key, (batch.reward.shape[0], config.candidates, agent.act_latents.shape[-1]))


def update(
    agent: Agent, batch: Transitions, key: PRNGKeyArray, gamma: float, config: BCQConfig
) -> tuple[Agent, dict[str, Array]]:
    """One update of everything."""
    k_next, k_rest = jax.random.split(key)
    y = target(agent, batch, next_latents(agent, batch, k_next, config), gamma, config.min_weight)
    grads, metrics = jax.grad(td_loss, has_aux=True)(agent.critic.net, batch, y)
    new, found = finish(agent, agent.critic.step(grads, config.learning_rate), batch, k_rest, config)
    return new, metrics | found


def policy(agent: Agent) -> Constrained:
    """The policy as it stands."""
    nothing = jnp.zeros((*agent.act_latents.shape[:-2], 0), jnp.float32)
    return Constrained(agent.vae.net, agent.perturbation.net, agent.critic.net, agent.act_latents, nothing)
