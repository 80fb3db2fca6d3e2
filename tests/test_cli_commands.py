"""The commands end to end on tiny settings, through the real entry point."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import onnxruntime
import pytest

import merpo
from merpo.cli import main
from merpo.commands import adapt as adapt_module
from merpo.commands import evaluate as evaluate_module
from merpo.commands import quickstart as quickstart_module
from merpo.commands.record import read_record
from merpo.evaluation import results_from_json
from merpo.runs import read_metrics

TINY = {
    "train_updates": 20,
    "adapt_updates": 20,
    "bc_updates": 20,
    "meta_every": 10,
    "meta_steps": 1,
    "group": 1,
    "rac": {
        "actor_hidden": [4],
        "critic_hidden": [4],
        "batch": 8,
        "rollout_length": 1,
        "rollout_rows": 10,
        "imagine_every": 10,
        "buffer": 20,
    },
    "dynamics": {
        "hidden": [4],
        "members": 2,
        "elites": 1,
        "batch": 8,
        "meta_iterations": 2,
        "inner_steps": 1,
        "adapt_steps": 2,
        "check_every": 1,
    },
}
SET = "point-robot-wind/medium"


@pytest.fixture(scope="module")
def home(home, whole_commands):
    """With a file of tiny settings."""
    (home / "tiny.json").write_text(json.dumps(TINY))
    return home


def train(home, out, *more):
    return main(["train", SET, "--out", str(out), "--episodes", "2", "--config", str(home / "tiny.json"), *more])


@pytest.fixture(scope="module")
def run(home):
    """A run folder trained with two seeds, adapted to two tasks and evaluated."""
    out = home / "run"
    assert train(home, out, "--seeds", "0", "3", "--alpha", "0.3") == 0
    assert main(["adapt", str(out), "--tasks", "task-041", "task-044", "--episodes", "1"]) == 0
    assert main(["evaluate", str(out), "--episodes", "2", "--results", str(home / "copy.json")]) == 0
    return out


def test_a_run_folder_records_settings_data_and_metrics(run):
    record = read_record(run)
    assert (record.data.name, record.data.episodes, record.data.seed) == (SET, 2, 0)
    assert record.seeds == (0, 3)
    assert record.train_tasks == 40
    assert {"train", "evaluate", "adapt merpo"} <= set(record.seconds)
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["rac"]["alpha"] == 0.3
    assert config["rac"]["actor_hidden"] == [4]
    steps = [row["step"] for row in read_metrics(run) if "critic/td" in row]
    assert steps == [10, 20]
    assert (run / "curves" / "train.safetensors").exists()
    assert [r["step"] for r in read_metrics(run / "curves" / "merpo.jsonl")] == [10, 20]


def test_stored_policies_are_those_of_the_checkpoint(run, home):
    meta = merpo.Meta.load(run / "checkpoint.safetensors")
    assert meta.seeds == (0, 3)
    tasks = [t.select([0]) for t in merpo.load(SET, episodes=2).test if t.name in ("task-041", "task-044")]
    again = meta.adapt_many(tasks, "merpo")
    stored = merpo.PolicySet.load(run / "policies" / "merpo.safetensors")
    assert stored.tasks == ("task-041", "task-044")
    obs = np.asarray([[0.3, -0.2]], np.float32)
    for seed in (0, 3):
        np.testing.assert_array_equal(stored.policy("task-044", seed)(obs), again.policy("task-044", seed)(obs))


def test_what_is_said_of_updates_is_what_small_logs_had(run, monkeypatch):
    """20 updates of full logs of 80 rows, ten to a round; a certificate keeps half of the log from learning."""
    record, known = read_record(run), evaluate_module.run_config(run)
    monkeypatch.setattr(evaluate_module, "run_config", lambda folder: replace(known, full_log=80))
    data = merpo.load(SET, episodes=2)
    both = replace(data, tasks=(data.test[0], data.test[1].select([0])))
    one = replace(
        data, tasks=(replace(data.test[0], transitions=four(data.test[0]), episode_start=np.arange(0, 81, 20)),)
    )
    certified = replace(record, adapted={**record.adapted, "certified": True})

    def said(record, tasks, policies=None):
        return evaluate_module.protocol(record, tasks, run, 2, policies or {}).budget

    assert "20 updates (merpo: 10, by the size of the log) or" in said(record, both)
    assert "20 updates or" in said(record, one)
    assert "20 updates (merpo: 10, by the size of the log) or" in said(certified, one)
    assert "20 updates (merpo: 10 to 20, by" in said(record, replace(data, tasks=(*both.tasks, *one.tasks)))

    stored = {m: merpo.PolicySet.load(run / "policies" / f"{m}.safetensors") for m in ("rac", "merpo")}
    kept = {m: replace(p, cloned=((m == "merpo", False), (False, m == "merpo"))) for m, p in stored.items()}
    assert said(record, both, stored).endswith(" (bc)")
    assert said(record, both, kept).endswith("; the behaviour's clone in the policy's place: merpo 2 of 4")


def four(task):
    """The task's two episodes twice."""
    return jax.tree.map(lambda x: np.concatenate([x, x]), task.transitions)


