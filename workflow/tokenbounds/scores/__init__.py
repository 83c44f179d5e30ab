"""Scores: which tokens are scored (plan), by what (scoring), and how scores are stored (store)."""
