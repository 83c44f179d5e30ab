"""Online references: predictors that start empty and learn along the corpus, so that naming them costs bytes."""