def test_evaluation_writes_complete_results(run, home):
    results = results_from_json(json.loads((run / "results.json").read_text()))
    assert list(results.returns) == ["meta-policy", "bc", "rac", "merpo"]
    assert all(r.shape == (2, 2, 2) for r in results.returns.values())
    logged = [t.select([0]).returns().mean() for t in merpo.load(SET, episodes=2).test]
    np.testing.assert_allclose(results.behaviour, [logged[1], logged[4]])
    assert results.normalisable
    assert "20 updates" in results.protocol.budget
    assert results.protocol.versions["jax"]
    assert results.protocol.wall_time_s > 0
    assert (home / "copy.json").read_bytes() == (run / "results.json").read_bytes()
    assert "| method |" in (run / "results.md").read_text()
    assert (run / "returns.png").stat().st_size > 10_000


def test_estimates_need_no_simulator_and_are_judged_where_there_is_one(run, home, capsys, monkeypatch):
    from merpo.evaluation import ESTIMATORS

    results = results_from_json(json.loads((run / "results.json").read_text()))
    out = home / "estimates.json"
    with monkeypatch.context() as patch:
        for name in ("rollout", "simulator"):
            patch.setattr(f"merpo.tasks.family.Family.{name}", _forbidden)
        assert main(["estimate", str(run), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert len(found["rows"]) == 4 * 2 * 2  # methods, seeds, tasks
    assert not found["held_back"]
    assert set(found["agreement"]) == set(ESTIMATORS)
    assert all(row["n"] == 16 for row in found["agreement"].values())
    said = capsys.readouterr().out
    assert f"logged return {np.mean(results.behaviour):.4g}" in said
    assert all(e in said for e in ESTIMATORS)
    true = [results.returns[r["method"]][results_seed(r), results.tasks.index(r["task"])].mean() for r in found["rows"]]
    bias = np.mean([r["fitted Q"] for r in found["rows"]]) - np.mean(true)
    assert found["agreement"]["fitted Q"]["bias"] == pytest.approx(bias, abs=1e-3)
    assert out.with_suffix(".md").read_text().startswith("Off-policy estimates against simulated returns")


def results_seed(row):
    return (0, 3).index(row["seed"])


def _forbidden(*args, **kwargs):
    raise AssertionError("an estimate must not simulate")


def test_adapting_to_something_else_removes_the_old_policies(run, home, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert main(["adapt", str(copy), "--tasks", "task-041", "task-044", "--methods", "bc"]) == 0
    assert sorted(p.stem for p in (copy / "policies").iterdir()) == ["bc"]
    assert read_record(copy).adapted["methods"] == ["bc"]
    assert main(["evaluate", str(copy), "--episodes", "1", "--no-figure"]) == 0
    results = results_from_json(json.loads((copy / "results.json").read_text()))
    assert list(results.returns) == ["meta-policy", "bc"]
    assert f"next: merpo evaluate {copy}" in capsys.readouterr().out
    monkeypatch.setattr("merpo.tasks.families", lambda: ())
    assert main(["adapt", str(copy), "--tasks", "task-041", "--methods", "bc"]) == 0
    assert f"next: merpo estimate {copy}" in capsys.readouterr().out


def test_variants_are_methods_of_their_own(run, tmp_path, monkeypatch):
    copy, file = tmp_path / "copy", tmp_path / "variants.toml"
    shutil.copytree(run, copy)
    file.write_text(
        '[same]\n\n[longer]\nadapt_updates = 40\n\n[alone]\n"rac.rollout_length" = 0\n\n[scratch]\nmodel = "scratch"\n'
        "\n[short]\nfull_log = 40\n"
        '\n[held]\nmethod = "combo"\ncombo_beta = 9.0\n\n[plain]\nmethod = "combo"\n'
        '\n[nothing]\nmethod = "rac"\nmodel = "scratch"\n'
    )
    call = ["adapt", str(copy), "--tasks", "task-041", "task-044", "--episodes", "1", "--variants", str(file)]
    made, real = [], merpo.Meta.scratch_models
    monkeypatch.setattr(merpo.Meta, "scratch_models", lambda *args, **more: made.append(1) or real(*args, **more))
    assert main(call) == 0
    assert made == [1]  # once for both variants that have them
    names = ["meta-policy", "bc", "rac", "merpo", "merpo-same", "merpo-longer", "merpo-alone", "merpo-scratch"]
    names += ["merpo-short", "combo-held", "combo-plain", "rac-nothing"]
    assert read_record(copy).adapted["methods"] == names  # the others are still there
    assert read_record(copy).adapted["variants"]["merpo-longer"] == {"adapt_updates": 40}
    sets = {n: merpo.PolicySet.load(copy / "policies" / f"{n}.safetensors") for n in names}
    obs = np.asarray([[0.3, -0.2]], np.float32)
    act = {n: s.policy("task-044", 3)(obs) for n, s in sets.items()}
    np.testing.assert_array_equal(act["merpo-same"], act["merpo"])
    assert all(abs(act[n] - act["merpo"]).max() > 0 for n in names[5:])
    assert abs(act["combo-held"] - act["combo-plain"]).max() > 0
    assert abs(act["rac-nothing"] - act["rac"]).max() > 0
    assert [r["step"] for r in read_metrics(copy / "curves" / "merpo-longer.jsonl")] == [10, 20, 30, 40]
    assert [r["step"] for r in read_metrics(copy / "curves" / "merpo-short.jsonl")] == [10]
    assert main(["evaluate", str(copy), "--episodes", "1", "--no-figure"]) == 0
    assert list(results_from_json(json.loads((copy / "results.json").read_text())).returns) == names

    # --resume makes only what is missing or is now another variant
    before = {n: (copy / "policies" / f"{n}.safetensors").stat().st_mtime_ns for n in names}
    file.write_text("[same]\n\n[longer]\nadapt_updates = 30\n")
    assert main([*call, "--resume"]) == 0
    changed = {n for n in names if (copy / "policies" / f"{n}.safetensors").stat().st_mtime_ns != before[n]}
    assert changed == {"merpo-longer"}

    # killed between two variants that both changed: the one that was not made again keeps its old settings on record
    file.write_text("[same]\nbc_updates = 10\n\n[longer]\nadapt_updates = 20\n")
    monkeypatch.setattr(adapt_module, "_varied", _stops_at("merpo-longer"))
    assert main([*call, "--resume"]) == 130
    kept = read_record(copy).adapted["variants"]
    assert kept["merpo-same"] == {"bc_updates": 10}
    assert kept["merpo-longer"] == {"adapt_updates": 30}


def _stops_at(name, real=adapt_module._varied):
    def varied(meta, method, *rest):
        if method == name:
            raise KeyboardInterrupt
        return real(meta, method, *rest)

    return varied


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a table"),
        ("[A-b]\n", "names a file"),
        ("x = 3\n", "expected a table of settings"),
        ("[x]\nmodel = 'none'\n", "expected 'meta' or 'scratch'"),
        ("[x]\nmethod = 'bc'\n", "method='bc': expected any of 'merpo', 'rac', 'combo', 'combo+meta-model'"),
        ("[x]\nmethod = 'combo'\n'rac.beta' = 3.0\n", "COMBO's conservatism is `combo_beta`"),
        ("[x]\nmethod = 'combo'\nmodel = 'scratch'\n", "only variants of merpo and rac have a choice of models"),
        ("[x]\n'rac.alfa' = 0.1\n", "rac.alfa"),
        ("[x]\n'rac.alpha' = 2.0\n", "alpha=2.0"),
        ("[x]\ncontext = 3\n", "settled in training"),
        ("[x]\n'rac.actor_hidden' = [5]\n", "settled in training"),
        ("[x\n", "not TOML"),
    ],
)
def test_wrong_variants_are_refused_before_anything_is_made(run, tmp_path, capsys, text, says):
    file = tmp_path / "variants.toml"
    file.write_text(text)
    before = sorted((run / "policies").iterdir())
    assert says in complaint(capsys, ["adapt", run, "--variants", file])
    assert sorted((run / "policies").iterdir()) == before


def test_an_exported_policy_is_the_run_s(run, tmp_path, capsys):
    out = tmp_path / "p.onnx"
    assert main(["export", str(run), "--task", "task-044", "--seed", "3", "--out", str(out)]) == 0
    assert "No certificate was asked for" in capsys.readouterr().out
    obs = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"observation": obs})
    policy = merpo.PolicySet.load(run / "policies" / "merpo.safetensors").policy("task-044", 3)
    half = np.asarray(policy.preparation.action_half)
    np.testing.assert_allclose(found / half, policy(obs) / half, rtol=0, atol=1e-5)
    card = json.loads((tmp_path / "p.onnx.card.json").read_text())
    assert card["data"]["log"]["episodes"] == 1
    assert card["run"]["data_set"]["name"] == SET
    assert card["run"]["trained_on"]["seeds"] == [0, 3]
    assert card["method"]["seed"] == 3
    assert "expected one of task-041, task-044" in complaint(capsys, ["export", run, "--out", out])
    assert "no policies of 'bc'" in complaint(
        capsys, ["export", _without(run, tmp_path), "--method", "bc", "--out", out]
    )


