"""Bounds: from per-token losses and a message's bits to certified risks. numpy, scipy, pyarrow and polars only."""
