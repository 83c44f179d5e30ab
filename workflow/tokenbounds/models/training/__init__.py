"""Training of models, from scratch or over a base."""
