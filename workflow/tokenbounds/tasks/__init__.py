"""Tasks besides certificates: answers, memorization and zero-shot questions; for antibodies, recovery and affinity."""
