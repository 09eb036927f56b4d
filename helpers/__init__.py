"""Helpers for the notebooks: one concept a module, nothing done at import."""
