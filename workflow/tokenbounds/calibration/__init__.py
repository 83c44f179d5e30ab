"""Calibration: what a model's layers see and how much their outputs matter, and rounding that makes use of it."""
