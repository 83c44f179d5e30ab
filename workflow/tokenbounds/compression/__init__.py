"""Encoding: finding a message for a model."""
