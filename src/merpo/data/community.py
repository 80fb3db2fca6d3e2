"""Plain Minari data sets, one per task, as a task set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from merpo.data.arrays import from_arrays
from merpo.data.hdf5 import require
from merpo.data.types import TaskSet
from merpo.errors import DataError, StorageError

ARROW_LIMIT = 32_767
"""Minari's Arrow backend corrupts episodes longer than this (it counts their steps in 16 bits)."""

Source = str | os.PathLike[str]


def from_minari(
    train: Sequence[Source],
    test: Sequence[Source] = (),
    *,
    family: str,
    gamma: float = 0.99,
    horizon: int | None = None,
    names: Mapping[Source, str] | None = None,
    parameters: Mapping[Source, Mapping[str, Any]] | None = None,
    on_constant: str = "error",
    **info: Any,
) -> TaskSet:
    """A task set from Minari data sets, each of which is one task.

    A source is a Minari id (`minari.load_dataset` finds it locally; nothing is downloaded), or a path to a
    data set's folder, or to the `data` folder in it. `names` gives the tasks' names (default: the data sets'
    ids), and `parameters` their true parameters, both by source. Observations and actions must be
    one-dimensional Boxes. Terminations and truncations are kept apart; action bounds are those of the first
    data set's action space where it has finite ones. Further keyword arguments go to `from_arrays`
    (`termination`, `quality`, ...).

    Raises `StorageError` when a data set is missing or unreadable, `DataError` when it does not fit or is
    invalid.
    """
    if not train:
        raise DataError("train is empty: expected at least one Minari id or path to learn from.")
    tasks: dict[str, dict[str, np.ndarray]] = {}
    held_out, known = [], {}
    for i, source in enumerate([*train, *test]):
        dataset = _open(source)
        name = (names or {}).get(source, dataset.id)
        if name in tasks:
            raise DataError(f"names: {name!r} is used for two data sets; expected unique names. Pass names={{...}}.")
        space = dataset.action_space
        _check_box(source, "observation", dataset.observation_space)
        _check_box(source, "action", space)
        if i == 0 and np.isfinite(space.low).all() and np.isfinite(space.high).all():
            info = {"action_low": space.low.tolist(), "action_high": space.high.tolist(), **info}
        tasks[name] = _episodes(source, dataset)
        if i >= len(train):
            held_out.append(name)
        if parameters and source in parameters:
            known[name] = parameters[source]
    return from_arrays(
        tasks,
        family=family,
        gamma=gamma,
        horizon=horizon,
        test=held_out,
        parameters=known,
        on_constant=on_constant,
        **info,
    )


def _open(source: Source) -> Any:
    """The `minari.MinariDataset` of an id or path."""
    minari = require("minari")
    try:
        path = Path(source)
        if path.is_dir():
            return minari.MinariDataset(path / "data" if (path / "data").is_dir() else path)
        return minari.load_dataset(str(source))
    except FileNotFoundError as error:
        raise StorageError(
            f"{str(source)!r}: neither a folder nor a local Minari data set ({error}). Give a path, or fetch"
            " it first with `minari download`."
        ) from error
    except Exception as error:  # Minari checks with assertions and lets json and h5py errors through
        raise StorageError(
            f"{str(source)!r} is not a readable Minari data set ({type(error).__name__}: {error}). Fetch or"
            " make it again."
        ) from error


def _check_box(source: Source, what: str, space: Any) -> None:
    shape = getattr(space, "shape", None)
    if type(space).__name__ != "Box" or shape is None or len(shape) != 1:
        raise DataError(
            f"{str(source)!r}: the {what} space is {space}, expected a one-dimensional Box. Collect the data"
            " through gymnasium.wrappers.FlattenObservation, or build the set with from_arrays."
        )


def _episodes(source: Source, dataset: Any) -> dict[str, np.ndarray]:
    """The arrays of one data set in the form that `from_arrays` takes."""
    try:
        if dataset.storage.FORMAT == "arrow":
            steps = [int(m["total_steps"]) for m in dataset.storage.get_episode_metadata(dataset.episode_indices)]
            if max(steps, default=0) > ARROW_LIMIT:
                raise DataError(
                    f"{str(source)!r}: an Arrow data set with an episode of {max(steps)} steps; Minari's"
                    f" Arrow backend corrupts episodes longer than {ARROW_LIMIT}. Make it again with"
                    " data_format='hdf5'."
                )
        episodes = [e for e in dataset.iterate_episodes() if len(e.rewards)]
    except DataError:
        raise
    except Exception as error:  # h5py and pyarrow raise many kinds on damaged files
        raise StorageError(
            f"{str(source)!r}: its episodes cannot be read ({type(error).__name__}: {error}). Fetch or make it again."
        ) from error
    if not episodes:
        raise DataError(f"{str(source)!r}: the data set has no transitions; expected at least one. Leave it out.")
    for e in episodes:
        if len(e.observations) != len(e.rewards) + 1:
            raise DataError(
                f"{str(source)!r}: episode {e.id} has {len(e.observations)} observations for {len(e.rewards)}"
                " steps; expected one more than steps, as Minari writes them. Make the data set again."
            )
    return {
        "obs": np.concatenate([e.observations[:-1] for e in episodes]),
        "next_obs": np.concatenate([e.observations[1:] for e in episodes]),
        "action": np.concatenate([e.actions for e in episodes]),
        "reward": np.concatenate([e.rewards for e in episodes]),
        "terminated": np.concatenate([e.terminations for e in episodes]),
        "truncated": np.concatenate([e.truncations for e in episodes]),
        "episode": np.repeat(np.arange(len(episodes)), [len(e.rewards) for e in episodes]),
    }
