"""Several devices and several processes learn what one device learns, up to rounding.

JAX fixes its devices when it starts, so each case is a process of its own: a CPU that stands for four devices, and two
processes that meet on the loopback. Compilers are told not to optimise: compiling is nearly all that these runs do.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import merpo
from merpo import ConfigError, DynamicsConfig, MerPOConfig, RACConfig, devices, distributed, precision
from merpo.cli import main
from merpo.commands.evaluate import protocol
from merpo.commands.record import read_record
from merpo.data import TaskSet, storage
from merpo.runs import to_json
from toys import linear_info, linear_task

CONFIG = MerPOConfig(
    rac=RACConfig(
        actor_hidden=(4,), critic_hidden=(4,), critic_layer_norm=False, batch=8, rollout_length=2, rollout_rows=4,
        imagine_every=4, buffer=24,
    ),
    dynamics=DynamicsConfig(
        hidden=(), members=2, elites=2, batch=4, meta_iterations=2, inner_steps=2, adapt_steps=4, check_every=2
    ),
    train_updates=8, adapt_updates=8, meta_every=2, meta_steps=2, meta_batch=4, context=1, bc_updates=20,
)  # fmt: skip
TRAIN, TEST = 4, 3
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)
MANY = " --xla_force_host_platform_device_count=4"

COMMANDS = """
import sys
from merpo.cli import main
for args in sys.argv[1].split(";"):
    assert main(args.split()) == 0, args
"""
PLACES = """
import jax, jax.numpy as jnp
from merpo import devices
with devices.use(3):
    mesh = devices.current()
    tell = lambda base, part: base + 0 * part + jax.lax.axis_index(devices.AXIS)
    found = jax.jit(lambda x: devices.by_device(tell, jnp.int32(10), x, mesh))(jnp.zeros(4, jnp.int32))
    print("places", found.tolist(), len(devices.spread(jnp.zeros(6), 6).sharding.device_set))
split, calls = devices.by_device, []
devices.by_device = lambda *args: calls.append(args[-1].size) or split(*args)
"""
CALLS = """
print("calls", len(calls))
assert set(calls) == {3}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders `one`, `three` and `two` with what the processes printed, by name; made once for all test workers."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return _make_runs(tmp_path_factory.mktemp("devices"))
    folder = tmp_path_factory.getbasetemp().parent / f"devices-{run}"
    printed = folder / "printed.json"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            folder.mkdir(exist_ok=True)
            printed.write_text(json.dumps(_make_runs(folder)[1]))
    return folder, json.loads(printed.read_text())


