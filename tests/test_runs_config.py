from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merpo.errors import ConfigError
from merpo.runs import config_hash, diff, from_json, to_json


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    hidden: tuple[int, ...] = (256, 256)
    mode: Literal["policy", "logsumexp", 3] = "policy"


@dataclass(frozen=True)
class Leaf:
    index: int
    low: float


@dataclass(frozen=True)
class Outer:
    name: str
    seed: int = 0
    alpha: float = 0.4
    target: float | None = None
    flag: bool = False
    pair: tuple[float, str] = (1.0, "a")
    leaves: tuple[Leaf, ...] = ()
    inner: Inner = field(default_factory=Inner)
    optional: Inner | None = None
    either: int | str = 1

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha={self.alpha}: expected 0 to 1.")


numbers = st.floats(allow_nan=False)
inners = st.builds(
    Inner,
    lr=numbers,
    hidden=st.lists(st.integers()).map(tuple),
    mode=st.sampled_from(["policy", "logsumexp", 3]),
)
outers = st.builds(
    Outer,
    name=st.text(),
    seed=st.integers(),
    alpha=st.floats(0, 1),
    target=st.none() | numbers,
    flag=st.booleans(),
    pair=st.tuples(numbers, st.text()),
    leaves=st.lists(st.builds(Leaf, st.integers(), numbers)).map(tuple),
    inner=inners,
    optional=st.none() | inners,
    either=st.integers() | st.text(),
)


@settings(max_examples=80, deadline=None, database=None)
@given(outers)
def test_round_trip_through_strict_json_text(config):
    text = json.dumps(to_json(config), allow_nan=False)
    again = from_json(Outer, json.loads(text))
    assert again == config
    assert config_hash(again) == config_hash(config)
    assert diff(again, config) == []


def test_missing_settings_take_their_defaults():
    assert from_json(Outer, {"name": "x", "inner": {"lr": 0.1}}) == Outer("x", inner=Inner(lr=0.1))


def test_non_finite_floats_survive():
    data = json.loads(json.dumps(to_json(Inner(lr=-math.inf)), allow_nan=False))
    assert from_json(Inner, data).lr == -math.inf
    assert math.isnan(from_json(Inner, to_json(Inner(lr=math.nan))).lr)


def test_an_int_in_a_float_field_is_the_same_setting():
    assert config_hash(Inner(lr=1)) == config_hash(Inner(lr=1.0))
    assert isinstance(from_json(Inner, {"lr": 1}).lr, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "sead": 1}, r"sead=1: Outer has no such setting. Did you mean 'seed'\?"),
        ({"name": "x", "inner": {"Lr": 1.0}}, r"inner.Lr=1.0.*Did you mean 'inner.lr'\?"),
        ({"name": "x", "qqq": 1}, r"qqq=1.*Known: name, seed"),
        ({}, "name is missing"),
        ({"name": "x", "leaves": [{"index": 1}]}, r"leaves\[0\].low is missing"),
        ({"name": "x", "seed": 1.5}, "seed=1.5: expected int, got float"),
        ({"name": "x", "seed": True}, "seed=True: expected int, got bool"),
        ({"name": "x", "alpha": True}, "alpha=True: expected float"),
        ({"name": "x", "alpha": "0.4"}, "alpha='0.4': expected float, got str"),
        ({"name": "x", "target": "a"}, "target='a': expected float"),
        ({"name": 3}, "name=3: expected str"),
        ({"name": "x", "inner": {"hidden": 256}}, "inner.hidden=256: expected a list"),
        ({"name": "x", "inner": {"hidden": [256, "a"]}}, r"inner.hidden\[1\]='a': expected int"),
        ({"name": "x", "pair": [1.0]}, "expected 2 entries, got 1"),
        (
            {"name": "x", "inner": {"mode": "polici"}},
            "inner.mode='polici': expected one of 'policy', 'logsumexp', 3",
        ),
        ({"name": "x", "inner": 3}, "inner=3: expected a table of settings for Inner"),
        ({"name": "x", "either": 1.5}, "either=1.5: expected int or str"),
        ({"name": "x", "alpha": 2.0}, "alpha=2.0: expected 0 to 1"),
        ([1], "expected a table of settings for Outer"),
    ],
)
def test_bad_settings_are_named(data, message):
    with pytest.raises(ConfigError, match=message):
        from_json(Outer, data)


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(ConfigError, match=r"name=.*cannot be stored"):
        to_json(replace(Outer("x"), name=object()))
    with pytest.raises(ConfigError, match="expected an instance of a dataclass"):
        to_json({"a": 1})


def test_hash_is_the_same_in_another_process():
    code = (
        "from dataclasses import dataclass\nfrom merpo.runs import config_hash\n"
        "@dataclass(frozen=True)\nclass Leaf:\n    index: int\n    low: float\nprint(config_hash(Leaf(3, 0.1)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert out == config_hash(Leaf(3, 0.1))
    assert out != config_hash(Leaf(3, 0.2))


def test_diff_names_every_setting_that_differs():
    a = Outer("x", optional=Inner())
    b = Outer("x", seed=2, inner=Inner(hidden=(64,)))
    lines = diff(a, b)
    assert "seed: 0 -> 2" in lines
    assert "inner.hidden: [256, 256] -> [64]" in lines
    assert any(line.startswith("optional.lr: 0.001 -> (absent)") for line in lines)
    assert diff(to_json(a), b) == lines
