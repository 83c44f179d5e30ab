"""Speed of online references, and what they predict: `python benchmarks/online.py [megabytes]`.

The text is Python's standard library, as the default study reads it, cut after so many bytes. Speed is in millions of
tokens for each second of processor time of one thread, compilation aside. On a machine that is busy with other things
it is lower, as caches are shared: take the largest of a few runs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from tokenbounds.config.corpora import PythonStdlibSource
from tokenbounds.corpus.sources import read_documents
from tokenbounds.models.online.mixing import ByteMixer
from tokenbounds.models.online.ngrams import Ngrams


def read_text(megabytes: float) -> list[np.ndarray]:
    """Documents as bytes, uint8 [n] each."""
    documents, left = [], int(megabytes * 1e6)
    for document in read_documents(PythonStdlibSource(kind="python_stdlib")):
        data = np.frombuffer(document.text, np.uint8)[:left]
        documents.append(data)
        left -= data.size
        if not left:
            break
    return documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("megabytes", type=float, nargs="?", default=4.0)
    documents = read_text(parser.parse_args().megabytes)
    print(f"{'reference':<10}{'M bytes':>9}{'M bytes/s':>11}{'bits per byte':>15}")
    size = sum(document.size for document in documents)
    for name, family in (("mixing", ByteMixer), ("ngrams", Ngrams)):
        family(table_bits=12).losses(documents[0][:100])  # compile
        predictor, bits = family(), 0.0
        start = time.process_time()
        for document in documents:
            bits += float(predictor.losses(document).sum(dtype=np.float64))
        spent = time.process_time() - start
        print(f"{name:<10}{size / 1e6:>9.1f}{size / spent / 1e6:>11.2f}{bits / size:>15.4f}")


if __name__ == "__main__":
    main()
