"""What cells hold: real learning on tiny settings, here and on Ray's workers."""

import io
import json
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import merpo
from merpo.api import unlearned
from merpo.bench import make_plan, make_study, read_study, run_study
from merpo.bench import work as work_module
from merpo.bench.folder import Folder
from merpo.bench.run import ordered
from merpo.bench.work import Workshop
from merpo.cli import main
from merpo.commands.bench import Board
from merpo.data import Preparation
from merpo.errors import ConfigError
from merpo.evaluation import evaluate_policies
from toys import filled

pytest.importorskip("matplotlib")
TINY = """
name = "real"
families = ["point-robot-wind"]
qualities = ["medium"]
methods = ["bc", "meta-policy"]
seeds = [0, 1]
episodes = 2
train_tasks = 3
test_tasks = 2
bc_updates = 10
logs = [2]
[settings.merpo]
group = 1
rac = { actor_hidden = [4], critic_hidden = [4] }
dynamics = { hidden = [4], members = 2, elites = 1, batch = 8, adapt_steps = 2, check_every = 1 }
"""


pytestmark = pytest.mark.usefixtures("home", "whole_commands")


@pytest.fixture(scope="module")
def real(home, whole_commands):
    """A tiny study from the command line, its MerPO as good as unlearned: what is stored of it is read and adapted."""

    class Quick(merpo.MerPO):
        def fit(self, tasks, *, checkpoint=None, report=None):
            return merpo.Meta.together([self._of(seed, tasks) for seed in self.seeds])

        def _of(self, seed, tasks):
            blank = filled(lambda _: unlearned(tasks.info, self.config, [seed]), seed)
            ready = jax.tree.map(np.asarray, Preparation.fit(tasks))
            scale = jax.tree.map(np.ones_like, blank.scale)  # of the data, so the same for all seeds
            learned = type(blank)(blank.meta_model, blank.meta_actor, blank.meta_critic, blank.context, scale, ready)
            return merpo.Meta(learned, tasks.info, self.config, (seed,))

    patch = pytest.MonkeyPatch()
    patch.setattr(work_module, "MerPO", Quick)
    (home / "real.toml").write_text(TINY)
    assert main(["bench", str(home / "real.toml"), "--out", str(home / "real"), "--results", str(home / "r")]) == 0
    yield home / "real"
    patch.undo()


def test_cells_hold_what_the_methods_return(real, home):
    cells = {c.title: c for s in make_plan(read_study(home / "real.toml")) for c in s.cells}
    with Folder.opened(real, read_study(home / "real.toml")) as folder:
        read = {t.partition("  ")[2]: (folder.read(c), folder.time_of(c)) for t, c in cells.items()}
    bc, timing = read["bc, 2 logged, seed 1"]
    data = merpo.load("point-robot-wind/medium", episodes=2)
    tests = list(data.test)[:2]
    assert bc["tasks"] == [t.name for t in tests]
    assert bc["behaviour"] == [t.returns().mean() for t in tests]
    assert bc["expert"] == [t.reference["expert"] for t in tests]
    assert bc["identity"]["config"]["bc_updates"] == 10
    assert {"seconds", "cpu_seconds"} < set(timing)
    assert {"cpu", "cores", "jax"} < set(timing["machine"])
    assert "seconds" not in json.dumps(bc)  # what is never the same twice stands apart
    # the clone of a whole learner's Meta is the clone that needed no learning
    config = cells["point-robot-wind/medium  bc, 2 logged, seed 1"].config
    whole = work_module.MerPO(config, seed=1).fit(data.train.__class__(data.info, tuple(data.train)[:3]))
    ids = [40, 41]
    again = evaluate_policies("point-robot-wind", whole.adapt_many(tests, "bc").act(1), ids, 1, 0)
    assert bc["returns"] == again.tolist()
    assert read["meta-policy, 2 logged, seed 0"][0]["returns"] != read["meta-policy, 2 logged, seed 1"][0]["returns"]
    assert json.loads((home / "r" / "results.json").read_text())["groups"][0]["train_tasks"] == 3
    assert (home / "r" / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_order_of_work_does_not_change_a_cell(real, home):
    study = read_study(home / "real.toml")
    with Folder.opened(real, study) as folder:
        cells = [c for s in make_plan(study) for c in s.cells if s.method == "meta-policy"]
        assert ordered(cells, folder) == cells  # nothing left to learn
        shop = Workshop()
        for cell in reversed(cells):
            assert (
                shop.cell((cell,), (folder.result(cell.fit).read_bytes(),))[0].content
                == folder.result(cell).read_bytes()
            )


def test_seeds_learned_together_make_the_same_cells(real, home):
    """As on an accelerator, up to rounding."""
    study = read_study(home / "real.toml")
    run_study(study, home / "joint", Board("s", io.StringIO()), together=True)
    made = [p for p in (home / "joint" / "cells").iterdir() if ".time" not in p.name]
    assert len(made) == 4
    for path in made:
        joint, alone = (json.loads((folder / "cells" / path.name).read_text()) for folder in (home / "joint", real))
        np.testing.assert_allclose(joint.pop("returns"), alone.pop("returns"), rtol=1e-4)
        np.testing.assert_allclose(joint.pop("mean"), alone.pop("mean"), rtol=1e-4)
        assert joint == alone
        assert json.loads(path.with_suffix(".time.json").read_text())["seeds_together"] == 2
    for path in (home / "joint" / "stages").glob("*.safetensors"):
        assert path.read_bytes() == (real / "stages" / path.name).read_bytes()


def test_without_ray_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs ray.*pip install 'merpo\[ray\]'"):
        run_study(make_study(tomllib.loads(TINY)), tmp_path / "a", Board("s", io.StringIO()), workers=2)
    with pytest.raises(ConfigError, match="workers=-1"):
        run_study(make_study(tomllib.loads(TINY)), tmp_path / "a", Board("s", io.StringIO()), workers=-1)


@pytest.mark.filterwarnings("ignore")
def test_two_workers_of_ray_make_the_same_cells(real, home, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(merpo.__file__).parents[1]))
    study = make_study(tomllib.loads(TINY) | {"methods": ["bc"]})
    run_study(study, home / "ray", Board("s", io.StringIO()), workers=2)
    made = [p for p in (home / "ray" / "cells").iterdir() if ".time" not in p.name]
    assert len(made) == 2
    for path in made:
        assert path.read_bytes() == (real / "cells" / path.name).read_bytes()
