"""Policies for where there is no JAX, or no Python: ONNX and StableHLO files, each with a policy card."""

from merpo.deploy.card import CARD_FORMAT, Exportable, card, markdown
from merpo.deploy.writing import FORMATS, export

__all__ = ["CARD_FORMAT", "FORMATS", "Exportable", "card", "export", "markdown"]
