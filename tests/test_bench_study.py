"""Study files: what they say, and what is said to those that cannot be run."""

import pytest

from merpo.bench import Study, Variant, make_plan, make_study, read_study
from merpo.bench.plan import data_hash
from merpo.cli import main
from merpo.errors import ConfigError
from toys import linear_set

BASE = {"name": "a", "families": ["point-robot-wind"], "qualities": ["medium"], "methods": ["merpo", "iql", "focal"]}


def study(**changes):
    return make_study(BASE | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsiodes": 3}, "epsiodes=3: .*Did you mean 'episodes'"),
        ({"methods": ["merp"]}, "methods='merp': expected one of .*Did you mean 'merpo'"),
        ({"families": ["point-robot-win"]}, "families='point-robot-win'.*Did you mean 'point-robot-wind'"),
        ({"qualities": ["mid"]}, "qualities='mid': expected one of random, medium"),
        ({"qualities": []}, r"qualities=\[\]: expected at least one"),
        ({"seeds": 0}, "seeds=0: expected a list, got int"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: expected each entry only once"),
        ({"seeds": [-1]}, "seeds=-1: expected a whole number >= 0"),
        ({"alpha": [1.5]}, r"alpha=1.5: expected numbers in \[0, 1\] or 'adaptive'"),
        ({"alpha": ["adapt"]}, "alpha='adapt': expected"),
        ({"logs": [60]}, "logs=60: expected between 1 and episodes=50"),
        ({"starts": 0}, "starts=0: expected a whole number >= 1"),
        ({"name": "a/b"}, "name='a/b': expected letters"),
        ({"train_updates": 7}, "merpo for point-robot-wind: train_updates=7: expected a multiple"),
        ({"settings": {"merpo": {"rac.lamb": 1}}}, "rac.lamb=1: .*Did you mean 'rac.lam'"),
        ({"settings": {"iql": {"expectil": 1}}}, "iql for .*Did you mean 'expectile'"),
        ({"settings": {"rac": {}}}, r"rac has the settings of merpo. Give \[settings.merpo\]"),
        ({"settings": 3}, "settings=3: expected a table"),
        ({"family_settings": {"ant-dir": {}}}, "family_settings='ant-dir': expected one of point-robot-wind"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(changes, said):
    with pytest.raises(ConfigError, match=said):
        study(**changes)


def test_settings_go_from_the_general_to_the_particular():
    made = study(
        train_updates=600,
        settings={"merpo": {"rac.lam": 0.1, "dynamics": {"hidden": [8]}}, "focal": {"context.latent": 3}},
        family_settings={"point-robot-wind": {"merpo": {"rac.lam": 0.2}}},
    )
    config = made.config("point-robot-wind")
    assert (config.train_updates, config.rac.lam, config.dynamics.hidden) == (600, 0.2, (8,))
    assert made.config("point-robot-wind", 0.0).rac.alpha == 0.0
    assert made.config("point-robot-wind", "adaptive").rac.alpha_mode == "adaptive"
    focal = made.own_config("focal", "point-robot-wind")
    assert focal.context.latent == 3
    assert focal.updates == 600 + config.adapt_updates  # a rival's budget is MerPO's


def test_only_what_changes_a_method_is_varied():
    made = study(
        methods=["bc", "rac", "merpo", "focal"], alpha=[0, "adaptive"], trained_on=["random", "expert"], logs=[5]
    )
    assert made.variants("bc") == [Variant(logs=5)]
    assert made.variants("rac") == [Variant(0.0, 5), Variant("adaptive", 5)]
    assert made.variants("focal") == [Variant(None, 5, "random"), Variant(None, 5, "expert")]
    assert len(made.variants("merpo")) == 4
    assert Variant(0.4, 5, "random").label("merpo") == "merpo, alpha 0.4, trained on random"


def test_a_file_that_is_no_study(tmp_path, capsys):
    path = tmp_path / "s.toml"
    assert main(["bench", str(path), "--out", str(tmp_path / "o")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    path.write_text("name = ")
    assert main(["bench", str(path), "--out", str(tmp_path / "o")]) == 2
    assert "not TOML" in capsys.readouterr().err
    path.write_text('name = "a"\n')
    with pytest.raises(ConfigError, match=r"s\.toml: families is missing"):
        read_study(path)
    assert not (tmp_path / "o").exists()


def test_the_studies_that_ship_can_be_run():
    from pathlib import Path

    files = sorted((Path(__file__).parents[1] / "studies").glob("*.toml"))
    assert {"motivation", "balance", "main", "few_shot"} <= {f.stem for f in files}
    for file in files:
        made = read_study(file)
        assert made.name == file.stem  # the page of results names the file by it
        assert made.about
        assert make_plan(made)
        assert file.read_text().startswith("# ")


def test_the_variants_that_ship_are_read():
    """A dot in an unquoted name is a table in a table."""
    from pathlib import Path

    from merpo.api import ADAPTING
    from merpo.commands.variants import read_variants

    known = {"method", "model", *ADAPTING}
    for file in sorted((Path(__file__).parents[1] / "studies" / "variants").glob("*.toml")):
        found = read_variants(file)
        assert len(found) > 1
        assert all(set(table) <= known for table in found.values())


def test_the_hash_of_data_sees_every_number_and_no_package():
    from dataclasses import replace

    data = linear_set()
    listed = list(data)
    known = data_hash(data.info, listed)
    assert data_hash(replace(data.info, versions=(("numpy", "9"),)), listed) == known
    listed[1].transitions.reward[3] += 1e-6
    changed = data_hash(data.info, listed)
    assert changed != known
    listed[0] = replace(listed[0], reference={"random": 0.0})
    assert data_hash(data.info, listed) != changed
    assert isinstance(study(), Study)


def test_the_settings_that_ship_are_read():
    import json
    from pathlib import Path

    from merpo.algorithms.presets import STANDARD
    from merpo.runs import from_json, merged, to_json

    for file in sorted((Path(__file__).parents[1] / "studies" / "settings").glob("*.json")):
        found = from_json(type(STANDARD), merged(to_json(STANDARD), json.loads(file.read_text())))
        assert found != STANDARD, file.name
