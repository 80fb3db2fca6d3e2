"""`merpo adapt`: policies for the test tasks of a data set, from their logs and what a run has learned."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from merpo import devices
from merpo.commands.record import (
    ADAPTED,
    DEFAULT_METHODS,
    METHODS,
    DataRef,
    RunRecord,
    load_data,
    load_learned,
    make_folder,
    pick_tasks,
    read_record,
    save_curves,
)
from merpo.commands.session import Stopwatch, say
from merpo.commands.stages import Report, Stages
from merpo.commands.variants import Variants, base, from_scratch, in_order, read_variants, variant
from merpo.errors import ConfigError
from merpo.runs import STATE, Checkpoints, locked, write_atomic

if TYPE_CHECKING:
    import merpo
    from merpo.algorithms.merpo_config import MerPOConfig
    from merpo.algorithms.pipeline import NewTasks
    from merpo.certified import Choices
    from merpo.data import TaskSet


@dataclass(frozen=True)
class Adapt:
    """Adapt to the test tasks from their logs, by MerPO and by what it is compared with."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder of a run that `merpo train` wrote."""
    data: str | None = None
    """Another data set whose test tasks to adapt to; default: the one the run was trained on."""
    tasks: tuple[str, ...] = ()
    """Only these test tasks, by name; default: all."""
    episodes: int | None = None
    """Only the first N episodes of each test task's log; default: all."""
    methods: tuple[str, ...] = ()
    """Any of merpo, rac (no meta-policy), bc (the behaviour term alone), meta-policy (unadapted), and the rivals combo,
    combo+meta-model, td3+bc, iql, which learn each task from its own log. Default: the first four, or with --variants
    none; a run of a context learner (`merpo train --method`) has that learner alone."""
    variants: Path | None = None
    """TOML file of variants of merpo: each table [NAME] holds settings that replace the run's in adaptation, and is a
    method merpo-NAME of its own. `model = "scratch"` learns the model from the new log alone; `method = "rac"` varies
    rac (or combo, combo+meta-model) instead."""
    certify: bool = False
    """Half of each log is kept from merpo's and rac's learning to certify their improvement; `certificates.json` says
    what came of it. A policy that is not certified is replaced by the behaviour clone. Without it, as studies that
    compare methods in simulation want it, all learn from the whole log."""
    insist: bool = False
    """With --certify: keep the adapted policies even where they are not certified."""
    choose_alpha: tuple[float, ...] = ()
    """With --certify, several alphas: task by task the one is taken that off-policy evaluation on the learning half
    prefers."""
    choose_lam: tuple[float, ...] = ()
    """The same for lambda."""
    choose_updates: tuple[int, ...] = ()
    """The same for the number of updates."""
    resume: bool = False
    """Go on with this adaptation where it was stopped or killed, to the same bits (--certify: by methods)."""
    checkpoint_every: float = 60.0
    """Seconds between two saves of the state; 0 saves after every round."""
    devices: int = 1
    """Devices that share the tasks."""
    verbose: bool = False
    """Print the time of each stage."""


def run_adapt(options: Adapt) -> None:
    """Run the command."""
    from merpo.certified import Choices
    from merpo.tasks import families

    watch = Stopwatch()
    choices = Choices(options.choose_alpha, options.choose_lam, options.choose_updates)
    if not options.certify and (options.insist or choices != Choices()):
        raise ConfigError("insist and choose-... are for certificates: give --certify too, or leave them out.")
    record = read_record(options.run_dir)
    with watch.stage("loading"):
        meta = load_learned(options.run_dir, record.method)
        ref = record.data if options.data is None else replace(record.data, name=options.data)
        tasks = pick_tasks(load_data(ref), options.tasks, options.episodes)
    variants = {} if options.variants is None else read_variants(options.variants)
    say(f"{ref.name}: adapting to {len(tasks)} test tasks, {sum(len(t) for t in tasks)} transitions")
    methods = options.methods or (() if variants else default_methods(record))
    with devices.use(options.devices), Stages() as bars:
        adapt(
            meta, tasks, ref, methods, options.run_dir, bars.report, watch, options.episodes,
            certify=options.certify, insist=options.insist, choices=choices, resume=options.resume,
            every=options.checkpoint_every, variants=variants,
        )  # fmt: skip
    following = "evaluate" if tasks.info.family in families() else "estimate"
    say(f"Policies: {options.run_dir / 'policies'}  (next: merpo {following} {options.run_dir})")
    if options.verbose:
        say("\n".join(["Stage times:", *watch.lines()]))


