"""The tutorial's own blocks and the examples, run at small size; and the glossary of what such runs log."""

import importlib.util
import json
import re
import shlex
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import merpo
from merpo.algorithms import rac
from merpo.algorithms.health import Where, check_figures
from merpo.algorithms.presets import SMALL
from merpo.algorithms.rac import Weights
from merpo.cli import main
from merpo.commands.adapt import Adapt
from merpo.commands.behaviour import Behaviour
from merpo.commands.bench import Bench
from merpo.commands.compare import Compare
from merpo.commands.data import Data
from merpo.commands.estimate import Estimate
from merpo.commands.evaluate import Evaluate
from merpo.commands.export import Export
from merpo.commands.quickstart import Quickstart
from merpo.commands.report import Report
from merpo.commands.results import ResultsPage
from merpo.commands.theory import Theory
from merpo.commands.track import Track
from merpo.commands.train import Train
from merpo.runs import read_metrics
from rival_cases import ALGORITHMS, rival_case, rival_update
from toys import actor, critic, transitions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.usefixtures("whole_commands")

COMMANDS = (
    Adapt,
    Behaviour,
    Bench,
    Compare,
    Data,
    Estimate,
    Evaluate,
    Export,
    Quickstart,
    Report,
    ResultsPage,
    Theory,
    Track,
    Train,
)
PARTS = ("rac", "dynamics")
KEY = jax.random.key(0)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TINY = {
    "train_updates": 20,
    "adapt_updates": 20,
    "bc_updates": 20,
    "meta_steps": 1,
    "group": 1,
    "context": 0,
    "rac": {
        "actor_hidden": (4,),
        "critic_hidden": (4,),
        "critic_layer_norm": False,
        "batch": 8,
        "rollout_length": 1,
        "rollout_rows": 10,
        "imagine_every": 10,
        "buffer": 20,
    },
    "dynamics": {
        "hidden": (4,),
        "reward_given_next": False,
        "members": 1,
        "elites": 1,
        "batch": 8,
        "group": 1,
        "pool_steps": 0,
        "meta_iterations": 2,
        "inner_steps": 1,
        "adapt_steps": 2,
        "check_every": 1,
    },
}


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory, whole_commands):
    """The folder that the tutorial leaves, its blocks run in order: four trips instead of forty, tiny settings."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    blocks = BLOCK.findall((DOCS / "tutorial.md").read_text())
    assert {kind for kind, _ in blocks} == {"python", "toml", "bash"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MERPO_DATA_DIR", str(folder / "data"))
        patch.setenv("MERPO_CACHE_DIR", "off")
        patch.chdir(folder)
        for kind, text in blocks:
            if kind == "toml":
                Path(re.match(r"# (\S+\.toml)\n", text)[1]).write_text(text)
            elif kind == "python":
                exec(compile(text.replace("TRIPS = 40", "TRIPS = 4"), "tutorial.md", "exec"), {})
            else:
                for line in text.splitlines():
                    command, *args = shlex.split(line)
                    assert command == "merpo"
                    more = ["--config", "tiny.json"] if args[0] == "train" else []
                    assert main([*args, *more]) == 0, line
    return folder


def test_the_tutorial_leaves_what_it_says(tutorial):
    assert (tutorial / "runs/shuttles/checkpoint.safetensors").exists()
    (certificate,) = json.loads((tutorial / "runs/shuttles/certificates.json").read_text())["merpo"]["0"]
    assert "log too small" in certificate["sentence"]  # four trips
    assert "shuttle-3" in (tutorial / "report.html").read_text()
    assert "shuttle-3" in (tutorial / "shuttle-3.onnx.card.md").read_text()
    assert (tutorial / "shuttle-3.onnx").exists()


def test_the_example_gives_a_policy_with_a_certificate(capsys):
    spec = importlib.util.spec_from_file_location("own_table", ROOT / "examples" / "own_table.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    parts = {name: replace(getattr(SMALL, name), **settings) for name, settings in TINY.items() if name in PARTS}
    config = replace(SMALL, **{**TINY, **parts})
    policy = example.main(trips=4, config=config)
    assert policy.stands_in
    out = capsys.readouterr().out
    assert "0 errors" in out
    assert policy.certificate.sentence in out
    assert -12 <= policy(np.zeros(2, np.float32))[0] <= 12


def glossary(page):
    """Names in the first column of the page's table of metrics."""
    text = (DOCS / page).read_text().split("## Logged metrics")[1].split("\n## ")[0]
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_metric_of_a_run_is_in_the_glossary(tutorial):
    run = tutorial / "runs" / "shuttles"
    lines = [line for path in (run / "metrics.jsonl", run / "curves/merpo.jsonl") for line in read_metrics(path)]
    logged = {name for line in lines for name in line} - {"step"}
    assert {"nll", "critic/td", "actor/clone", "meta/kl"} <= logged
    assert logged <= glossary("method.md")
    optional = set().union(*(updated(behaviour) for behaviour in ("clone", "density", "dual")))
    assert logged | optional | {"error"} == glossary("method.md")


