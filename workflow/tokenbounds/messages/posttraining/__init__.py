"""Quantizers that need no training: rounding methods, and the search for the step sizes that meet a target."""
