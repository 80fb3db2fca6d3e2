"""One table of MerPO beside its anchors and its best rival, from all stored results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from merpo.errors import DataError, StorageError
from merpo.evaluation import BEHAVIOUR, META, Share, bootstrap_interval, over_anchors, results_from_json
from merpo.evaluation.table import FORMAT
from merpo.report.tables import digits, interval_text

OURS = "merpo"
ORDER = ("random", "medium", "expert", "mixed")
HEADINGS = ("logs", "tasks", "seeds", "behaviour", META, "best other", "MerPO", "≥ behaviour", f"≥ {META}", "≥ both")
MARKS = ("<!-- merpo results: begin -->", "<!-- merpo results: end -->")
"""Between these lines of a page its table is kept."""
NOTE = (
    "Mean returns on the test tasks; best other: the highest mean that any other method has on the same logs in any"
    " stored file, whatever its number of seeds. The last columns: the share of tasks on which MerPO's mean is at or"
    " above the logged behaviour's, the unadapted meta-policy's, both; in brackets the share on which the lower end of"
    " the 95 % bootstrap interval of the difference is, too (over seeds; the behaviour's mean is taken as given)."
    " MerPO's row is of the file with most seeds."
)


@dataclass(frozen=True)
class Found:
    """What one file says about one family and quality."""

    family: str
    quality: str
    behaviour: Float[np.ndarray, " task"]
    returns: Mapping[str, Float[np.ndarray, "run task episode"]]
    source: str
    """Where it is, below the folder of results."""

    @property
    def seeds(self) -> int:
        """Training seeds."""
        return len(next(iter(self.returns.values())))

    def same_logs(self, other: Found) -> bool:
        """Whether both are about the same logged episodes, as far as their mean returns tell."""
        known = (self.family, self.quality, len(self.behaviour)) == (other.family, other.quality, len(other.behaviour))
        return known and bool(np.allclose(self.behaviour, other.behaviour, rtol=1e-6))


def overview(root: Path, link: str) -> list[str]:
    """The table as lines of Markdown; none where nothing is stored that has MerPO and its meta-policy."""
    best: dict[tuple[str, str], Found] = {}
    everything = (*_runs(root), *_studies(root))
    for found in everything:
        known = best.get((found.family, found.quality))
        if {OURS, META} <= set(found.returns) and (known is None or found.seeds > known.seeds):
            best[found.family, found.quality] = found
    if not best:
        return []
    lines = ["| " + " | ".join(HEADINGS) + " |", "|:---|" + "---:|" * (len(HEADINGS) - 1)]
    shown = sorted(best.values(), key=_place)
    for found in shown:
        others = _others(found, [f for f in everything if f.same_logs(found)])
        lines.append("| " + " | ".join(_cells(found, others, link)) + " |")
    return [*lines, "", NOTE, "", _counts(shown), ""]


def replaced(page: Path, table: list[str]) -> str:
    """The page with the table between its two marks. StorageError where they are not both there, once each."""
    before, begin, rest = page.read_text().partition(MARKS[0])
    old, end, after = rest.partition(MARKS[1])
    if not end or any(mark in part for mark in MARKS for part in (before, old, after)):
        raise StorageError(
            f"{str(page)!r}: expected a line {MARKS[0]} and below it one {MARKS[1]}, once each. Add them."
        )
    return f"{before}{begin}\n\n" + "\n".join(table) + f"\n{end}{after}"


def _place(found: Found) -> tuple[bool, str, int]:
    rank = ORDER.index(found.quality) if found.quality in ORDER else len(ORDER)
    return not _is_point_robot(found), found.family, rank


def _others(found: Found, same: list[Found]) -> dict[str, float]:
    """Mean returns of all methods but MerPO, its variants and its meta-policy: the file's own before other files'."""
    means: dict[str, float] = {}
    for f in (found, *same):
        for method, returns in f.returns.items():
            if method != META and not method.startswith(OURS):
                means.setdefault(method, float(returns.mean()))
    return means


def _cells(found: Found, others: Mapping[str, float], link: str) -> tuple[str, ...]:
    mine, meta = found.returns[OURS], found.returns[META]
    best = max(others, key=lambda m: others[m], default=None)
    above = over_anchors(mine, meta, found.behaviour)
    return (
        f"[{found.family}/{found.quality}]({link}/{found.source})",
        str(len(found.behaviour)),
        str(found.seeds),
        _number(found.behaviour.mean()),
        _number(meta.mean()),
        "" if best is None else f"{best} {_number(others[best])}",
        interval_text(x := bootstrap_interval(mine), digits(x.value)),
        *(_share(s) for s in (above.behaviour, above.meta, above.both)),
    )


def _counts(shown: Sequence[Found]) -> str:
    """On how many single tasks MerPO is at or above both anchors."""
    told = []
    for point, kind in ((True, "point robots"), (False, "other families")):
        for random, logs in ((True, "random logs"), (False, "other logs")):
            rows = [f for f in shown if _is_point_robot(f) == point and (f.quality == ORDER[0]) == random]
            both = [over_anchors(f.returns[OURS], f.returns[META], f.behaviour).both for f in rows]
            tasks = [len(f.behaviour) for f in rows]
            if rows:
                at = sum(round(s.point * n) for s, n in zip(both, tasks, strict=True))
                surely = sum(round((s.sure or 0.0) * n) for s, n in zip(both, tasks, strict=True))
                told.append(f"{kind}, {logs}: {at} of {sum(tasks)} ({surely})")
    return f"Single tasks on which MerPO is at or above both (surely): {'; '.join(told)}."


def _is_point_robot(found: Found) -> bool:
    return found.family.startswith("point-robot")


def _number(x: float) -> str:
    return f"{x:.{digits(x)}f}"


def _share(x: Share) -> str:
    return f"{x.point:.0%}" + ("" if x.sure is None else f" ({x.sure:.0%})")


def _runs(root: Path) -> Iterator[Found]:
    """`FAMILY/QUALITY.json`, as `merpo evaluate --results` wrote it, and files of rivals alone wherever they are;
    others that have MerPO are variants of it."""
    for path in sorted(root.rglob("*.json")):
        content = content_of(path)
        if content.get("format") != FORMAT:
            continue
        try:
            results = results_from_json(content)
        except DataError:
            continue
        if (results.family, results.quality) == (path.parent.name, path.stem) or OURS not in results.returns:
            source = path.relative_to(root).with_suffix(".md").as_posix()
            yield Found(results.family, results.quality, results.behaviour, results.returns, source)


def _studies(root: Path) -> Iterator[Found]:
    """Groups of studies with one MerPO, all logged episodes, and tasks among those of training."""
    for path in sorted(root.glob("*/results.json")):
        content = content_of(path)
        asked = content.get("study", {})
        if not isinstance(asked, dict) or asked.get("outside") or asked.get("settings"):
            continue
        for group in content.get("groups", ()):
            rows = {row["label"]: np.asarray(row["returns"], np.float64)[..., None] for row in group["rows"]}
            if group["logs"] is None and {OURS, BEHAVIOUR} <= set(rows):
                logged = rows.pop(BEHAVIOUR)[0, :, 0]
                yield Found(group["family"], group["quality"], logged, rows, f"{path.parent.name}/table.md")


def content_of(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is missing, damaged or no object."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
