"""A report on a data set: everything that cannot be learned from, everything that looks like a mistake, and what the
logs cover.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from merpo.data.coverage import Coverage, coverage, coverage_findings
from merpo.data.relations import relations
from merpo.data.summary import Summary, finite, info
from merpo.data.suspicions import row_keys, suspicions
from merpo.data.types import TaskSet
from merpo.data.validation import Finding, problems, shape_problems

LISTED = 3
"""Findings of one kind shown in full in the text; the others are counted. JSON has all of them."""


@dataclass(frozen=True)
class Report:
    """What `check` found."""

    findings: tuple[Finding, ...]
    """Errors first, then warnings, then remarks."""
    summary: Summary
    coverage: Coverage | None = None
    """None when the description is too broken for estimates."""

    @property
    def ok(self) -> bool:
        """True when there is no error: the set can be learned from."""
        return not any(f.severity == "error" for f in self.findings)

    def count(self, severity: str) -> int:
        """How many findings have this severity."""
        return sum(f.severity == severity for f in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The same as plain dictionaries and lists."""
        return {
            "ok": self.ok,
            "findings": [asdict(f) for f in self.findings],
            "summary": self.summary.to_json(),
            "coverage": None if self.coverage is None else finite(asdict(self.coverage)),
        }

    def render(self) -> str:
        """Plain text: tables of tasks, columns and coverage, then a paragraph per finding."""
        lines = [self.summary.render(), "", self.summary.render_columns(), ""]
        if self.coverage is not None:
            lines += [self.coverage.render(), ""]
        shown: dict[str, int] = {}
        for f in self.findings:
            shown[f.code] = shown.get(f.code, 0) + 1
            if shown[f.code] <= LISTED:
                lines.append(f"{f.severity.upper()} [{f.code}] {f.text}")
        lines += [f"... and {n - LISTED} more [{code}], see --json" for code, n in shown.items() if n > LISTED]
        verdict = "can be learned from" if self.ok else "cannot be learned from as it is"
        errors, warnings = self.count("error"), self.count("warning")
        return "\n".join([*lines, f"{errors} errors, {warnings} warnings: the data set {verdict}."])


def check(taskset: TaskSet, on_constant: str = "error") -> Report:
    """Look for everything `validate` would raise, and for what is legal but suspicious; no data raise.

    Warnings, per task: few transitions, episodes ending with neither flag or longer than the horizon, rows out of
    order or whose `next_obs` is not the next row's `obs`, terminations that look like time limits or contradict
    `info.termination`, columns (near) constant, outliers, saturated actions, constant rewards, repeated transitions and
    steps. Between tasks: transitions of test tasks found in training tasks, transitions shared by training tasks,
    rewards or sizes of very different scale, observation columns that say the same. Estimates (`coverage`): test tasks
    whose states training tasks do not visit, actions that use little of their range, returns that contradict the
    stated quality.

    >>> import numpy as np
    >>> from merpo.data import check, from_arrays
    >>> rng = np.random.default_rng(0)
    >>> log = {"obs": rng.normal(size=(40, 2)), "action": rng.uniform(-1, 1, (40, 1)), "reward": rng.normal(size=40),
    ...        "episode": np.repeat(np.arange(8), 5)}
    >>> report = check(from_arrays({"left": log, "right": log}, family="mine", test=["right"]))
    >>> report.ok, "leakage" in {finding.code for finding in report.findings}  # the same log twice
    (True, True)
    """
    found = list(problems(taskset, on_constant))
    covered = None
    if not any(f.code == "info" for f in found):
        with np.errstate(all="ignore"):  # infinite values are reported already
            sound = [t for t in taskset if not any(shape_problems(t, taskset.info))]
            keyed = [(task, row_keys(task)) for task in sound]
            for task, keys in keyed:
                found += suspicions(task, taskset.info, keys)
            found += relations(keyed)
            if sound:
                covered = coverage(sound, taskset.info)
                found += coverage_findings(covered, taskset.info)
    order = {"error": 0, "warning": 1, "info": 2}
    return Report(tuple(sorted(found, key=lambda f: order[f.severity])), info(taskset), covered)