def updated(behaviour):
    """Names of an update's metrics with everything that can adapt adapting; nothing is compiled."""
    dual = {"lam_mode": "dual", "beta_mode": "dual", "alpha_mode": "adaptive"}
    config = merpo.RACConfig(actor_hidden=(4,), critic_hidden=(4,), batch=8, behaviour=behaviour, **dual)
    one = jnp.ones((), jnp.float32)
    weights = Weights(one, one, one, one, behaviour=actor(2) if behaviour == "density" else None)
    state = jax.eval_shape(lambda: rac.init(actor(0), critic(1), config))
    rows = transitions(0, 4)
    return set(jax.eval_shape(lambda s, k: rac.update(s, rows, rows, actor(3), weights, k, 0.9, config)[1], state, KEY))


def test_every_metric_of_the_rivals_is_in_their_glossary():
    logged = set()
    for name in ALGORITHMS:
        state, batch = rival_case(name, 0)
        logged |= set(jax.eval_shape(rival_update(name), state, batch, KEY)[1])
    assert logged == glossary("rivals.md")


def test_the_tuning_page_quotes_a_divergence_error_as_it_is():
    where = Where("meta-training", (0,), ("shuttle-1", "shuttle-2"), SMALL)
    figures = {"critic/q_data": np.array([[0.1, 3.1e6]])}
    with pytest.raises(merpo.DivergenceError) as error:
        check_figures(figures, where, "updates 501 to 600 of 1200")
    quoted = " ".join((DOCS / "tuning.md").read_text().split())
    assert f"error: {error.value}" in quoted


def test_settings_that_the_pages_name_exist():
    text = "\n".join((DOCS / page).read_text() for page in ("tuning.md", "how-to.md", "commands.md", "data.md"))
    text += (DOCS / "method.md").read_text().split("## Choosing settings")[1]
    named = set(re.findall(r"`(rac|dynamics)\.(\w+)[`=]", text))
    assert len(named) > 10
    assert not [f"{part}.{name}" for part, name in named if not hasattr(getattr(SMALL, part), name)]


def options_of(command):
    """Every option of a command, those of its subcommands together."""
    found, todo = set(), [command]
    while todo:
        one = todo.pop()
        for field in fields(one):
            hint = get_type_hints(one)[field.name]
            below = [t for t in get_args(hint) if is_dataclass(t)]
            todo += below
            found |= set() if below else {field.name.replace("_", "-")}
    return found


def test_commands_on_the_pages_have_the_options_that_stand_there():
    known = {one.__name__.lower().removesuffix("page"): options_of(one) for one in COMMANDS}
    assert {"choose-alpha", "certify"} <= known["adapt"]
    assert {"mapping", "physics"} <= known["data"]
    lines = []
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        text = page.read_text()
        lines += re.findall(r"^(?:    )?merpo (.*)$", text, re.MULTILINE) + re.findall(r"`merpo ([^`]+)`", text)
    assert len(lines) > 60
    wrong = []
    for line in lines:
        command, *rest = re.split(r"\s+#", line)[0].split()
        wrong += [
            line for o in re.findall(r"--([a-z-]+)", " ".join(rest)) if o not in {"help", *known.get(command, ())}
        ]
    assert not wrong
