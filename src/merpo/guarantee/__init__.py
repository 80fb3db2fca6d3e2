"""Exact tabular MDPs and the improvement certificate; nothing lives here yet."""
