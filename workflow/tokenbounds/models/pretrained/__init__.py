"""Reading of pretrained checkpoints, quantized ones included; none of their code is run."""
