"""Privileged neural policies: how they act, and their files (safetensors for arrays, JSON beside)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from merpo.errors import StorageError
from merpo.networks import Actor
from merpo.tasks.family import Act, Family

Tree = TypeVar("Tree")


class Policy(eqx.Module):
    """A privileged actor with its fixed input scaling: input (obs / scale, task vector)."""

    actor: Actor
    scale: Float[Array, " obs"]


@jax.jit
def _distribution(actor: Actor, x: Float[Array, "*n input"]) -> tuple[Array, Array]:
    dist = actor(x)
    return dist.mean, jnp.exp(dist.log_std)


def distribution(
    actor: Actor, x: Float[np.ndarray, "*n input"]
) -> tuple[Float[np.ndarray, "*n act"], Float[np.ndarray, "*n act"]]:
    """Mean and standard deviation before the tanh, for scaled inputs (observation / scale, task vector)."""
    mean, std = _distribution(actor, jnp.asarray(x, jnp.float32))
    return np.asarray(mean), np.asarray(std)


def inputs(
    family: Family, policy: Policy, task_ids: Sequence[int], obs: Float[np.ndarray, "task episode obs"]
) -> Float[np.ndarray, "task episode input"]:
    """What the privileged actor sees: scaled observation, then the task's true parameters."""
    vector = family.task_vectors[list(task_ids)].astype(np.float32)[:, None]
    shape = (*obs.shape[:2], vector.shape[-1])
    # a legacy observation only adds columns behind those of the standard one, which the policies know
    obs = obs[..., : len(policy.scale)]
    return np.concatenate([obs / np.asarray(policy.scale), np.broadcast_to(vector, shape)], axis=-1)


def mode_act(family: Family, policy: Policy, task_ids: Sequence[int]) -> Act:
    """The deterministic policy `tanh(mean)` as an `act` for `Family.rollout` on these tasks."""

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        del step
        return np.tanh(distribution(policy.actor, inputs(family, policy, task_ids, obs))[0])

    return act


@jax.jit
def _choose(
    actors: Actor, which: Int[Array, "task episode"], x: Float[Array, "task episode input"]
) -> tuple[Array, Array]:
    # every actor on every row and then a choice: one compiled shape however the rows are dealt out
    dist = jax.vmap(lambda actor: actor(x))(actors)
    index = which[None, :, :, None]
    mean, log_std = (jnp.take_along_axis(v, index, axis=0)[0] for v in (dist.mean, dist.log_std))
    return mean, jnp.exp(log_std)


def dealt_act(
    family: Family,
    policies: Sequence[Policy],
    which: Int[np.ndarray, "task episode"],
    task_ids: Sequence[int],
    noise: Float[np.ndarray, "task episode step act"],
) -> Act:
    """Sampled actions `tanh(mean + std noise)`; episode e of a task follows `policies[which[task, e]]`.

    The policies share one network shape and one input scaling, as the checkpoints of one training run do.
    """
    actors = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *(p.actor for p in policies))
    index = jnp.asarray(which, jnp.int32)

    def act(obs: np.ndarray, step: int) -> np.ndarray:
        x = inputs(family, policies[0], task_ids, obs)
        mean, std = _choose(actors, index, jnp.asarray(x, jnp.float32))
        return np.tanh(np.asarray(mean) + np.asarray(std) * noise[:, :, step])

    return act


def _named(tree: Any) -> dict[str, Any]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def save_tree(path: Path, tree: Any, metadata: dict[str, str] | None = None) -> None:
    """Write every array of a pytree under its path's name; atomic."""
    arrays = {name: np.asarray(leaf) for name, leaf in _named(tree).items()}
    temporary = path.with_name(path.name + ".part")
    save_file(arrays, temporary, metadata=metadata)
    os.replace(temporary, path)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"path={str(path)!r}: expected a readable safetensors file ({error}). Check the path, or write it anew."
        ) from error


def load_tree(path: Path, like: Tree) -> Tree:
    """Read a pytree of the structure and dtypes of `like`. Raises StorageError if names or shapes differ."""
    arrays, _ = _read(path)
    expected = _named(like)
    wrong = [n for n in expected if n not in arrays or arrays[n].shape != expected[n].shape]
    if wrong or len(arrays) != len(expected):
        raise StorageError(
            f"path={str(path)!r}: expected the arrays of this configuration, but {wrong[:3]} differ or are"
            " missing. Load it with the configuration it was written with."
        )
    leaves = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load_header(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The texts saved beside the arrays. Raises StorageError if one of `names` is missing."""
    _, header = _read(path)
    missing = [name for name in names if name not in header]
    if missing:
        raise StorageError(
            f"path={str(path)!r}: expected {missing} in the file's header. Give a file of the kind asked for."
        )
    return header


def save_policy(path: Path, policy: Policy, half: bool = False) -> None:
    """Write a policy with the shape of its network in the header, its weights rounded to 16 bits if `half`; atomic."""
    sizes = [layer.weight.shape[0] for layer in policy.actor.net.layers]
    sizes.append(policy.actor.net.layers[-1].weight.shape[1])
    header = {"sizes": json.dumps([int(s) for s in sizes]), "activation": policy.actor.net.activation}
    if half:
        policy = Policy(jax.tree.map(lambda x: x.astype(jnp.float16), policy.actor), policy.scale)
    save_tree(path, policy, header)


def load_policy(path: Path) -> Policy:
    """Read a policy written by `save_policy`, as float32. Raises StorageError for a foreign or truncated file."""
    arrays, header = _read(path)
    try:
        n_in, *hidden, n_out = (int(s) for s in json.loads(header["sizes"]))
        activation = header["activation"]
    except (KeyError, ValueError, TypeError) as error:
        raise StorageError(
            f"path={str(path)!r}: expected a behaviour policy, but its header lacks {error}. Check the path."
        ) from error
    actor = eqx.filter_eval_shape(lambda: Actor(n_in, n_out // 2, hidden, jax.random.key(0), activation=activation))
    scale = np.zeros_like(arrays.get(".scale", np.zeros(0, np.float32)))
    return load_tree(path, Policy(actor, jnp.asarray(scale)))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, atomic."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Read JSON. Raises StorageError if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"path={str(path)!r}: expected a JSON file ({error}). Check the path, or write it anew."
        ) from error
