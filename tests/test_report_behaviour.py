"""Records of behaviour policies: pages that say what the numbers say, of the policies that ship."""

import json
from pathlib import Path

import numpy as np
import pytest

from merpo.cli import main
from merpo.errors import ConfigError
from merpo.report.behaviour import behaviour_figure, behaviour_markdown, commands, number
from merpo.report.own_agents import own_markdown
from merpo.report.style import BLUE, VERMILION
from merpo.tasks import families, get_family, shipped, training_record
from merpo.tasks.analytic import is_analytic

pytest.importorskip("matplotlib")
FOLDER = Path(__file__).resolve().parents[1] / "results" / "behaviour"
TRAINED = [name for name in families() if not is_analytic(get_family(name))]


def stored(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", TRAINED)
def test_every_trained_family_has_a_page_made_from_its_numbers(name):
    record = stored(name)
    assert (FOLDER / f"{name}.md").read_text() == behaviour_markdown(record)
    assert (FOLDER / f"{name}.png").stat().st_size > 10_000
    # the record is that of the policies that ship, and has what it takes to train them again
    kept, rows = shipped(name), {row["updates"]: row for row in record["checkpoints"]}
    for i, checkpoint in enumerate(kept.checkpoints):
        row = rows[checkpoint["updates"]]
        assert row["returns"] == checkpoint["returns"]
        assert set(row["qualities"]) == {q for q, chosen in kept.qualities.items() if any(i in c for c in chosen)}
    assert commands(record)[0].startswith(f"merpo behaviour train {name} --out runs/{name} --updates ")
    assert record["recorded_with"]["jax"]
    if kept.reference:
        assert record["expert"] == kept.reference["expert"]


def test_the_overview_has_the_records_figures():
    text = (FOLDER / "README.md").read_text()
    for name in TRAINED:
        record = stored(name)
        e, published = record["expert"], record["published"]
        cells = [number(float(v)) for v in (np.mean(e), min(e), max(e), np.mean(record["random"]))]
        cells.append(published["text"] if published else "none known")
        assert f"| [{name}]({name}.md) | {' | '.join(cells)} |" in text


def test_the_page_of_own_agents_is_made_from_its_numbers():
    record = stored("own_agents")
    assert (FOLDER / "own_agents.md").read_text() == own_markdown(record)
    for run in record["runs"]:
        assert len(run["own"]) == len(run["expert"]) == 100
        row = f"| {run['family']} {run['task']} | {np.mean(run['own']):.0f} | {np.mean(run['expert']):.0f} |"
        assert row in (FOLDER / "README.md").read_text()


def test_a_resumed_run_lists_both_commands():
    legs = [{"from": 0, "updates": 240000}, {"from": 240000, "updates": 290000}]
    made = commands(stored("hopper-params") | {"legs": legs})
    assert [c.split("--updates ")[1] for c in made[:2]] == [
        "240000 --every 20000 --seed 0",
        "290000 --every 20000 --seed 0 --resume",
    ]


def test_the_page_says_what_is_known_of_published_levels():
    assert "895 +- 108 and 671 +- 99" in behaviour_markdown(stored("ant-fwd-back"))
    assert "No published level is known" in behaviour_markdown(stored("walker-2d-params"))


def test_record_from_the_command_line(tmp_path):
    weights = str(shipped("walker-2d-params").folder)
    assert main(["behaviour", "record", weights, "--out", str(tmp_path / "o"), "--updates", "500000"]) == 0
    made = json.loads((tmp_path / "o" / "walker-2d-params.json").read_text())
    assert not made["whole"]
    assert "Only the shipped checkpoints" in (tmp_path / "o" / "walker-2d-params.md").read_text()
    assert len(made["checkpoints"]) == 16
    assert (tmp_path / "o" / "walker-2d-params.png").exists()


def test_a_record_of_another_run_is_refused(tmp_path):
    rows = stored("hopper-params")["checkpoints"]
    for row in rows:
        stem = tmp_path / f"ckpt-{row['updates']:09d}"
        content = {"family": "hopper-params", "version": 1, "seed": 0, "config": {}, "seconds": 1.0, "resumed_at": 0}
        stem.with_suffix(".json").write_text(json.dumps(row | content))
        stem.with_suffix(".safetensors").touch()
    assert training_record(tmp_path, [290000])["checkpoints"] == rows
    with pytest.raises(ConfigError, match=r"updates=\[\]: expected 1 numbers"):
        training_record(tmp_path)
    best = max(rows, key=lambda row: row["mean_return"])
    other = best | content | {"returns": [0.0] * 25}
    (tmp_path / f"ckpt-{best['updates']:09d}.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="Select its checkpoints first"):
        training_record(tmp_path, [290000])


@pytest.mark.parametrize("published", [True, False])
def test_the_figure_shows_the_curve_and_the_published_level(tmp_path, published):
    import matplotlib.image

    record = stored("ant-fwd-back") | ({} if published else {"published": None})
    behaviour_figure(record, tmp_path / "f.png")
    image = matplotlib.image.imread(tmp_path / "f.png")[..., :3]

    def shown(colour):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        return (np.abs(image - rgb).max(-1) < 0.02).any()

    assert shown(BLUE)
    assert shown(VERMILION) == published
