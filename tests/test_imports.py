"""The walls of the house: the table in docs/architecture.md is the contract, and this is its check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "merpo"
LEARNING = {"data", "networks", "dynamics", "algorithms", "guarantee"}
SIMULATORS = {"gymnasium", "mujoco"}
OUTSIDE_CORE = [
    "gymnasium",
    "mujoco",
    "minari",
    "h5py",
    "pyarrow",
    "rich",
    "tyro",
    "matplotlib",
    "scipy",
    "onnx",
    "onnxruntime",
    "tensorboardX",
    "wandb",
    "ray",
    "merpo.tasks",
]


def contract() -> dict[str, set[str] | None]:
    """Room -> rooms it may import, from the documented table; None means all."""
    table: dict[str, set[str] | None] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        names = re.findall(r"`(\w+)(?:/|\.py)`", cells[0])
        if line.startswith("|") and len(cells) == 3:
            allowed = {w for w in re.split(r"[,\s]+", cells[2]) if re.fullmatch(r"\w+", w)} - {"nothing"}
            table |= {name: None if "all" in allowed else allowed for name in names}
    return table


def module_name(path: Path) -> str:
    return ".".join(["merpo", *path.relative_to(SOURCE).with_suffix("").parts])


def imports(path: Path) -> list[tuple[int, str, bool]]:
    """(line, full module name, whether at module level) of every import, TYPE_CHECKING and local ones too."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(f)
    }
    package = module_name(path).split(".")[:-1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from merpo import tasks` imports a room, as does `from merpo.tasks import x`
            names = [f"merpo.{a.name}" for a in node.names] if module == "merpo" else [module]
        else:
            continue
        found += [(node.lineno, name, id(node) not in inside) for name in names]
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


FILES = sorted(SOURCE.rglob("*.py"))
CONTRACT = contract()


def test_every_room_is_in_the_table():
    assert LEARNING | {"tasks", "evaluation", "runs", "report"} <= set(CONTRACT)
    rooms = {p.name for p in SOURCE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    assert rooms <= set(CONTRACT)
    assert CONTRACT["evaluation"] == {"data", "dynamics", "tasks", "algorithms"}
    assert CONTRACT["networks"] == set()
    assert CONTRACT["cli"] is None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_imports_only_what_its_room_may(path):
    home = room(module_name(path))
    if path == SOURCE / "__init__.py" or CONTRACT.get(home, set()) is None:
        return
    allowed = CONTRACT.get(home)
    assert allowed is not None, f"{path.name} is not in the table of docs/architecture.md"
    for line, name, _ in imports(path):
        if name.split(".")[0] == "merpo":
            target = room(name)
            assert target in allowed | {home, "errors"}, f"{path.relative_to(ROOT)}:{line}: {home} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_learning_never_reaches_a_simulator(path):
    home = room(module_name(path))
    if home not in LEARNING:
        return
    for line, name, _ in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}: {home} imports {name}"
        assert room(name) != "tasks" or not name.startswith("merpo."), where
        assert name.split(".")[0] not in SIMULATORS, where


def test_in_evaluation_only_simulate_reaches_tasks_and_only_when_called():
    for path in sorted((SOURCE / "evaluation").glob("*.py")):
        for line, name, top in imports(path):
            if name.startswith("merpo.tasks"):
                assert path.name == "simulate.py", f"{path.name}:{line}"
                assert not top, f"{path.name}:{line}"


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "x.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from merpo.tasks.family import Family\n"
        "import mujoco.viewer\nfrom merpo import report\nfrom ..runs import config\nfrom . import types\n"
        "def f():\n    import gymnasium as gym\n"
    )
    assert sorted(imports(path)) == [
        (1, "typing", True),
        (3, "merpo.tasks.family", True),
        (4, "mujoco.viewer", True),
        (5, "merpo.report", True),
        (6, "merpo.runs", True),
        (7, "merpo.data", True),
        (9, "gymnasium", False),
    ]


def loaded(code: str) -> list[str]:
    check = f"{code}\nimport sys\nprint([m for m in {OUTSIDE_CORE!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return ast.literal_eval(out.stdout)


@pytest.mark.parametrize(
    "code",
    [
        "import merpo",
        "import merpo.data, merpo.networks, merpo.dynamics, merpo.algorithms, merpo.guarantee",
        "import merpo.evaluation, merpo.runs, merpo.report",
        "import merpo.deploy, merpo.report.page, merpo.runs.track",
    ],
)
def test_importing_loads_nothing_beyond_the_core(code):
    assert loaded(code) == []
