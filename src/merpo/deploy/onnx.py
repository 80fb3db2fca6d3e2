"""A policy as an ONNX graph, written node by node: raw observations in, actions in the user's units out.

The actor is a perceptron, so the graph is a dozen standard operators. Tracing JAX instead (jax2onnx) would bring flax,
orbax and a model hub's client for the same dozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from merpo.data import Preparation
from merpo.errors import ConfigError
from merpo.networks import Actor

INPUT, OUTPUT = "observation", "action"
OPSET, IR_VERSION = 17, 8
"""Of 2022: what every runtime since ONNX Runtime 1.12 reads."""


def onnx_bytes(actor: Actor, preparation: Preparation, metadata: Mapping[str, str]) -> bytes:
    """The deterministic policy `observation` float32 [batch, obs] -> `action` float32 [batch, act], any batch size.

    Node for node what `Policy.__call__` computes. `metadata` travels inside the file. Needs the `export` extra.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    net = actor.net
    if net.layer_norm or net.activation not in ("relu", "silu", "tanh"):
        raise ConfigError(f"actor: no ONNX graph for activation={net.activation!r}, layer_norm={net.layer_norm}.")
    act_dim = net.layers[-1].bias.shape[0] // 2  # mean and log-deviation; only the mean acts
    graph = _Graph(helper, numpy_helper)
    x = graph.add("Sub", INPUT, graph.constant("obs_mean", preparation.obs_mean))
    x = graph.add("Div", x, graph.constant("obs_std", preparation.obs_std))
    for i, layer in enumerate(net.layers):
        last = i == len(net.layers) - 1
        kept = slice(0, act_dim) if last else slice(None)
        weight = graph.constant(f"weight_{i}", np.asarray(layer.weight)[:, kept])
        x = graph.add("Gemm", x, weight, graph.constant(f"bias_{i}", np.asarray(layer.bias)[kept]))
        if not last:
            x = graph.activation(net.activation, x)
    bound = graph.constant("mean_max", np.float32(actor.mean_max))
    x = graph.add("Mul", graph.add("Tanh", graph.add("Div", x, bound)), bound)
    x = graph.add("Mul", graph.add("Tanh", x), graph.constant("action_half", preparation.action_half))
    graph.add("Add", x, graph.constant("action_mid", preparation.action_mid), name=OUTPUT)

    def tensor(name: str, size: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])

    obs_dim = len(np.asarray(preparation.obs_mean))
    made = helper.make_graph(
        graph.nodes, "policy", [tensor(INPUT, obs_dim)], [tensor(OUTPUT, act_dim)], graph.constants
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="merpo"
    )
    helper.set_model_props(model, dict(metadata))
    checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """Nodes and constants in the order in which they are added; every result gets a name of its own."""

    def __init__(self, helper: Any, numpy_helper: Any):
        self._helper, self._numpy = helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(self._numpy.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def add(self, operator: str, *inputs: str, name: str | None = None) -> str:
        out = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, list(inputs), [out]))
        return out

    def activation(self, kind: str, x: str) -> str:
        if kind == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        return self.add({"relu": "Relu", "tanh": "Tanh"}[kind], x)


def run_onnx(content: bytes, obs: Float[np.ndarray, "n obs"]) -> Float[np.ndarray, "n act"]:
    """The graph's actions, by ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run([OUTPUT], {INPUT: obs})[0]
