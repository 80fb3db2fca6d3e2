"""The sections of one run, in the order in which people ask: what came of it, is it safe, how was it made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

import numpy as np

from merpo.dynamics.calibration import LEVELS
from merpo.evaluation import BEHAVIOUR, summarise
from merpo.report.page import charts
from merpo.report.page.material import RunView
from merpo.report.page.svg import DASH, number
from merpo.report.page.text import (
    card,
    cautions,
    certified_of,
    facts,
    figure,
    interval,
    lead,
    legend,
    missing,
    note,
    percent,
    table,
    tiles,
)
from merpo.report.style import label

CURVES = {
    "critic/td": ("Bellman error", "How well the critics agree with themselves.", True),
    "critic/gap": (
        "Conservatism gap",
        "Value at the policy's actions minus value of the data; beta pushes it down.",
        False,
    ),
    "actor/q": ("Value of the policy", "Expected Q, in prepared units.", False),
    "actor/clone": ("Distance from the behaviour", "Negative log-likelihood of logged actions.", False),
    "actor/kl_meta": ("Distance from the meta-policy", "KL divergence.", True),
    "actor/entropy": ("Entropy", "Of the policy's actions.", False),
}
MULTIPLIERS = {"rac/lambda": "lambda", "rac/alpha": "alpha", "rac/temperature": "Temperature"}
"""Weights of the regularisers: shown as curves where they move, as numbers where they do not."""
WEIGHTS = {
    "rac/lambda": "Weight of both divergences.",
    "rac/alpha": "Balance: 1 stays with the behaviour, 0 follows the meta-policy.",
    "rac/temperature": "Weight of the entropy.",
}


def run_section(run: RunView, anchor: str) -> str:
    """Everything of one run."""
    said = "".join(f"<li>{escape(c)}</li>" for c in cautions(run))
    parts = [
        f'<p class="lead">{lead(run)}</p>',
        tiles(run),
        f'<div class="mind"><b>Keep in mind</b><ul>{said}</ul></div>' if said else "",
        _returns(run),
        _traces(run),
        _certificates(run),
        _learning(run),
        _model(run),
        _data(run),
        _settings(run),
    ]
    return f'<section id="{anchor}">{"".join(parts)}</section>'


def _returns(run: RunView) -> str:
    r = run.results
    if r is None:
        return card("Returns on new tasks", missing("No results in this run folder: run `merpo evaluate` on it."))
    rows = summarise(r, resamples=1000)
    methods = [row.method for row in rows]
    found = {m: [charts.task_interval(r, m, i, run.logged) for i in range(len(r.tasks))] for m in methods}
    body = [
        (
            escape(label(row.method)),
            interval(row.mean),
            interval(row.iqm, 2),
            _share(row.at_least_behaviour),
            _share(row.above_meta),
            "" if row.improvement is None else interval(row.improvement, 2),
        )
        for row in rows
    ]
    best = int(np.argmax([row.mean.value for row in rows]))
    per_task = [(escape(task), *(interval(found[m][i]) for m in methods)) for i, task in enumerate(r.tasks)]
    shown = "" if len(r.tasks) <= 20 else " An even choice of 20 tasks is drawn; the table has all."
    whiskers = f"{100 * rows[-1].mean.confidence:g} % intervals over {escape(rows[-1].mean.resampled)}"
    return card(
        "Returns on new tasks",
        legend(methods),
        '<div class="grid returns">',
        figure(
            charts.returns_chart(r, found),
            "The pale bar is the adapted policy's gain over the logged behaviour; whiskers are 95 % intervals of the"
            f" task's mean.{shown}",
        ),
        "<div>",
        table(["", "mean return", "score", "≥ logged", "> meta", "P(better)"], body, best),
        note(
            f"Undiscounted returns; {whiskers}. Score: interquartile mean, 0 the random policy, 1 the expert."
            " P(better): probability of a higher return than the logged behaviour on a task."
        ),
        note(f"Learned with {escape(r.protocol.budget)}.") if r.protocol.budget else "",
        "</div></div>",
        "<details><summary>All tasks and methods</summary>",
        table(["task", *(label(m) for m in methods)], per_task),
        "</details>",
    )


def _share(x: float | None) -> str:
    return "" if x is None else f"{100 * x:.0f} %"


def _traces(run: RunView) -> str:
    t = run.traces
    if t is None or not t.tasks:
        return ""
    methods = [BEHAVIOUR, *dict.fromkeys(m for trace in t.tasks for m in trace.policies)]
    explained = {
        "paths": "Grey: logged episodes, from the open circle on. Coloured: one simulated episode of each policy. Star:"
        " the goal.",
        "returns": "Grey: logged episodes. Coloured: one simulated episode of each policy.",
        "actions": "This family has no simulator: for a logged episode, the logged action and those the policies would"
        " have taken in the same states.",
    }[t.kind]
    pictures = [figure(svg, heading=name) for name, svg in charts.trace_charts(t)]
    size = "small" if t.kind == "paths" else ""
    grid = f'<div class="grid {size}">{"".join(pictures)}</div>'
    return card("What the policies do", legend(methods), grid, note(explained))


def _certificates(run: RunView) -> str:
    if not run.certificates:
        return ""
    columns = []
    for method in sorted(run.certificates, key=lambda m: m != "merpo"):
        found = certified_of(run, method)
        ok = sum(bool(c["certified"]) for c in found)
        rows = [
            (
                escape(str(c["task"])),
                '<span class="yes">certified</span>' if c["certified"] else '<span class="no">refused</span>',
                _number(c, "estimate"),
                _number(c, "lower"),
                str(c["episodes"]),
                f'<td class="wrapped">{escape("; ".join(c["reasons"]) or "better than what runs today")}</td>',
            )
            for c in found
        ]
        columns.append(
            f"<div><p><b>{escape(label(method))}</b>: {ok} of {len(found)} certified at"
            f" {100 * float(found[0]['confidence']):g} % confidence.</p>"
            + figure(charts.certificate_chart(found))
            + "<details><summary>Every certificate</summary>"
            + table(["task", "", "estimate", "lower bound", "episodes", "why"], rows)
            + "</details></div>"
        )
    ending = note(
        "Dot: estimated improvement; bar: its lower bound, one line per seed. Certified where the bound is right of"
        " zero and nothing else speaks against it. A certificate speaks of the mean return per episode on the task as"
        " it was logged; half of each log was kept from learning to compute it. What is not certified is not shown to"
        " be worse; it is not shown to be better."
    )
    return card("Certificates", f'<div class="grid pair">{"".join(columns)}</div>', ending)


def _number(c: Mapping, name: str) -> str:
    value = (c.get("over_behaviour") or {}).get(name)
    return DASH if value is None else number(float(value))


def _learning(run: RunView) -> str:
    if not run.curves:
        return card("Learning", missing("No learning curves in this run folder."))
    parts = []
    names = {"train": "Meta-training, all training tasks", "merpo": "Adapting to the new tasks (MerPO)"}
    for stage, metrics in ((s, run.curves[s]) for s in names if s in run.curves):
        cls = "m-meta-policy" if stage == "train" else "m-merpo"
        figures = [
            figure(charts.curve_panel(head, metrics[name], run.every, cls, log=log), caption, head)
            for name, (head, caption, log) in CURVES.items()
            if name in metrics
        ]
        constants = [("alpha", number(float(run.config["rac"]["alpha"])))] if "rac/alpha" not in metrics else []
        for name, head in MULTIPLIERS.items():
            if name not in metrics:
                continue
            values = np.asarray(metrics[name])
            if np.ptp(values) <= 1e-6 * max(float(np.abs(values).max()), 1e-12):
                constants.append((head.lower(), number(float(values.flat[0]))))
            else:
                figures.append(figure(charts.curve_panel(head, values, run.every, cls), WEIGHTS[name], head))
        held = "; ".join(f"{name} {value}" for name, value in constants)
        parts += [
            f"<h4>{names[stage]}</h4>",
            f'<div class="grid many">{"".join(figures)}</div>',
            note(f"Constant throughout: {escape(held)}.") if held else "",
        ]
    count = "tasks" if len(run.seeds) == 1 else f"tasks and {len(run.seeds)} seeds"
    return card("Learning", *parts, note(f"Lines are medians, bands the middle 80 % over {count}."))


def _model(run: RunView) -> str:
    figures = []
    if run.model_error is not None:
        figures.append(
            figure(
                charts.error_panel(run.model_error, run.check_every),
                "Squared error of one-step predictions on held-out episodes, in deviations of the training data, from"
                " the meta-model on.",
                "Adapting the model to a new log",
            )
        )
    if (check := run.model) is None:
        why = missing("The model was not checked against held-out data: " + (_why(run) or "not asked for."))
        return card(
            "The model of the system", f'<div class="grid pair">{"".join(figures)}</div>' if figures else "", why
        )
    states, reward = 1 - check.unexplained[:, :-1].mean(), 1 - check.unexplained[:, -1].mean()
    at = int(np.argmin(np.abs(LEVELS - 0.9)))
    inside, inside_r = 100 * check.coverage[:-1, at].mean(), 100 * check.coverage[-1, at]
    figures += [
        figure(
            charts.reliability_panel(check),
            "Share of held-out outcomes inside the model's central intervals. On the dashed line it knows what it does"
            " not know. Blue: state columns (thin) and their mean; orange: reward.",
            "Does the model know its limits?",
        ),
        figure(
            charts.drift_panel(check, int(run.config["rac"]["rollout_length"])),
            "Distance of imagined from logged states under the logged actions, in standard deviations: median and"
            " middle 80 % of the held-out stretches.",
            "How fast imagination drifts",
        ),
        figure(
            charts.states_chart(check),
            f"After {check.steps} steps. Grey: logged; blue: imagined. Bars hold the middle half, lines 90 %.",
            "Where imagined and real states differ",
        ),
    ]
    n = len(check.unexplained)
    said = (
        f"On held-out episodes of {n} new {'tasks' if n > 1 else 'task'} the model explains"
        f" <b>{percent(states)}</b> of how states change and <b>{percent(reward)}</b> of the reward. Its 90 %"
        f" intervals hold <b>{inside:.0f} %</b> of the state outcomes and <b>{inside_r:.0f} %</b> of the rewards"
        f" ({_verdict(inside)}, {_verdict(inside_r)})."
    )
    low = [
        (f"obs[{i}]" if i < len(check.coverage) - 1 else "reward", percent(1 - e), f"{100 * c:.0f} %")
        for i, (e, c) in enumerate(zip(check.unexplained.mean(0), check.coverage[:, at], strict=True))
    ]
    return card(
        "The model of the system",
        f"<p>{said}</p>",
        f'<div class="grid pair">{"".join(figures)}</div>',
        "<details><summary>Column by column</summary>",
        table(["predicted", "explained", "inside 90 % interval"], low),
        "</details>",
        note(
            f"{check.rows} held-out rows, {check.windows} imagined stretches; first seed. Held-out rows chose which"
            " members and how many steps were kept, so errors are a little flattering."
        ),
    )


def _verdict(inside: float) -> str:
    return "overconfident" if inside < 85 else "cautious" if inside > 95 else "well calibrated"


def _why(run: RunView) -> str:
    return next((n.removeprefix("model: ") for n in run.notes if n.startswith("model: ")), "")


def _data(run: RunView) -> str:
    s = run.summary
    if s is None:
        why = next((n.removeprefix("data: ") for n in run.notes if n.startswith("data: ")), "not found.")
        return card("The data", facts([("Data set", run.data)]), missing(f"The data set is not available here: {why}"))
    i = s.info
    pairs = [
        ("Data set", run.data), ("Quality", i.quality), ("Training tasks", s.train_tasks), ("New tasks", s.test_tasks),
        ("Episodes", f"{s.episodes:,}".replace(",", " ")), ("Steps", f"{s.steps:,}".replace(",", " ")),
        ("Observation, action", f"{i.obs_dim}, {i.act_dim} columns"), ("Horizon", i.horizon),
        ("Discount", f"{i.gamma:g}"), ("Physics", i.physics),
    ]  # fmt: skip
    columns = [(c.name, *(number(x) for x in (c.low, c.high, c.mean, c.std))) for c in s.columns]
    tasks = [
        (
            escape(t.name), t.split, str(t.episodes), str(t.steps),
            f"{number(t.return_mean)}<small>± {number(t.return_std)}</small>",
            str(t.terminated), f"{100 * t.saturated:.0f} %",
        )
        for t in s.tasks
    ]  # fmt: skip
    return card(
        "The data",
        facts(pairs),
        "<details><summary>Columns: ranges over the training tasks</summary>",
        table(["column", "lowest", "highest", "mean", "deviation"], columns),
        "</details><details><summary>Tasks</summary>",
        table(["task", "split", "episodes", "steps", "return", "ended early", "at action bounds"], tasks),
        "</details>",
    )


def _settings(run: RunView) -> str:
    c = run.config
    pairs = [
        ("alpha", f"{c['rac']['alpha']:g}"), ("lambda", f"{c['rac']['lam']:g}, {c['rac']['lam_mode']}"),
        ("beta", f"{c['rac']['beta']:g}"),
        ("Updates: training, adapting", f"{c['train_updates']}, {c['adapt_updates']}"),
        ("Rows of a new log that has all of these", c["full_log"] or "any"),
        ("Imagined steps", c["rac"]["rollout_length"]),
        ("Ensemble", f"{c['dynamics']['members']} members, {c['dynamics']['elites']} used"),
        ("Actor", " x ".join(map(str, c["rac"]["actor_hidden"]))),
        ("Context", f"{c['context']} numbers" if c["context"] else "none, as published"),
        ("Seeds", ", ".join(map(str, run.seeds))),
        ("Settings hash", run.config_hash[:12]),
    ]  # fmt: skip
    seconds = facts((stage, f"{spent:.1f} s") for stage, spent in run.seconds.items())
    made = facts((name, str(value)) for name, value in run.versions.items())
    return card(
        "How it was made",
        facts(pairs),
        f"<details><summary>Time by stage</summary>{seconds}</details>",
        f"<details><summary>Versions and machine</summary>{made}</details>",
        f"<details><summary>All settings</summary><pre>{escape(json.dumps(c, indent=2))}</pre></details>",
    )
