"""What a logged multi-task data set is, where it is stored, what is wrong with it, how it is drawn from."""

from merpo.data.arrays import from_arrays
from merpo.data.checks import Report, check
from merpo.data.community import from_minari
from merpo.data.coverage import action_noise
from merpo.data.exchange import Columns, Imported, Settings, export_set, from_table, import_set, read_mapping
from merpo.data.prepare import Preparation, action_bounds
from merpo.data.sample import holdout_rows, sample_rows, split_episodes
from merpo.data.storage import SetEntry, default_root, list_sets, load, load_each, remove, save
from merpo.data.summary import LogSummary, Summary, TaskSummary, info, summarise
from merpo.data.types import Bounds, SetInfo, Stacked, TaskData, TaskSet, Transitions, stack
from merpo.data.validation import Finding, validate

__all__ = [
    "Bounds",
    "Columns",
    "Finding",
    "Imported",
    "LogSummary",
    "Preparation",
    "Report",
    "SetEntry",
    "SetInfo",
    "Settings",
    "Stacked",
    "Summary",
    "TaskData",
    "TaskSet",
    "TaskSummary",
    "Transitions",
    "action_bounds",
    "action_noise",
    "check",
    "default_root",
    "export_set",
    "from_arrays",
    "from_minari",
    "from_table",
    "holdout_rows",
    "import_set",
    "info",
    "list_sets",
    "load",
    "load_each",
    "read_mapping",
    "remove",
    "sample_rows",
    "save",
    "split_episodes",
    "stack",
    "summarise",
    "validate",
]
