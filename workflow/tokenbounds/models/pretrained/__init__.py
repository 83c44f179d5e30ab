"""Reading of pretrained checkpoints, quantized ones included; no code of theirs runs."""
