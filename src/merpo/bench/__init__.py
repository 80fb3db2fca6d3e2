"""Studies: grids of methods, families, qualities and seeds, cell by cell, that a kill cannot spoil (`merpo bench`)."""

from merpo.bench.plan import Cell, Fit, Logs, Series, code_version, make_plan
from merpo.bench.run import Unit, Watcher, kind, run_study
from merpo.bench.study import METHODS, Study, Variant, make_study, read_study
from merpo.bench.summary import Outcome

__all__ = [
    "METHODS",
    "Cell",
    "Fit",
    "Logs",
    "Outcome",
    "Series",
    "Study",
    "Unit",
    "Variant",
    "Watcher",
    "code_version",
    "kind",
    "make_plan",
    "make_study",
    "read_study",
    "run_study",
]
