"""Certificates: from scores and a message to numbers that anyone can check."""
