"""On how many tasks MerPO is at or above its anchors, and the table of it from stored results."""

import json

import numpy as np
import pytest

from merpo.cli import main
from merpo.errors import DataError
from merpo.evaluation import Protocol, Results, Share, over_anchors, results_to_json
from merpo.report.overview import overview


def test_shares_follow_from_the_means_and_from_the_worst_of_few_runs():
    # three runs, four tasks, one episode; behaviour 0 everywhere
    mine = np.array([[3.0, 1.0, -1.0, 2.0], [3.0, 1.0, -1.0, 2.0], [3.0, -1.0, -1.0, 2.0]])[..., None]
    meta = np.array([[1.0, 0.0, -2.0, 3.0], [1.0, 0.0, -2.0, 3.0], [1.0, 0.0, -2.0, 0.5]])[..., None]
    found = over_anchors(mine, meta, np.zeros(4))
    # of three runs the 2.5 % quantile of a resampled mean is that of the worst run drawn three times (1/27 = 3.7 %)
    assert found.behaviour == Share(point=0.75, sure=0.5)
    assert found.meta == Share(point=0.75, sure=0.5)
    assert found.both == Share(point=0.5, sure=0.25)


def test_the_difference_to_the_meta_policy_is_that_of_the_same_seed():
    shared = np.array([-10.0, 0.0, 10.0])[:, None, None]  # what a seed does to both drops out
    meta = shared + np.zeros((3, 2, 4))
    assert over_anchors(meta + 0.1, meta, np.full(2, -100.0)).meta == Share(1.0, 1.0)
    assert over_anchors(meta + 0.1, meta[::-1], np.full(2, -100.0)).meta == Share(1.0, 0.0)


def test_a_single_run_is_resampled_over_its_episodes_and_a_single_number_not_at_all():
    rng = np.random.default_rng(0)
    mine = 1.0 + rng.normal(size=(1, 2, 400)) * np.array([0.1, 100.0])[None, :, None]
    mine -= mine.mean(-1, keepdims=True) - 1.0
    assert over_anchors(mine, mine - 5.0, np.zeros(2)).behaviour == Share(1.0, 0.5)
    assert over_anchors(mine[..., :1], mine[..., :1], np.zeros(2)).behaviour.sure is None


@pytest.mark.parametrize(("meta", "behaviour"), [((2, 3, 4), (2,)), ((3, 2, 4), (3,)), ((3, 2, 1), (2,))])
def test_shapes_that_do_not_belong_together_are_refused(meta, behaviour):
    with pytest.raises(DataError, match="same runs, tasks and episodes"):
        over_anchors(np.zeros((3, 2, 4)), np.zeros(meta), np.zeros(behaviour))


def stored(folder, stem, family, quality, seeds, ours=5.0):
    shape = (seeds, 2, 3)
    returns = {"meta-policy": np.full(shape, 2.0), "bc": np.full(shape, 3.0), "merpo": np.full(shape, ours)}
    returns |= {"merpo-alpha-04": np.full(shape, 9.0)}
    results = Results(
        family, quality, ("a", "b"), returns, np.array([1.0, 7.0]), Protocol(episodes=3, seeds=tuple(range(seeds)))
    )
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{stem}.json").write_text(json.dumps(results_to_json(results)))


def study(folder, seeds, **changed):
    rows = [("behaviour", [[1.0, 7.0]]), ("meta-policy", [[2.0, 2.0]] * seeds), ("merpo", [[5.0, 8.0]] * seeds)]
    group = {"family": "plant", "quality": "medium", "logs": None}
    group["rows"] = [{"label": label, "returns": returns} for label, returns in rows]
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"study": {}, "groups": [group | changed]}))


