"""Scores: which tokens are scored (plan), by whom (scoring), and how they are kept (store)."""