def _without(run, tmp_path):
    """A copy of the run whose record has no clones."""
    folder = shutil.copytree(run, tmp_path / "without")
    record = json.loads((folder / "run.json").read_text())
    record["adapted"]["methods"].remove("bc")
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_report_of_two_runs_and_their_comparison(run, copy, tmp_path, capsys):
    page = tmp_path / "report.html"
    assert main(["report", str(run), str(copy), "--out", str(page), "--no-model"]) == 0
    text = page.read_text()
    assert "Comparison on 2 common tasks" in text
    assert text.count("<h3>What the policies do</h3>") == 2
    capsys.readouterr()
    assert main(["compare", str(run), str(copy), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["better"][0][1]["value"] == 0.5
    assert found["tasks"] == ["task-041", "task-044"]
    assert (
        main(
            ["compare", str(run), str(copy / "results.json"), "--methods", "bc", "--out", str(tmp_path / "a" / "c.md")]
        )
        == 0
    )
    assert "0.50" in capsys.readouterr().out
    assert "given twice" in complaint(capsys, ["report", run, run, "--out", page])
    assert "no finished run" in complaint(capsys, ["report", tmp_path, "--out", page])
    (copy / "results.json").unlink()
    assert "merpo evaluate" in complaint(capsys, ["compare", run, copy])


def test_a_report_checks_the_model_on_held_out_data(run, tmp_path):
    page = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(page), "--no-simulate"]) == 0
    text = page.read_text()
    assert "On held-out episodes of 2 new tasks the model explains" in text
    assert "What the policies do" not in text
    for head in (
        "Does the model know its limits?",
        "How fast imagination drifts",
        "Where imagined and real states differ",
    ):
        assert head in text


