"""`merpo train`: meta-train on the training tasks of a data set, and leave a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro

from merpo import devices, distributed
from merpo.commands.record import RECORD, DataRef, RunRecord, load_data, read_record, save_curves
from merpo.commands.session import Stopwatch, say
from merpo.commands.stages import Report, Stages
from merpo.errors import ConfigError, StorageError
from merpo.precision import Precision, described
from merpo.runs import STATE, Checkpoints, RunFolder

Existing = Literal["refuse", "overwrite", "resume"]
LATER = (RECORD, "policies/*.safetensors", "curves/*", "results.*", "certificates.json", "returns.png", "paths.png")
"""What a run's later commands leave: nothing of it may be found beside a new run."""

if TYPE_CHECKING:
    from merpo.algorithms.merpo_config import MerPOConfig
    from merpo.data import TaskSet


@dataclass(frozen=True)
class Train:
    """Learn a meta-model and a meta-policy from the training tasks of a data set."""

    data: Annotated[str, tyro.conf.Positional]
    """FAMILY/QUALITY, e.g. point-robot-goal/medium (generated if not stored yet), or the name of a stored set."""
    out: Path
    """Folder of the run: settings, versions, metrics, checkpoint."""
    method: str = "merpo"
    """merpo, or a context learner to compare it with: pearl, cbcq, mbml, focal, csro, unicorn."""
    seed: int = 0
    """Seed of training."""
    seeds: tuple[int, ...] = ()
    """Several seeds, trained side by side; instead of --seed."""
    episodes: int = 50
    """Episodes per task, where the data are generated."""
    data_seed: int = 0
    """Seed of the data, where they are generated."""
    overwrite: bool = False
    """Replace a run that is already in the folder."""
    resume: bool = False
    """Go on with the run in the folder where it was stopped or killed, to the same bits; begin it if there is none."""
    checkpoint_every: float = 60.0
    """Seconds between two saves of the state; 0 saves after every round."""
    config: Path | None = None
    """JSON file with settings that replace the defaults (nested as in a run's config.json, which is accepted too)."""
    train_updates: int | None = None
    """RAC updates of every training task."""
    adapt_updates: int | None = None
    """RAC updates of a new task."""
    alpha: float | None = None
    """A fixed balance: 1 stays with the behaviour policy, 0 follows the meta-policy. Without it the settings' own:
    an alpha that each task's data adapt."""
    lam: float | None = None
    """Weight of both divergences."""
    beta: float | None = None
    """Conservatism: weight of the push-down."""
    rollout_length: int | None = None
    """Steps of each imagined rollout."""
    precision: Precision | None = None
    """Factors of matrix products: tf32 or bf16 for speed on GPUs, highest for float32 there; see docs/scaling.md."""
    devices: int | None = None
    """Devices that share the tasks. Default: one; all there are, where several processes work together."""
    coordinator: str | None = None
    """Several processes as one: HOST:PORT of process 0, the same for all, or `auto` where Slurm, Open MPI or the like
    say it. Only process 0 writes the run folder."""
    processes: int | None = None
    """With --coordinator: how many there are."""
    process: int | None = None
    """With --coordinator: which one this is, from 0."""
    verbose: bool = False
    """Print the time of each stage."""


def run_train(options: Train) -> None:
    """Run the command."""
    import merpo

    watch, mode = Stopwatch(), existing(options)
    count = join(options)
    ref = DataRef(options.data, options.episodes, options.data_seed)
    with devices.use(count), devices.company(), watch.stage("data"):
        data = load_together(ref)
    config = settings(data, options) if options.method == "merpo" else rival_settings(data, options)
    seeds = options.seeds or (options.seed,)
    say(f"{options.data}: {len(data.train)} training tasks, {sum(len(t) for t in data.train)} transitions")
    states = Checkpoints(options.out / STATE, options.checkpoint_every)
    with devices.use(count), devices.company(), Stages() as bars:
        if not devices.first():
            if devices.may_follow():
                merpo.MerPO(config, seeds=seeds).fit(data.train)
            return
        train(data, ref, config, seeds, options.out, mode, bars.report, watch, states, options.method)
    say(f"Run folder: {options.out}  (next: merpo adapt {options.out})")
    if options.verbose:
        say("\n".join(["Stage times:", *watch.lines()]))
        say(f"The state was saved {states.saves} times, in {states.spent:.1f} s.")


def join(options: Train) -> int:
    """Join the other processes, if there are any; the number of devices to use."""
    given = (options.coordinator, options.processes, options.process)
    if given == (None, None, None):
        return 1 if options.devices is None else options.devices
    if options.method != "merpo":
        raise ConfigError(f"coordinator: method={options.method!r} learns in one process. Leave it out.")
    distributed.initialize(*(given if options.coordinator != "auto" else ()))
    return options.devices or jax.device_count()


def load_together(ref: DataRef) -> TaskSet:
    """The data set on every process: the first generates it if need be, before those beside it look for it."""
    if not devices.first() and not devices.may_follow():
        raise StorageError(f"data={ref.name!r}: process 0 could not load it. See its message.")
    if not devices.first() or devices.hosts() == 1:
        return load_data(ref)
    with devices.leading() as go:
        data = load_data(ref)
        go()
    return data