def _make_runs(folder):
    logs = [linear_task(f"task-{i}", 3 + i, seed=i, push=0.2 * (i + 1)) for i in range(TRAIN)]
    logs += [linear_task(f"new-{i}", 3, seed=9 + i, push=0.3 * (i + 1), split="test") for i in range(TEST)]
    storage.save(TaskSet(linear_info(), tuple(logs)), "linear/toy", folder / "data")
    (folder / "config.json").write_text(json.dumps(to_json(replace(CONFIG, matmul_precision="highest"))))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def start(code, *commands, flags=""):
        text = ";".join(f"{c} --config {folder / 'config.json'} --seed 3" if "train" in c else c for c in commands)
        env = {**os.environ, "MERPO_CACHE_DIR": "off", "MERPO_DATA_DIR": str(folder / "data")}
        env["XLA_FLAGS"] = QUICK + flags
        run = [sys.executable, "-c", code, text]
        return subprocess.Popen(run, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def both(name, more=""):
        return f"train linear/toy --out {folder / name} {more}", f"adapt {folder / name} --methods merpo {more}"

    met = (
        f"train linear/toy --out {folder / 'two'} --checkpoint-every 0 --coordinator {address} --processes 2 --process"
    )
    started = {
        "one": start(PLACES + COMMANDS + CALLS, *both("one"), *both("three", "--devices 3"), flags=MANY),
        "two": start(COMMANDS, f"{met} 0"),
        "other": start(COMMANDS, f"{met} 1"),
    }
    try:
        printed = {name: process.communicate(timeout=200)[0] for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
    for name, process in started.items():
        assert process.returncode == 0, f"{name}: {printed[name]}"
    return folder, printed


def assert_close(a, b):
    """Equal up to rounding: 1e-4 of the value, or 5e-5 near zero."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert len(pairs) > 5
    for x, y in pairs:
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", ["three", "two"])
def test_training_gives_what_one_device_gives(runs, name):
    """Four tasks on three devices, which does not divide evenly, and on two processes, which does."""
    folder, _ = runs
    one, several = (merpo.Meta.load(folder / n / "checkpoint.safetensors") for n in ("one", name))
    assert_close(one.learned, several.learned)
    moved = np.ptp(np.asarray(one.learned.meta_actor.net.layers[0].weight))
    assert moved > 0.01


def test_adaptation_gives_what_one_device_gives(runs):
    folder, _ = runs
    one, three = (merpo.PolicySet.load(folder / n / "policies" / "merpo.safetensors") for n in ("one", "three"))
    assert one.tree.actor.net.layers[0].weight.shape[:2] == (1, TEST)
    assert_close(one.tree, three.tree)


def test_jobs_are_on_their_devices(runs):
    _, printed = runs
    assert "places [10, 10, 11, 11] 3" in printed["one"]
    assert int(printed["one"].split("calls ")[1]) >= 4  # the meta-model, the models, imagination, RAC


def test_only_the_first_process_writes_and_the_record_says_what_took_part(runs):
    folder, printed = runs
    assert "Run folder" in printed["two"]
    assert "Run folder" not in printed["other"]
    found = {n: json.loads((folder / n / "versions.json").read_text()) for n in ("one", "three", "two")}
    assert [(v["devices"], v["processes"]) for v in found.values()] == [(1, 1), (3, 1), (2, 2)]
    precision = "highest (float32 on a CPU)"
    assert {v["matmul_precision"] for v in found.values()} == {precision}
    evaluated = protocol(
        read_record(folder / "one"), TaskSet(linear_info(), (linear_task("new", 1, 0),)), folder / "one", 1, {}
    )
    assert evaluated.precision == f"float32, matmul precision {precision}"
    assert evaluated.versions["device"] == "cpu"
    assert "simulated with" not in evaluated.versions
    assert not (folder / "two" / "resume").exists()


def test_results_name_the_device_that_learned_and_the_one_that_simulated(runs):
    folder, _ = runs
    path = folder / "one" / "versions.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"device": "NVIDIA H100"}))
    try:
        evaluated = protocol(
            read_record(folder / "one"), TaskSet(linear_info(), (linear_task("new", 1, 0),)), folder / "one", 1, {}
        )
    finally:
        path.write_text(before)
    assert evaluated.versions["device"] == "NVIDIA H100"
    assert evaluated.versions["simulated with"] == f"jax {jax.__version__} on cpu"


@pytest.mark.parametrize(
    ("backend", "group", "widths", "expected"),
    [
        ("cpu", None, (128, 128), 1),
        ("cpu", None, (64, 64), 10),
        ("cpu", None, (), 1),
        ("cpu", 3, (128,), 3),
        ("gpu", None, (128,), sys.maxsize),
        ("gpu", None, (), sys.maxsize),
        ("gpu", 5, (128,), 5),
    ],
)
def test_an_accelerator_takes_all_jobs_at_once(monkeypatch, backend, group, widths, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert devices.batched(group, widths) == expected


def test_what_does_not_fit_is_refused(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"devices=2: expected 1 to 1.*xla_force_host"), devices.use(2):
        pass
    with pytest.raises(ConfigError, match="matmul_precision='fp8': expected one of default, tf32"):
        precision.check("fp8")
    assert main(["train", "linear/toy", "--out", str(tmp_path / "run"), "--precision", "fp8"]) == 2
    assert "fp8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    for bad in (("here:1", 2, None), ("here", 2, 0), ("here:70000", 2, 0), ("here:1", 2, 2)):
        with pytest.raises(ConfigError, match="expected"):
            distributed.initialize(*bad)


@pytest.mark.parametrize(("name", "algorithm"), [("bf16", "BF16_BF16_F32"), ("highest", "HIGHEST"), ("tf32", "HIGH")])
def test_products_are_compiled_in_the_precision_asked_for(name, algorithm):
    x = np.ones((2, 2), np.float32)

    def made():
        return jax.jit(lambda a, b: a @ b).trace(x, x).jaxpr

    with precision.use(name):
        assert algorithm in str(made())
    assert algorithm not in str(made())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only where the system tells a process's mappings")
def test_compiled_functions_go_when_mappings_run_out(monkeypatch):
    compiled = jax.jit(lambda x: x + 1)
    compiled(jnp.zeros(3))
    monkeypatch.setattr(devices, "MAPPINGS", 10**9)
    devices.spare_mappings()
    assert compiled._cache_size() == 1
    monkeypatch.setattr(devices, "MAPPINGS", 10)
    devices.spare_mappings()
    assert compiled._cache_size() == 0
