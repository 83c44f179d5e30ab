"""Tasks of antibody models besides certificates: recovery of regions, zero-shot affinity, and their tables."""
