"""Statistics of a model on a sample of text, block by block, for quantizers of pretrained models."""
