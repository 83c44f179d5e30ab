"""What a score file was made from and with, and the columns that follow from it."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from tokenbounds.corpus.annotations import ANNOTATIONS_SCHEMA
from tokenbounds.errors import ScoreError
from tokenbounds.files import canonical_json

SCHEMA_VERSION, ALPHA_VERSION, LABEL_VERSION = 1, 2, 3  # plain; a smoothing weight for each token; labels
SCORE_SCHEMA = pa.schema(
    [
        ("block", pa.int64()),
        ("document", pa.int64()),
        ("position", pa.int64()),
        ("token", pa.int32()),
        ("nll_bits", pa.float32()),
        ("rank", pa.int32()),
    ]
)
ALPHA_FIELD = pa.field("alpha", pa.float32())
LABEL_COLUMNS = ("chain", "region", "germline", "imgt")
LABEL_FIELDS = [ANNOTATIONS_SCHEMA.field(name) for name in LABEL_COLUMNS]
LABEL_CODES = {
    name: ANNOTATIONS_SCHEMA.metadata[name.encode()].decode()
    for name in LABEL_COLUMNS
    if name.encode() in ANNOTATIONS_SCHEMA.metadata
}


@dataclass(frozen=True)
class Provenance:
    """What a score file was made from and with; kept in its schema metadata.

    `software` maps package names to versions, and "device" to the kind of device that computed the scores. `alphas`
    are the smoothing weights that the message's head chooses from, increasing; none without a head. `labelled` says
    that each row has its token's labels, which a corpus of antibodies gives.
    """

    message_sha256: str
    manifest_sha256: str
    plan_sha256: str
    shard: int
    dtype: str
    vocabulary_size: int
    software: dict[str, str]
    alphas: tuple[float, ...] = ()
    labelled: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The file's columns: one more with a smoothing head, `alpha`, and those of labels if there are any."""
        more = [*([ALPHA_FIELD] if self.alphas else []), *(LABEL_FIELDS if self.labelled else [])]
        return pa.schema([*SCORE_SCHEMA, *more])

    def to_metadata(self) -> dict[str, str]:
        """Schema metadata: one text a field, the schema version, and the names of the labels' codes."""
        fields = {
            name: value if isinstance(value, str) else canonical_json(value) for name, value in asdict(self).items()
        }
        del fields["labelled"]
        if not self.alphas:
            del fields["alphas"]
        if self.labelled:
            return {"schema_version": str(LABEL_VERSION), **fields, **LABEL_CODES}
        return {"schema_version": str(ALPHA_VERSION if self.alphas else SCHEMA_VERSION), **fields}

    @classmethod
    def from_metadata(cls, metadata: dict[bytes, bytes] | None, path: Path) -> Provenance:
        """Read the provenance back.

        Raises
        ------
        ScoreError
            If a field is missing or damaged, or the schema version is unknown.
        """
        found = {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in (metadata or {}).items()
        }
        version = found.get("schema_version", "none")
        if version not in map(str, (SCHEMA_VERSION, ALPHA_VERSION, LABEL_VERSION)):
            raise ScoreError(
                f"{path} has schema version {version}, not one of {SCHEMA_VERSION} to {LABEL_VERSION}. Score with this "
                "release."
            )
        headed = version == str(ALPHA_VERSION) or (version == str(LABEL_VERSION) and "alphas" in found)
        try:
            software = json.loads(found["software"])
            return cls(
                message_sha256=found["message_sha256"],
                manifest_sha256=found["manifest_sha256"],
                plan_sha256=found["plan_sha256"],
                shard=int(found["shard"]),
                dtype=found["dtype"],
                vocabulary_size=int(found["vocabulary_size"]),
                software={str(name): str(text) for name, text in software.items()},
                alphas=_read_grid(found["alphas"]) if headed else (),
                labelled=version == str(LABEL_VERSION),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ScoreError(f"{path} has no readable provenance ({error!r}). Score this shard again.") from error


def _read_grid(text: str) -> tuple[float, ...]:
    """Smoothing weights from the metadata.

    Raises
    ------
    ValueError
        If they are none, not increasing, or outside (0, 1).
    """
    alphas = tuple(float(alpha) for alpha in json.loads(text))
    if not alphas or not all(low < high for low, high in itertools.pairwise((0.0, *alphas, 1.0))):
        raise ValueError(f"alphas {text[:80]} are no increasing numbers between 0 and 1")
    return alphas
