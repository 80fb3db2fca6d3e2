"""Data sets from and to other formats: tables, arrays, D4RL, Minari, FOCAL."""

from merpo.data.exchange.columns import Columns
from merpo.data.exchange.exporting import export_set
from merpo.data.exchange.frames import from_table
from merpo.data.exchange.importing import LAYOUTS, Imported, import_set, read_mapping
from merpo.data.exchange.source import Settings

__all__ = ["LAYOUTS", "Columns", "Imported", "Settings", "export_set", "from_table", "import_set", "read_mapping"]
