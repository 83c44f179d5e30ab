"""Quantization of pretrained models without training."""
