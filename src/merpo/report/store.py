"""Results on the disk: one JSON file, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from merpo.errors import DataError, StorageError
from merpo.evaluation import Results, results_from_json, results_to_json
from merpo.runs import write_atomic


def save_results(path: str | os.PathLike[str], results: Results) -> None:
    """Write results and their summary as JSON. Raises `StorageError` when that cannot be done."""
    write_atomic(path, json.dumps(results_to_json(results), allow_nan=False, indent=1) + "\n")


def load_results(path: str | os.PathLike[str]) -> Results:
    """Read what `save_results` wrote. Raises `StorageError` for a missing, truncated or foreign file."""
    try:
        data = json.loads(Path(path).read_bytes())
        if not isinstance(data, dict):
            raise DataError(f"expected a table, got a {type(data).__name__}.")
        return results_from_json(data)
    except OSError as error:
        raise StorageError(f"Cannot read {str(path)!r}: {error.strerror}. Check the path.") from error
    except ValueError as error:  # not JSON, or JSON of something else
        raise StorageError(f"{str(path)!r} is not a results file that merpo wrote: {error}") from error
