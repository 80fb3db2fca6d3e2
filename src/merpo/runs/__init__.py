"""Configuration, checkpoints, run folders and logs: what a training run leaves on the disk."""

from merpo.runs.config import config_hash, diff, from_json, to_json

__all__ = ["config_hash", "diff", "from_json", "to_json"]