def default_methods(record: RunRecord) -> tuple[str, ...]:
    """What a run is adapted by unless one says otherwise."""
    return DEFAULT_METHODS if record.method == "merpo" else (record.method,)


def adapt(
    meta: merpo.Meta | merpo.rivals.ContextMeta,
    tasks: TaskSet,
    ref: DataRef,
    methods: Sequence[str],
    folder: Path,
    report: Report,
    watch: Stopwatch,
    episodes: int | None = None,
    certify: bool = False,
    insist: bool = False,
    choices: Choices | None = None,
    resume: bool = False,
    every: float = 60.0,
    variants: Variants | None = None,
) -> dict[str, merpo.PolicySet]:
    """Adapt by every method and variant and write the policies; those for something else are removed."""
    import merpo

    variants = variants or {}

    trained = read_record(folder).method
    known = ADAPTED if trained == "merpo" else (trained,)
    if unknown := [m for m in methods if m not in known]:
        raise ConfigError(f"methods={unknown[0]!r}: expected any of {', '.join(known)} for a run of {trained}.")
    if not methods and not variants:
        raise ConfigError(f"methods is empty: expected at least one of {', '.join(known)}.")
    if variants and (trained != "merpo" or certify):
        raise ConfigError("variants: they are of a run of merpo, and have no certificates. Leave one of them out.")
    metas = {} if not isinstance(meta, merpo.Meta) else {m: variant(meta, m, table) for m, table in variants.items()}
    if certify and trained != "merpo":
        raise ConfigError(f"certify: a run of {trained} has no certificates. Leave --certify out.")
    target = {"data": asdict(ref), "episodes": episodes, "tasks": [t.name for t in tasks]}
    if certify:
        target |= {"certified": True, "insisted": insist}
        if choices is not None and any(asdict(choices).values()):
            target |= {"choices": {k: list(v) for k, v in asdict(choices).items()}}
    states = Checkpoints(folder / STATE, every)
    ordered = in_order((*methods, *variants), METHODS)
    with locked(folder):
        if not resume:
            states.clear()
        record, found = _begin(folder, target, ordered if resume else (), variants)
        todo = [m for m in ordered if m not in found]
        models, unlike = None, record.adapted.get("own_models", [])
        from_meta = {
            "merpo",
            "rac",
            "combo+meta-model",
            *(m for m, table in variants.items() if base(table) != "combo" and not from_scratch(table)),
        }
        # no variant changes how a model learns, so that those from scratch are the same for all of them
        scratch = cache(lambda: next(iter(metas.values())).scratch_models(tasks, report=report))
        if isinstance(meta, merpo.Meta) and from_meta & set(todo) and not certify:
            begin = time.perf_counter()
            with watch.stage("adapting the models"):
                models = meta.adapt_models(tasks, checkpoint=states, report=report)
            unlike = list(models.unlike())
            if unlike:
                say(f"Unlike the training tasks, so with a model from the log alone: {', '.join(unlike)}")
            record = record.timed("adapt models", time.perf_counter() - begin)
        for method in todo:
            begin = time.perf_counter()

            def named(stage: str, done: int, total: int, figures: dict[str, float], method: str = method) -> None:
                report(stage if method in stage else f"{stage} ({method})", done, total, figures)

            with watch.stage(f"adapting ({method})"):
                if not isinstance(meta, merpo.Meta):
                    policies = meta.adapt_many(tasks)
                elif method in metas:
                    own = scratch() if from_scratch(variants[method]) else models
                    policies = _varied(metas[method], method, variants[method], tasks, own, named)
                elif certify and method in ("merpo", "rac"):
                    policies = certified(meta, tasks, method, insist, choices, named, folder)
                else:
                    policies = meta.adapt_many(tasks, method, models=models, checkpoint=states, report=named)
                policies.save(folder / "policies" / f"{method}.safetensors")
                tell_cloned(policies)
                if policies.curves and isinstance(meta, merpo.Meta):
                    save_curves(folder, method, policies.curves, _step(policies, metas.get(method, meta).config))
            found[method] = policies
            kept = in_order((*record.adapted.get("methods", ()), method), METHODS)
            # recorded method by method: after a kill the record names exactly the policies that are there
            record = record.timed(f"adapt {method}", time.perf_counter() - begin)
            settings = dict(record.adapted.get("variants", {}))
            settings |= {method: variants[method]} if method in variants else {}
            record = replace(record, adapted={**target, "own_models": unlike, "methods": kept, "variants": settings})
            record.save(folder)
        states.clear()
    return {m: found[m] for m in ordered}


