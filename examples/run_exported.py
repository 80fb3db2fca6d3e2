"""Run an exported ONNX policy in a Gymnasium loop, without JAX: run_exported.py policy.onnx ENV_ID [EPISODES].

Needs onnxruntime and gymnasium only. `policy.onnx` comes from `policy.export("policy.onnx")` or `merpo export`.
"""

import sys

import gymnasium
import numpy as np
import onnxruntime

path, env_id = sys.argv[1:3]
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
env = gymnasium.make(env_id)

for episode in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1):
    observation, _ = env.reset(seed=episode)
    total, done = 0.0, False
    while not done:
        batch = np.asarray(observation, np.float32)[None]
        (action,) = session.run(["action"], {"observation": batch})
        observation, reward, terminated, truncated, _ = env.step(action[0])
        total, done = total + float(reward), terminated or truncated
    print(f"episode {episode}: return {total:.2f}")
