"""Encoding: what finds a message for a model."""