def test_metrics_in_tensorboard(run, tmp_path):
    assert main(["track", str(run), "--out", str(tmp_path / "tb")]) == 0
    (path,) = (tmp_path / "tb").iterdir()
    assert b"critic/td" in path.read_bytes()


def complaint(capsys, args):
    assert main([str(a) for a in args]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    return err


def test_adapting_with_certificates_says_what_is_certified(copy, capsys):
    assert (
        main(
            [
                "adapt",
                str(copy),
                "--methods",
                "merpo",
                "--tasks",
                "task-041",
                "--certify",
                "--choose-alpha",
                "0.2",
                "0.6",
            ]
        )
        == 0
    )
    assert "0 of 1 policies certified" in capsys.readouterr().out
    stored = json.loads((copy / "certificates.json").read_text())
    assert list(stored) == ["merpo"]
    assert "log too small" in stored["merpo"]["3"][0]["sentence"]
    adapted = read_record(copy).adapted
    assert adapted["certified"] is True
    assert adapted["choices"]["alpha"] == [0.2, 0.6]
    assert stored["merpo"]["3"][0]["settings"]["alpha"] in (0.2, 0.6)
    policies = merpo.PolicySet.load(copy / "policies" / "merpo.safetensors")
    policy = policies.policy(0, 3)
    assert policy.certificate.to_json() == stored["merpo"]["3"][0]
    assert policy.stands_in
    out = copy / "p.onnx"
    assert "not the adapted policy" in complaint(capsys, ["export", copy, "--insist", "--out", out])
    assert main(["export", str(copy), "--out", str(out)]) == 0
    assert "clone of the logged behaviour in its place" in capsys.readouterr().out
    assert json.loads((copy / "p.onnx.card.json").read_text())["method"]["stands_in"] is True


def test_insisted_policies_are_exported_only_if_one_insists_again(copy, capsys):
    out = copy / "p.onnx"
    to = ["--tasks", "task-041", "--certify", "--insist"]
    assert main(["adapt", str(copy), "--methods", "merpo", *to]) == 0
    assert not merpo.PolicySet.load(copy / "policies" / "merpo.safetensors").policy(0).stands_in
    assert "not certified" in complaint(capsys, ["export", copy, "--out", out])
    assert not out.exists()
    assert main(["export", str(copy), "--insist", "--out", str(out)]) == 0
    adapted = out.read_bytes()
    # with clones in the run, one of them is what is exported
    assert main(["adapt", str(copy), "--methods", "bc", *to]) == 0
    assert main(["export", str(copy), "--out", str(out)]) == 0
    assert "clone of the logged behaviour" in capsys.readouterr().out
    assert out.read_bytes() != adapted


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_a_run_folder_that_exists_is_kept(home, copy, capsys):
    before = (copy / "checkpoint.safetensors").read_bytes()
    assert train(home, copy) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (copy / "checkpoint.safetensors").read_bytes() == before
    assert (copy / "policies" / "merpo.safetensors").exists()


def learned_files(folder):
    names = ("checkpoint.safetensors", "metrics.jsonl", "curves/train.safetensors", "policies/merpo.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def test_stopped_commands_are_resumed_to_the_same_bits(home, run, tmp_path, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    out, flags = tmp_path / "resumed", ("--seeds", "0", "3", "--alpha", "0.3", "--checkpoint-every", "0")
    with monkeypatch.context() as patch:
        patch.setattr(merpo.Meta, "save", stop)
        assert train(home, out, *flags, "--resume") == 130  # begins it
    assert sorted(p.name for p in (out / "resume").glob("*")) == [
        ".lock", "meta-model-0.safetensors", "meta-model-3.safetensors", "meta-training.safetensors",
        "models-0.safetensors", "models-3.safetensors", "pooled-model-0.safetensors", "pooled-model-3.safetensors", "work.json",
    ]  # fmt: skip
    capsys.readouterr()
    assert train(home, out, *flags) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert train(home, out, "--seeds", "0", "4", "--alpha", "0.3", "--resume") == 2
    assert "seeds: [0, 3] -> [0, 4]" in capsys.readouterr().err
    assert train(home, out, "--seeds", "0", "3", "--resume") == 2
    assert "rac.alpha: 0.3 -> " in capsys.readouterr().err
    assert train(home, out, *flags, "--resume", "--overwrite") == 2
    assert "contradict" in capsys.readouterr().err
    assert "no finished run" in complaint(capsys, ["adapt", out])
    assert train(home, out, *flags, "--resume") == 0
    assert not (out / "resume").exists()

    adapting = ["adapt", str(out), "--tasks", "task-041", "task-044", "--episodes", "1", "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr("merpo.commands.adapt.save_curves", stop)  # in rac, after meta-policy and bc
        assert main([*adapting, "--checkpoint-every", "0"]) == 130
    assert read_record(out).adapted["methods"] == ["meta-policy", "bc"]
    begun = {p.name: p.stat().st_mtime_ns for p in (out / "policies").glob("[bm]*")}
    assert main(adapting) == 0
    assert {p.name: p.stat().st_mtime_ns for p in (out / "policies").glob("[bm]*")}.items() >= begun.items()
    assert read_record(out).adapted == read_record(run).adapted
    assert learned_files(out) == learned_files(run)
    assert not (out / "resume").exists()

    capsys.readouterr()
    assert train(home, out, *flags, "--resume") == 0
    assert "finished already" in capsys.readouterr().out
    assert train(home, out, "--seeds", "0", "--alpha", "0.3", "--resume") == 2
    assert "finished run with seeds=(0, 3), not (0,)" in capsys.readouterr().err
    assert learned_files(out) == learned_files(run)


def test_checkpoint_of_another_configuration(copy, capsys):
    record = json.loads((copy / "config.json").read_text())
    record["config"]["rac"]["lam"] = 0.77
    (copy / "config.json").write_text(json.dumps(record))
    err = complaint(capsys, ["adapt", copy])
    assert "another configuration" in err
    assert "rac.lam" in err


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_damaged_checkpoint(copy, capsys, damage):
    path = copy / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-100]
    else:
        content[-1] ^= 1
    path.write_bytes(content)
    assert "checkpoint" in complaint(capsys, ["adapt", copy])


def test_unknown_tasks_methods_and_nothing_adapted(copy, capsys):
    assert "task-999" in complaint(capsys, ["adapt", copy, "--tasks", "task-999"])
    assert "methods='sarsa'" in complaint(capsys, ["adapt", copy, "--methods", "sarsa"])
    assert "episodes=0" in complaint(capsys, ["adapt", copy, "--episodes", "0"])
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "adapted": {}}))
    assert "merpo adapt" in complaint(capsys, ["evaluate", copy])


