"""The commands behind `merpo.cli`: each file holds its options as dataclasses and one `run_*` function per command."""
