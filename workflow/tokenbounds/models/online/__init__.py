"""Online references: predictors that start empty and learn along the corpus, so that naming one costs a few bytes."""
