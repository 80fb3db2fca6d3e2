"""`merpo report`: one self-contained HTML page of one or several runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from merpo.commands.evaluate import load_policies
from merpo.commands.record import RunRecord, load_data, read_record, run_config
from merpo.commands.session import say
from merpo.errors import ConfigError, MerpoError, StorageError

if TYPE_CHECKING:
    from merpo.data import TaskSet
    from merpo.dynamics.calibration import ModelCheck
    from merpo.report.page import RunView

DRIFT_STEPS = 20
"""How many steps of imagination are compared with the log, where its episodes are long enough."""


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about one or several runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that `merpo train` wrote; several are compared."""
    out: Path
    """The HTML file."""
    model: bool = True
    """Check the adapted models against held-out data (seconds to minutes); --no-model leaves that out."""
    simulate: bool = True
    """Draw what the policies do; --no-simulate leaves that out."""


def run_report(options: Report) -> None:
    """Run the command."""
    from merpo.report.page import page
    from merpo.runs import write_atomic

    if not options.runs:
        raise ConfigError("runs is empty: expected at least one run folder.")
    if options.out.is_dir():
        raise ConfigError(f"out={str(options.out)!r} is a folder: expected a file name, e.g. report.html.")
    names = run_names(options.runs)
    views = [view(path, name, options.model, options.simulate) for path, name in zip(options.runs, names, strict=True)]
    comparison, why_not = None, ""
    if len(views) > 1:
        comparison, why_not = _comparison(views)
    write_atomic(options.out, page(views, comparison, why_not))
    for one in views:
        for text in one.notes:
            say(f"{one.name}: {text}")
    say(f"Report: {options.out}")


def run_names(paths: tuple[Path, ...]) -> list[str]:
    """A short name per folder: its own, with its parents' where two are alike. ConfigError for a folder given twice."""
    full = [p.resolve() for p in paths]
    if len(set(full)) < len(full):
        raise ConfigError("runs: the same folder is given twice. Give each run once.")
    names = [p.name for p in full]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(p.parts[-depth:]) for p in full]
    return names


def view(folder: Path, name: str, model: bool, simulate: bool) -> RunView:
    """Gather what a run folder holds, and what follows from it and its data where they are to be had."""
    from merpo.evaluation import bootstrap_interval
    from merpo.report import load_results
    from merpo.report.page import RunView
    from merpo.runs import config_hash, to_json

    record = read_record(folder)
    if record.method != "merpo":
        raise ConfigError(
            f"{str(folder)!r} is a run of {record.method}: a report is about runs of merpo. See its results with `merpo"
            f" evaluate {folder}`, and beside other runs with `merpo compare --method {record.method}`."
        )
    config = run_config(folder)
    certificates = folder / "certificates.json"
    run = RunView(
        name=name,
        data=record.data.name,
        seeds=record.seeds,
        train_tasks=record.train_tasks,
        adapted=record.adapted,
        seconds=record.seconds,
        config=to_json(config),
        config_hash=config_hash(config),
        versions=_json(folder / "versions.json"),
        results=load_results(folder / "results.json") if (folder / "results.json").exists() else None,
        curves={p.stem: _curves(p) for p in sorted((folder / "curves").glob("*.safetensors"))},
        every=config.rac.imagine_every,
        certificates=_json(certificates) if certificates.exists() else {},
        check_every=config.dynamics.check_every,
    )
    notes = []
    try:
        data = load_data(record.data)
    except MerpoError as error:
        return replace(run, notes=(f"data: {error}", "model: its data are not available."))
    run = replace(run, summary=_summary(data))
    if not record.adapted:
        return replace(run, notes=("model: nothing was adapted yet, see `merpo adapt`.",))
    try:
        policies, tasks = load_policies(folder, record)
    except MerpoError as error:
        return replace(run, notes=(f"data: {error}", "model: the test tasks' data are not available."))
    logged = {t.name: bootstrap_interval(t.returns()[None, None], resamples=400) for t in tasks}
    run = replace(run, logged={n: v for n, v in logged.items() if v.low < v.high})
    if simulate:
        from merpo.commands.traces import traces

        shown = {m: p for m, p in policies.items() if m in ("meta-policy", "merpo")} or policies
        try:
            run = replace(run, traces=traces(tasks, shown))
        except (MerpoError, ModuleNotFoundError) as error:
            notes.append(f"pictures of the policies: {error}")
    if model:
        error_curve, check = check_run(folder, record, tasks)
        run = replace(run, model_error=error_curve, model=check)
    else:
        notes.append("model: left out by --no-model.")
    return replace(run, notes=tuple(notes))


def check_run(folder: Path, record: RunRecord, tasks: TaskSet) -> tuple[np.ndarray, ModelCheck | None]:
    """Adapt the first seed's model as the run did, and check it on the rows that it held out."""
    import jax

    import merpo
    from merpo.dynamics.calibration import check_models
    from merpo.errors import DataError
    from merpo.guarantee.certificate import split_log

    config = run_config(folder)
    meta = merpo.Meta.load(folder / "checkpoint.safetensors", config).only(record.seeds[0])
    logs = [split_log(t)[0] if record.adapted.get("certified") else t for t in tasks]
    new = meta.adapt_models(logs)
    rows = new.batch.rows
    models = [jax.tree.map(lambda x, i=i: x[i], new.models) for i in range(len(logs))]
    held = [np.asarray(h)[np.asarray(v)] for h, v in zip(rows.held, rows.held_valid, strict=True)]
    ready = [meta.learned.preparation.task(t) for t in logs]
    steps = max(DRIFT_STEPS, config.rac.rollout_length)
    try:
        return new.error, check_models(models, ready, held, meta.learned.scale, steps)
    except DataError:
        return new.error, None


def _summary(data: TaskSet) -> Any:
    from merpo.data import info

    return info(data)


def _comparison(views: list[RunView]) -> tuple[Any, str]:
    from merpo.evaluation import compare

    found = {v.name: v.results for v in views if v.results is not None}
    if len(found) < len(views):
        lacking = ", ".join(v.name for v in views if v.results is None)
        return None, f"Not evaluated yet: {lacking}. Run `merpo evaluate` on each run to compare."
    try:
        return compare(found), ""
    except MerpoError as error:
        return None, str(error)


def _curves(path: Path) -> Mapping[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{str(path)!r}: not learning curves that merpo wrote ({error}). Delete it.") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StorageError(f"{str(path)!r} cannot be read ({error}). Restore it, or make the run again.") from error
