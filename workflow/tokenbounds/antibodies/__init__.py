"""Antibody sequences: readers, vocabulary, regions, and the documents that models read."""
