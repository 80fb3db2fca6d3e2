"""`merpo track`: a run's metrics in TensorBoard or Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from merpo.commands.record import RECORD, make_folder, run_config
from merpo.commands.session import say


@dataclass(frozen=True)
class Track:
    """Send a run's metrics to TensorBoard or Weights & Biases, all at once or while it trains."""

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Folder of a run, finished or in training."""
    to: Literal["tensorboard", "wandb"] = "tensorboard"
    """Where to."""
    out: Path | None = None
    """Folder for event files or offline runs; default: `tensorboard` or `wandb` in the run folder."""
    follow: bool = False
    """Keep sending while the run trains, until it is finished."""
    project: str = "merpo"
    """W&B project."""
    online: bool = False
    """W&B: send to the server at once; default: offline, for `wandb sync` later."""


def run_track(options: Track) -> None:
    """Run the command."""
    from merpo.runs import to_json
    from merpo.runs.track import TensorBoard, Tracker, WandB, follow, replay

    folder = options.run_dir
    config = to_json(run_config(folder))
    out = options.out or folder / options.to
    make_folder(out)
    name = folder.resolve().name
    tracker: Tracker
    if options.to == "tensorboard":
        tracker = TensorBoard(out, config)
    else:
        tracker = WandB(out, config, name, options.project, options.online)
    try:
        # a run writes its record last
        sent = follow(folder, tracker, (folder / RECORD).exists) if options.follow else replay(folder, tracker)
    finally:
        tracker.close()
    see = f"tensorboard --logdir {out}" if options.to == "tensorboard" else f"wandb sync {out}/wandb/*"
    say(f"{sent} lines sent to {out}" + ("" if options.online else f"  (see them: {see})"))
