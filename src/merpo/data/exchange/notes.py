"""What an import did to the data besides reading them: counted by kind, so that nothing happens silently."""

from __future__ import annotations

from collections.abc import Mapping

from merpo.data.validation import Finding

KINDS: Mapping[str, tuple[str, str, str]] = {
    "last-step": (
        "info",
        "{n} steps dropped: the last one of an episode, whose next observation was not logged{also}.",
        "To keep them, add next_obs columns, or a final row per episode with the observation alone.",
    ),
    "last-step-terminated": (
        "warning",
        "{n} of the dropped last steps were terminations: their reward and the end itself are lost{also}.",
        "Add next_obs columns, or a final row per episode with the observation alone, so that endings can be learned.",
    ),
    "final-row": (
        "info",
        "{n} rows without action and reward taken as the final observation of their episode{also}.",
        "Nothing to do.",
    ),
    "truncated": (
        "info",
        "{n} episodes that did not terminate marked as truncated at their last step: no column says so{also}.",
        "If some of them ended by themselves, name the column that says so with --terminated.",
    ),
    "no-terminated": (
        "info",
        "{n} tasks have nothing that says where the task itself ended: no step counts as terminated{also}.",
        "Name the column with --terminated where there is one.",
    ),
    "open-end": (
        "warning",
        "{n} episodes end with neither terminated nor truncated{also}.",
        "They are kept as cut logs (value follows); if the file is incomplete, import it again.",
    ),
    "sorted": (
        "warning",
        "{n} rows were out of order and were sorted by time within their episode{also}.",
        "Check the log's order if this is unexpected.",
    ),
    "repeated": (
        "warning",
        "{n} rows repeated another one exactly (same episode, time and values) and were dropped{also}.",
        "Check that the log was not joined to itself.",
    ),
    "gap": (
        "warning",
        "{n} gaps in time inside episodes; the episode was cut there, before the gap{also}.",
        "Log without gaps, or give next_obs columns: then nothing is cut.",
    ),
    "gap-kept": (
        "warning",
        "{n} gaps in time inside episodes; rows are kept as they are, since next_obs is given{also}.",
        "Check that no steps were lost.",
    ),
    "irregular": (
        "warning",
        "{n} steps lie further apart in time than half again the usual step; too many to be gaps, so nothing was cut"
        "{also}.",
        "A model of the dynamics assumes equal time steps: resample the log, or add the duration to the observation.",
    ),
    "missing": (
        "warning",
        "{n} rows with missing or infinite values were dropped and their episodes cut there{also}.",
        "Mend the log to keep them.",
    ),
    "from-time": (
        "info",
        "{n} episodes told apart by time running backwards: no column names the episode{also}.",
        "Name the column with --episode where there is one.",
    ),
    "from-next": (
        "info",
        "{n} episodes told apart by next_observations that are not the next row's observation{also}.",
        "Nothing says where episodes end; pass --horizon to cut them by length instead.",
    ),
    "from-horizon": (
        "info",
        "{n} episodes cut by their length, the horizon, because nothing marks time limits{also}.",
        "Check that the horizon is right.",
    ),
    "unused": (
        "info",
        "{n} columns or arrays are not used{also}.",
        "Name them with --obs, --action, ... if they belong to the data.",
    ),
    "ignored": (
        "warning",
        "{n} files whose names do not fit the layout were left out{also}.",
        "Rename them if they belong to the data.",
    ),
    "no-newline": (
        "warning",
        "{n} files do not end with a line break{also}.",
        "If the file was cut, its last number may be incomplete: compare with the original.",
    ),
    "bounds": (
        "info",
        "Action bounds were taken from the range of the logged actions ({n} columns){also}.",
        "Give the true bounds with --action-low and --action-high where they are known.",
    ),
    "constant": (
        "warning",
        "{n} observation columns never change over all training tasks{also}.",
        "Learning refuses them: leave them out with --obs.",
    ),
    "empty": (
        "warning",
        "{n} files hold no transitions and were left out{also}.",
        "Check that they were written to the end.",
    ),
}
"""Per kind: severity, message ({n} counts, {also} says where), advice."""
SHOWN = 4
"""Places named in a message."""


class Notes:
    """Counts by kind, with the places where they happened."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._where: dict[str, list[str]] = {}

    def add(self, kind: str, count: int, where: str | None = None) -> None:
        """Count `count` more of a kind; nothing happens for 0."""
        if count:
            self._count[kind] = self._count.get(kind, 0) + int(count)
            places = self._where.setdefault(kind, [])
            if where is not None and where not in places:
                places.append(where)

    def findings(self) -> tuple[Finding, ...]:
        """One finding per kind, warnings first."""
        found = []
        for kind, (severity, message, advice) in KINDS.items():
            if kind in self._count:
                places = self._where[kind]
                more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
                also = f" ({', '.join(places[:SHOWN])}{more})" if places else ""
                found.append(Finding(severity, kind, message.format(n=self._count[kind], also=also), advice))
        return tuple(sorted(found, key=lambda f: f.severity != "warning"))