def existing(options: Train) -> Existing:
    """What to do with a run that is already in the folder."""
    if options.resume and options.overwrite:
        raise ConfigError("resume and overwrite contradict each other: give one of them.")
    if options.resume and options.method != "merpo":
        raise ConfigError(
            f"resume: method={options.method!r} keeps no state on the way. Begin anew, in another folder or with"
            " --overwrite."
        )
    return "resume" if options.resume else "overwrite" if options.overwrite else "refuse"


def train(
    data: TaskSet,
    ref: DataRef,
    config: Any,
    seeds: Sequence[int],
    out: Path,
    existing: Existing,
    report: Report,
    watch: Stopwatch,
    states: Checkpoints | None = None,
    method: str = "merpo",
) -> Any:
    """Meta-train and write the run folder; the record comes last, so that an unfinished run is known as such.

    The state on the way is kept by `states`, a folder of the run's unless given, and removed at the end. Context
    learners keep none.
    """
    import merpo
    from merpo import rivals

    whole = method == "merpo"
    learner: Any = merpo.MerPO(config, seeds=seeds) if whole else rivals.ContextLearner(method, config, seeds=seeds)
    made_with: dict[str, Any] = {"devices": devices.count(), "processes": devices.hosts()}
    if whole:
        made_with |= {"matmul_precision": described(config.matmul_precision)}
    begin = partial(RunFolder.create, existing=existing, discard=LATER)
    with devices.leading() as go, begin(out, config, made_with) as run:
        states = states or Checkpoints(run.state_path)
        if (out / RECORD).exists():
            _check_finished(out, ref, learner.seeds)
            states.clear()
            say(f"{out}: this run is finished already.")
            return merpo.Meta.load(run.checkpoint_path, config)
        run.rewind(-1)  # what was reported before a kill is reported again, from the state
        fit = partial(learner.fit, checkpoint=states) if whole else learner.fit

        def logged(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
            run.log(done, **figures)
            report(stage, done, total, figures)

        go()
        with watch.stage("meta-training"):
            meta = fit(data.train, report=logged)
        with watch.stage("writing"):
            meta.save(run.checkpoint_path)
            if meta.curves:
                save_curves(out, "train", meta.curves)
            record = RunRecord(ref, tuple(learner.seeds), len(data.train), method=method)
            record.timed("train", states.seconds).save(out)
            states.clear()
    return meta


def _check_finished(out: Path, ref: DataRef, seeds: Sequence[int]) -> None:
    """ConfigError unless the finished run is the one that is asked for."""
    record = read_record(out)
    for name, stored, given in (("data", record.data, ref), ("seeds", record.seeds, tuple(seeds))):
        if stored != given:
            raise ConfigError(
                f"{str(out)!r} holds a finished run with {name}={stored}, not {given}. Choose another folder, or "
                "replace it with --overwrite."
            )


def settings(data: TaskSet, options: Train) -> MerPOConfig:
    """The defaults for the data, then the file, then the flags. ConfigError names the setting that does not fit."""
    config = read_settings(data, options.config)
    rac: dict[str, Any] = {
        "alpha": options.alpha,
        "alpha_mode": None if options.alpha is None else "fixed",
        "lam": options.lam,
        "beta": options.beta,
        "rollout_length": options.rollout_length,
    }
    top: dict[str, Any] = {
        "train_updates": options.train_updates,
        "adapt_updates": options.adapt_updates,
        "matmul_precision": options.precision,
    }
    config = replace(config, rac=replace(config.rac, **{k: v for k, v in rac.items() if v is not None}))
    return replace(config, **{k: v for k, v in top.items() if v is not None})


def rival_settings(data: TaskSet, options: Train) -> Any:
    """A context learner's defaults for the data with the file's settings in their place. ConfigError for flags that
    are MerPO's."""
    from merpo.algorithms.presets import default_config
    from merpo.algorithms.rivals.contextual import CONTEXT, budgeted
    from merpo.runs import from_json, merged, to_json

    if options.method not in CONTEXT:
        raise ConfigError(f"method={options.method!r}: expected merpo or any of {', '.join(CONTEXT)}.")
    for name in ("train_updates", "adapt_updates", "alpha", "lam", "beta", "rollout_length", "precision"):
        if getattr(options, name) is not None:
            raise ConfigError(f"{name} is a setting of merpo, not of method={options.method!r}: use --config instead.")
    config = budgeted(options.method, default_config(data.info, data.train.tasks))
    path = options.config
    return config if path is None else from_json(type(config), merged(to_json(config), _read_file(path)))


def read_settings(data: TaskSet, path: Path | None) -> MerPOConfig:
    """The defaults for the data, with the settings of a JSON file in their place."""
    from merpo.algorithms.merpo_config import MerPOConfig
    from merpo.algorithms.presets import default_config
    from merpo.runs import from_json, merged, to_json

    config = default_config(data.info, data.train.tasks)
    return config if path is None else from_json(MerPOConfig, merged(to_json(config), _read_file(path)))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"config={str(path)!r}: cannot be read ({error.strerror}). Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config={str(path)!r}: not JSON ({error}). Correct the file.") from error
    if isinstance(content, dict) and "format" in content and "config" in content:
        content = content["config"]
    if not isinstance(content, dict):
        raise ConfigError(f'config={str(path)!r}: expected an object of settings, e.g. {{"train_updates": 2000}}.')
    return content
