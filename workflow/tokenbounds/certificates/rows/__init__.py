"""Rows of a certificate: which bounds are stated, and what each costs."""
