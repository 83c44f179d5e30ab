"""Tasks of antibody models beside certificates: recovery of regions, zero-shot affinity, and their tables."""
