"""Messages: quantizers, entropy coding, and the container whose size a certificate pays for."""
