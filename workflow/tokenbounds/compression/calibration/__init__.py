"""What a model does on a sample of text, block by block: what quantizers of pretrained models are given."""
