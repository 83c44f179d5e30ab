"""Generalization certificates for language models: from a corpus to bounds that anyone can recompute."""

from tokenbounds.api import Scored, bound, certify, decode, encode, score, tokenize, verify
from tokenbounds.errors import (
    CalibrationError,
    CertificateError,
    ConfigError,
    CorpusError,
    MessageError,
    MissingPackageError,
    ModelError,
    ScoreError,
    TokenboundsError,
)

__version__ = "0.2.0"
__all__ = [
    "CalibrationError",
    "CertificateError",
    "ConfigError",
    "CorpusError",
    "MessageError",
    "MissingPackageError",
    "ModelError",
    "ScoreError",
    "Scored",
    "TokenboundsError",
    "bound",
    "certify",
    "decode",
    "encode",
    "score",
    "tokenize",
    "verify",
]