def test_the_overview_has_a_row_for_every_stored_run_in_the_order_of_qualities(tmp_path):
    stored(tmp_path / "plant", "medium", "plant", "medium", 2)
    stored(tmp_path / "plant", "random", "plant", "random", 2, ours=10.0)
    stored(tmp_path / "plant", "random-other", "plant", "random", 5)  # a variant, not the run
    (tmp_path / "plant" / "expert.json").write_text("{")
    rows = overview(tmp_path, "../results")[2:4]
    assert [r.split("|")[1].strip() for r in rows] == [
        "[plant/random](../results/plant/random.md)",
        "[plant/medium](../results/plant/medium.md)",
    ]
    cells = [c.strip() for c in rows[1].strip("|").split("|")]
    assert cells[1:6] == ["2", "2", "4.00", "2.00", "bc 3.00"], "a variant of MerPO is no rival"
    assert cells[6:] == ["5.00 [5.00, 5.00]", "50% (50%)", "100% (100%)", "50% (50%)"]


def test_single_tasks_are_counted_by_kind(tmp_path):
    stored(tmp_path / "plant", "medium", "plant", "medium", 2)  # the data have 1 and 7, MerPO 5
    stored(tmp_path / "mill", "medium", "mill", "medium", 2)
    stored(tmp_path / "plant", "random", "plant", "random", 2, ours=10.0)
    stored(tmp_path / "point-robot-x", "expert", "point-robot-x", "expert", 2, ours=1.5)  # its meta-policy 2
    assert overview(tmp_path, "r")[-2] == (
        "Single tasks on which MerPO is at or above both (surely): point robots, other logs: 0 of 2 (0);"
        " other families, random logs: 2 of 2 (2); other families, other logs: 2 of 4 (2)."
    )


def test_the_best_other_is_looked_for_in_every_file_about_the_same_logs(tmp_path):
    stored(tmp_path / "plant", "medium", "plant", "medium", 2)
    rival = {"focal": np.full((1, 2, 3), 4.0), "bc": np.full((1, 2, 3), 8.0)}
    for folder, behaviour in (("other-logs", [1.0, 7.5]), ("same-logs", [1.0, 7.0])):
        results = Results("plant", "medium", ("a", "b"), rival, np.array(behaviour), Protocol(episodes=3, seeds=(0,)))
        (tmp_path / "rivals" / folder).mkdir(parents=True)
        (tmp_path / "rivals" / folder / "focal.json").write_text(json.dumps(results_to_json(results)))
        shown = overview(tmp_path, "r")[2]
        # of a method that both files have, the run's own row counts
        assert ("focal 4.00" if folder == "same-logs" else "bc 3.00") in shown


def test_a_study_takes_a_runs_place_where_it_has_more_seeds(tmp_path):
    stored(tmp_path / "plant", "medium", "plant", "medium", 2)
    study(tmp_path / "many", 3)
    assert "[plant/medium](r/many/table.md) | 2 | 3 | 4.00 | 2.00 | bc 3.00 | 6.50" in overview(tmp_path, "r")[2]


def test_a_page_gets_the_table_between_its_marks_and_is_left_alone_without_them(tmp_path):
    stored(tmp_path / "results" / "plant", "medium", "plant", "medium", 2)
    page, readme = tmp_path / "page.md", tmp_path / "README.md"
    asked = ["results", "--root", str(tmp_path / "results"), "--out", str(page), "--readme", str(readme)]
    readme.write_text("Before.\n<!-- merpo results: begin -->\nold\n")
    assert main(asked) == 2
    assert not page.exists()
    assert readme.read_text().endswith("old\n")
    readme.write_text(readme.read_text() + "<!-- merpo results: end -->\nAfter.\n")
    for _ in range(2):  # the second time changes nothing
        assert main(asked) == 0
        lines = readme.read_text().splitlines()
        assert (lines[0], lines[-1]) == ("Before.", "After.")
        assert "old" not in lines
        assert sum("[plant/medium](results/plant/medium.md)" in line for line in lines) == 1
    assert "[plant/medium](results/plant/medium.md)" in page.read_text()


def test_groups_of_few_logs_and_empty_folders_are_left_out(tmp_path):
    assert overview(tmp_path, "r") == []
    study(tmp_path / "few", 3, logs=5)
    assert overview(tmp_path, "r") == []
