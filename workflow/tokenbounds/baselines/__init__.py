"""Cheap models to compare with, themselves coded into messages."""
