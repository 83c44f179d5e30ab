"""Entropy coding: integers to bytes and back, the same bits on every machine."""
