"""Generalization certificates for language models: from a corpus to bounds that anyone can recompute."""

__version__ = "0.1.0"
