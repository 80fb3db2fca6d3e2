"""merpo: model-based offline meta-reinforcement learning."""
