"""Configuration, checkpoints, run folders and logs: what a training run leaves on the disk."""

from merpo.files import read_json, write_atomic
from merpo.runs.checkpoint import fingerprint, load_checkpoint, read_meta, save_checkpoint
from merpo.runs.config import config_hash, diff, from_json, merged, nested, to_json
from merpo.runs.folder import STATE, RunFolder, read_config, read_metrics, versions
from merpo.runs.lock import locked
from merpo.runs.progress import Progress
from merpo.runs.state import Checkpoints, keeping, work_of

__all__ = [
    "STATE",
    "Checkpoints",
    "Progress",
    "RunFolder",
    "config_hash",
    "diff",
    "fingerprint",
    "from_json",
    "keeping",
    "load_checkpoint",
    "locked",
    "merged",
    "nested",
    "read_config",
    "read_json",
    "read_meta",
    "read_metrics",
    "save_checkpoint",
    "to_json",
    "versions",
    "work_of",
    "write_atomic",
]
