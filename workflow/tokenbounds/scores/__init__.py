"""Scores: which tokens are scored (plan), by what (scoring), and how they are kept (store)."""
