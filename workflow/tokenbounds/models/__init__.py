"""Language models: cards that describe them, parameterizations, training, loading and checkpoints."""
