"""HTML fragments that every section is made of, and the sentences that say what came of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from merpo.evaluation import BEHAVIOUR, META, Interval, Results, probability_of_improvement
from merpo.report.page.charts import method_class
from merpo.report.page.material import RunView
from merpo.report.page.svg import DASH, MINUS, number
from merpo.report.style import label


def title(name: str) -> str:
    """A family's name for people."""
    return name.replace("-", " ").capitalize()


def percent(share: float) -> str:
    """A share in per cent that is never rounded up to all of it."""
    digits = 0 if share < 0.99 else 1
    shown = min(100 * share, 99.9) if share < 1.0 else 100 * share
    return f"{shown:.{digits}f} %".replace("-", MINUS)


def interval(v: Interval | None, digits: int | None = None) -> str:
    """An estimate with its interval below it, as a table cell."""
    if v is None:
        return ""
    show = number if digits is None else (lambda x: f"{x:.{digits}f}".replace("-", MINUS))
    ends = "" if np.isnan(v.low) else f"<small>{show(v.low)} to {show(v.high)}</small>"
    return f"{show(v.value)}{ends}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], best: int | None = None) -> str:
    """A table of ready cells (escaped by the caller) that scrolls sideways where it does not fit."""
    body = [
        f"<tr{' class=best' if i == best else ''}>"
        + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in r)
        + "</tr>"
        for i, r in enumerate(rows)
    ]
    heads = "".join(f"<th>{escape(h)}</th>" for h in head)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def figure(svg: str, caption: str = "", heading: str = "") -> str:
    """A figure with what it shows above and below it."""
    top = f"<h4>{escape(heading)}</h4>" if heading else ""
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{top}{svg}{below}</figure>"


def card(heading: str, *parts: str) -> str:
    """A titled block."""
    return f'<div class="card"><h3>{escape(heading)}</h3>{"".join(parts)}</div>'


def note(text: str) -> str:
    """Small print; `text` is HTML."""
    return f'<p class="note">{text}</p>'


def missing(text: str) -> str:
    """Says that something cannot be shown, and why."""
    return f'<p class="note missing">{escape(text)}</p>'


def legend(methods: Sequence[str], names: Mapping[str, str] | None = None) -> str:
    """Which colour is which method."""
    items = [f'<li><i class="{method_class(m)}"></i>{escape((names or {}).get(m, label(m)))}</li>' for m in methods]
    return f'<ul class="legend">{"".join(items)}</ul>'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """Names and values in a grid."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in pairs) + "</dl>"


def tile(value: str, what: str, tone: str = "") -> str:
    """One big figure."""
    return f'<div class="tile {tone}"><b>{escape(value)}</b><span>{escape(what)}</span></div>'


def focus_of(results: Results) -> str:
    """The method that a report is about: merpo, else the last."""
    return "merpo" if "merpo" in results.returns else list(results.returns)[-1]


def certified_of(run: RunView, method: str) -> list[Mapping[str, Any]]:
    """The certificates of a method, all seeds."""
    return [c for rows in run.certificates.get(method, {}).values() for c in rows]


def lead(run: RunView) -> str:
    """What came of the run, in plain sentences (HTML)."""
    seeds = "" if len(run.seeds) == 1 else f", with {len(run.seeds)} training seeds"
    text = f"MerPO learned from the logs of {run.train_tasks} {escape(_family(run))} tasks{seeds}. "
    if run.results is None:
        tasks = len(run.adapted.get("tasks", []))
        return text + (
            f"It was adapted to {tasks} new tasks, but the policies have not been simulated: no returns to show."
            if tasks
            else "It has not been adapted to any new task yet."
        )
    r, focus = run.results, focus_of(run.results)
    own, logged = r.task_means(focus), r.behaviour
    wins, n = int((own > logged).sum()), len(own)
    verdict = "more than" if own.mean() > logged.mean() else "no more than"
    replaced = _replaced(run, focus)
    text += (
        f"For each of {n} {'new tasks' if n > 1 else 'new task'} it then made a policy from that task's own log alone. "
        f"Simulated, those policies return <b>{number(float(own.mean()))}</b> per episode on average, {verdict} the"
        f" logged behaviour's <b>{number(float(logged.mean()))}</b>: better on <b>{wins} of {n}</b> tasks. "
    )
    if META in r.returns and focus != META:
        meta = r.task_means(META)
        text += (
            f"Unadapted, the meta-policy returns {number(float(meta.mean()))}; adapting helped on"
            f" {int((own > meta).sum())} of {n}. "
        )
    granted = certified_of(run, focus)
    if granted:
        ok = sum(bool(c["certified"]) for c in granted)
        text += f"<b>{ok} of {len(granted)}</b> policies are certified to be better than what runs today. "
        if replaced:
            text += "In the place of the others stands a clone of the logged behaviour. "
    return text.strip()


def _family(run: RunView) -> str:
    return run.data.partition("/")[0] if run.results is None else run.results.family


def _replaced(run: RunView, method: str) -> bool:
    refused = any(not c["certified"] for c in certified_of(run, method))
    return refused and not run.adapted.get("insisted", False)


def cautions(run: RunView) -> list[str]:
    """What a reader should know before trusting the figures."""
    found = []
    if len(run.seeds) == 1:
        found.append("One training seed: nothing here says how results vary from seed to seed.")
    if run.results is not None:
        focus = focus_of(run.results)
        if run.results.protocol.episodes == 1:
            found.append("One simulated episode per task and seed.")
        if not run.certificates:
            found.append(
                "No certificates were asked for (adapt --certify): only simulation says that policies are better."
            )
        elif _replaced(run, focus):
            found.append("Returns of refused tasks are those of the clone that stands in, not of the adapted policy.")
    return found


def tiles(run: RunView) -> str:
    """The figures that matter, big."""
    if run.results is None:
        return ""
    r, focus = run.results, focus_of(run.results)
    own, logged = r.task_means(focus), r.behaviour
    wins, n = int((own > logged).sum()), len(own)
    better = probability_of_improvement(np.asarray(r.returns[focus], np.float64), logged[None, :, None])
    tone = "good" if own.mean() > logged.mean() else "bad"
    spread = "" if not better.low < better.high else f" ({100 * better.low:.0f}{DASH}{100 * better.high:.0f} %)"
    against = f"mean return of {label(focus)}; {label(BEHAVIOUR)} {number(float(logged.mean()))}"
    out = [
        tile(number(float(own.mean())), against, tone),
        tile(f"{wins} / {n}", "tasks on which it beats the logged behaviour", "good" if 2 * wins > n else "bad"),
        tile(f"{100 * better.value:.0f} %", f"probability that it beats the logged behaviour on a task{spread}"),
    ]  # fmt: skip
    if r.normalisable:
        assert r.random is not None
        assert r.expert is not None
        score = (own.mean() - r.random.mean()) / (r.expert.mean() - r.random.mean())
        out.append(tile(f"{100 * score:.0f} %", "of the way from the random policy to the expert"))
    granted = certified_of(run, focus)
    if granted:
        ok = sum(bool(c["certified"]) for c in granted)
        out.append(tile(f"{ok} / {len(granted)}", "policies certified", "good" if ok else "bad"))
    return f'<div class="tiles">{"".join(out)}</div>'
