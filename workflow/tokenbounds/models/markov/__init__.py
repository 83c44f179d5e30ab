"""Markov chains: grams and their counts, tables of weights, predictions."""
