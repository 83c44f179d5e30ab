"""The errors that a user can correct. Every message names the file, key or value at fault and what to do about it.

    TokenboundsError
    ├── ConfigError              the study, or a row of it
    ├── CorpusError              a source, a tokenizer, a token shard
    │   └── MissingPackageError  a source's optional package
    ├── ModelError               building, loading, training
    ├── CalibrationError         calibrating, or a calibration of something else
    ├── MessageError             the bytes of a message; the only error that decoding raises
    ├── ScoreError               scoring, a plan, a score file
    └── CertificateError         certifying, or a certificate that does not verify

`except TokenboundsError` catches them all. Anything else that is raised is a defect of the library, or a wrong type.
"""


class TokenboundsError(Exception):
    """Base of all errors raised on purpose; the command line prints its message without a traceback."""


class ConfigError(TokenboundsError):
    """The configuration does not describe a study that can run."""


class CorpusError(TokenboundsError):
    """A corpus source, a tokenizer or a token shard cannot be used."""


class MissingPackageError(CorpusError):
    """A corpus needs an optional package that is not installed."""


class ModelError(TokenboundsError):
    """A model cannot be built, loaded or trained."""


class CalibrationError(TokenboundsError):
    """A model cannot be calibrated, or calibration data do not fit it."""


class MessageError(TokenboundsError):
    """A message is damaged, hostile, or of a version this decoder does not know. The only error decoding raises."""


class ScoreError(TokenboundsError):
    """Scoring failed, or a score file breaks its contract."""


class CertificateError(TokenboundsError):
    """A certificate cannot be computed, or does not survive verification."""
