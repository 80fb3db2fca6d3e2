"""The command line, `merpo COMMAND ...`: parse, run one command, and turn errors into one clear line.

Exit status: 0 done, 2 an error that merpo explains (or wrong usage), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from merpo.errors import MerpoError

EXTRAS = {
    "tyro": "cli",
    "rich": "cli",
    "matplotlib": "report",
    "mujoco": "tasks",
    "gymnasium": "tasks",
    "minari": "data",
    "h5py": "data",
    "pyarrow": "tables",
    "PIL": "data",
    "onnx": "export",
    "onnxruntime": "export",
    "flatbuffers": "export",
    "tensorboardX": "tensorboard",
    "wandb": "wandb",
}
"""Which extra brings a package that may be missing."""

DESCRIPTION = """Model-based offline meta-reinforcement learning: from the logs of many systems to a better policy for
a new one.

merpo train, then merpo adapt, then merpo evaluate; or merpo quickstart, to see it all on two small families.

--debug anywhere (or MERPO_DEBUG=1) shows the traceback of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args or os.environ.get("MERPO_DEBUG", "") not in ("", "0")
    args = [a for a in args if a != "--debug"]
    try:
        _run(args)
    except SystemExit as stop:  # argument parsing: --help, or wrong usage
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        if debug:
            raise
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `merpo ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MerpoError, ModuleNotFoundError) as error:
        if debug or not _explain(error):
            raise
        return 2
    return 0


def _explain(error: Exception) -> bool:
    """Print the error as one line if merpo can explain it."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            return False
        text = f"this needs {package}, which is not installed. Run: pip install 'merpo[{EXTRAS[package]}]'"
    else:
        text = str(error)
    try:
        from merpo.commands.session import complain
    except ImportError:
        print(f"error: {text}", file=sys.stderr)
    else:
        complain(text)
    return True


def _run(args: list[str]) -> None:
    import tyro

    from merpo.commands.adapt import Adapt, run_adapt
    from merpo.commands.behaviour import Behaviour, run_behaviour
    from merpo.commands.bench import Bench, run_bench
    from merpo.commands.compare import Compare, run_compare
    from merpo.commands.data import Data, run_data
    from merpo.commands.estimate import Estimate, run_estimate
    from merpo.commands.evaluate import Evaluate, run_evaluate
    from merpo.commands.export import Export, run_export
    from merpo.commands.quickstart import Quickstart, run_quickstart
    from merpo.commands.report import Report, run_report
    from merpo.commands.results import ResultsPage, run_results
    from merpo.commands.session import use_compilation_cache
    from merpo.commands.theory import Theory, run_theory
    from merpo.commands.track import Track, run_track
    from merpo.commands.train import Train, run_train

    runners: dict[type, Callable[[Any], None]] = {
        Train: run_train,
        Adapt: run_adapt,
        Evaluate: run_evaluate,
        Estimate: run_estimate,
        Report: run_report,
        Compare: run_compare,
        Export: run_export,
        Track: run_track,
        Data: run_data,
        Behaviour: run_behaviour,
        Bench: run_bench,
        ResultsPage: run_results,
        Quickstart: run_quickstart,
        Theory: run_theory,
    }
    command: Any = (
        Annotated[Train, tyro.conf.subcommand("train")]
        | Annotated[Adapt, tyro.conf.subcommand("adapt")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Estimate, tyro.conf.subcommand("estimate")]
        | Annotated[Report, tyro.conf.subcommand("report")]
        | Annotated[Compare, tyro.conf.subcommand("compare")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Track, tyro.conf.subcommand("track")]
        | Annotated[Data, tyro.conf.subcommand("data")]
        | Annotated[Behaviour, tyro.conf.subcommand("behaviour")]
        | Annotated[Bench, tyro.conf.subcommand("bench")]
        | Annotated[ResultsPage, tyro.conf.subcommand("results")]
        | Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
        | Annotated[Theory, tyro.conf.subcommand("theory")]
    )
    options = tyro.cli(
        command,
        prog="merpo",
        description=DESCRIPTION,
        args=args,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    use_compilation_cache()
    runners[type(options)](options)


if __name__ == "__main__":
    sys.exit(main())