def _step(policies: merpo.PolicySet, config: MerPOConfig) -> int:
    """Updates between two entries of the learning curves. RAC's are of rounds, and a small log has fewer of them."""
    curves = policies.curves or {}
    rounds = len(next(iter(curves.values())))
    return config.rac.imagine_every if "rac/lambda" in curves else config.adapt_updates // rounds


def tell_cloned(policies: merpo.PolicySet) -> None:
    """Say where the clone of the behaviour took an adapted policy's place."""
    places = [
        f"{task} (seed {seed})"
        for seed, row in zip(policies.seeds, policies.cloned or (), strict=False)
        for task, cloned in zip(policies.tasks, row, strict=True)
        if cloned
    ]
    if places:
        say(
            f"{policies.method}: the clone of the logged behaviour, which does better in the model that the policy was"
            f" learned in, takes its place for {', '.join(places)}"
        )


def _varied(
    meta: merpo.Meta,
    method: str,
    table: Mapping[str, Any],
    tasks: TaskSet,
    models: NewTasks | None,
    report: Report,
) -> merpo.PolicySet:
    """A method with a variant's settings. Killed work is taken up variant by variant: it keeps no state of its own."""
    return replace(meta.adapt_many(tasks, base(table), models=models, report=report), method=method)


def _begin(
    folder: Path, target: dict[str, Any], wanted: Sequence[str], variants: Variants
) -> tuple[RunRecord, dict[str, merpo.PolicySet]]:
    """The record, and those `wanted` policies of this target that are there; all of another target are removed."""
    import merpo

    record = read_record(folder)
    kept, known = record.adapted.get("methods", []), record.adapted.get("variants", {})
    if {k: v for k, v in record.adapted.items() if k not in ("own_models", "methods", "variants")} != target:
        kept = []
        seconds = {k: v for k, v in record.seconds.items() if not k.startswith("adapt")}
        record = replace(record, seconds=seconds, adapted={})
        record.save(folder)  # first: after a kill it must not name policies that are gone
        for path in (*(folder / "policies").glob("*.safetensors"), folder / "certificates.json"):
            path.unlink(missing_ok=True)
    make_folder(folder / "policies")
    path = folder / "policies"

    def there(method: str) -> bool:
        return method in kept and variants.get(method) == known.get(method)

    return record, {m: merpo.PolicySet.load(path / f"{m}.safetensors") for m in wanted if there(m)}


def certified(
    meta: merpo.Meta,
    tasks: TaskSet,
    method: str,
    insist: bool,
    choices: Choices | None,
    report: Report,
    folder: Path,
) -> merpo.PolicySet:
    """Adapt with certificates, say what came of them, and keep them in the run folder by method."""
    from merpo.certified import adapt_certified

    policies = adapt_certified(meta, tuple(tasks), method, insist=insist, choices=choices, report=report)
    rows = policies.certificates or ()
    path = folder / "certificates.json"
    try:
        known = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:  # damaged: the other methods' certificates are in their policies' files too
        known = {}
    content = {str(seed): [c.to_json() for c in row] for seed, row in zip(meta.seeds, rows, strict=True)}
    write_atomic(path, json.dumps({**known, method: content}, indent=1) + "\n")
    for seed, row in zip(meta.seeds, rows, strict=True):
        say(f"{method}, seed {seed}: {sum(c.certified for c in row)} of {len(row)} policies certified")
        for one in row:
            say(f"  {one.sentence}")
    return policies