def test_data_commands(home, capsys):
    assert (
        main(["data", "generate", "point-robot-goal", "--quality", "random", "--episodes", "1", "--name", "my/set"])
        == 0
    )
    assert main(["data", "list"]) == 0
    assert "my/set" in capsys.readouterr().out
    assert main(["data", "info", "my/set", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_tasks"] == 80
    assert main(["data", "check", "my/set"]) == 0
    assert "can be learned from" in capsys.readouterr().out
    assert main(["data", "generate", "point-robot-goal", "--episodes", "1", "--name", "my/set"]) == 2
    assert "already" in capsys.readouterr().err


def test_behaviour_list_shows_recorded_returns(home, capsys):
    assert main(["behaviour", "list"]) == 0
    out = capsys.readouterr().out
    assert "half-cheetah-fwd-back" in out
    assert "expert" in out


@pytest.mark.slow
def test_quickstart(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart_module, "EPISODES", 2)
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as here, in the processes of the two families
    args = ["quickstart", "--out", str(tmp_path / "q"), "--config", str(home / "tiny.json"), "--verbose"]
    assert main(args) == 0
    out = capsys.readouterr().out
    for name, tasks in (("point-robot-goal", 20), ("point-robot-wind", 10)):
        folder = tmp_path / "q" / name
        assert (folder / "paths.png").stat().st_size > 10_000
        assert (folder / "returns.png").stat().st_size > 10_000
        assert f"of {tasks} unseen tasks" in out
        assert f"Stage times of {name}" in out
    assert "blind to the wind" in out


def script(home, *args):
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "merpo.cli", *args], capture_output=True, text=True, env=env, check=False
    )


def test_help_names_every_command():
    done = script(None, "--help")
    assert done.returncode == 0
    for command in ("train", "adapt", "evaluate", "export", "report", "compare", "track", "data", "quickstart"):
        assert command in done.stdout


def test_an_error_is_one_line_without_a_traceback(home):
    done = script(home, "data", "info", "no/such-set")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "no/such-set" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    shown = script(home, "data", "info", "no/such-set", "--debug")
    assert "Traceback" in shown.stderr
