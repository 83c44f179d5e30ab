"""Markov chains: counts, mixed levels, predictions."""
