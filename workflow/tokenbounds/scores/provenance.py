"""What a score file was made from and with, and the columns that follow from it."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa

from tokenbounds.corpus.labels import LabelColumn, labels_json
from tokenbounds.errors import ScoreError
from tokenbounds.files import canonical_json, parse_json
from tokenbounds.models.online.card import LONGEST_ORDER

# Plain; with a smoothing weight for each token; with labels (version 3 had fixed ones, and is no longer read); with
# entropies, and perhaps the others; with all that and a comparison with the original model; with entropies, perhaps the
# others of version 5, and cross-entropies. Files of every version certify; without entropies they have no centres.
SCHEMA_VERSION, ALPHA_VERSION, LABEL_VERSION, ENTROPY_VERSION, ORIGINAL_VERSION, CROSS_VERSION = 1, 2, 4, 5, 6, 7
_VERSIONS = (SCHEMA_VERSION, ALPHA_VERSION, LABEL_VERSION, ENTROPY_VERSION, ORIGINAL_VERSION, CROSS_VERSION)
Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
ORDERS = tuple(range(1, LONGEST_ORDER + 1))
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
ENTROPY_FIELD = pa.field("entropy_bits", pa.float32())
CROSS_ENTROPY_FIELD = pa.field("cross_entropy_bits", pa.float32())
KL_FIELD = pa.field("kl_bits", pa.float32())
CHANGED_FIELD = pa.field("first_choice_changed", pa.bool_())
ALPHA_FIELD = pa.field("alpha", pa.float32())
_OPTIONAL = ("alphas", "labels", "original_sha256", "centre_order")


@dataclass(frozen=True)
class Provenance:
    """What a score file was made from and with; kept in its schema metadata.

    `software` maps package names to versions, "device" to the kind of device that computed the scores, and
    "batch_tokens" to the most tokens that were scored together, on which rounding depends. `alphas`
    are the smoothing weights that the message's head chooses from, increasing; none without a head. `labels` are the
    columns that say what is known about each row's token, as the corpus declares them. `entropies` says whether
    there is a column of the predictions' entropies. `original_sha256` is the hash of the model with whose predictions
    the message's were compared (`scores.faithfulness`); empty if they were not. `centre_order` is the order of the
    n-grams under whose predictions there are cross-entropies (`scores.cross_entropies`); 0 if there are none.
    """

    message_sha256: str
    manifest_sha256: str
    plan_sha256: str
    shard: int
    dtype: Dtype
    vocabulary_size: int
    software: dict[str, str]
    alphas: tuple[float, ...] = ()
    labels: tuple[LabelColumn, ...] = ()
    entropies: bool = False
    original_sha256: str = ""
    centre_order: int = 0

    @property
    def batch_tokens(self) -> int | None:
        """The most tokens that were scored together, on which rounding depends; None if it is not recorded."""
        stated = self.software.get("batch_tokens", "")
        return int(stated) if re.fullmatch("[1-9][0-9]{0,8}", stated) else None

    @property
    def schema(self) -> pa.Schema:
        """The file's columns: those of every file, those that the scorer knows more of, and those of labels."""
        known = known_fields(self.entropies, bool(self.original_sha256), bool(self.alphas), bool(self.centre_order))
        return pa.schema([*SCORE_SCHEMA, *known, *(column.field for column in self.labels)])

    def to_metadata(self) -> dict[str, str]:
        """Schema metadata: the schema version, and one text per field; absent fields are left out."""
        version = LABEL_VERSION if self.labels else ALPHA_VERSION if self.alphas else SCHEMA_VERSION
        if self.entropies:
            version = ORIGINAL_VERSION if self.original_sha256 else ENTROPY_VERSION
        if self.centre_order:
            version = CROSS_VERSION
        metadata = {"schema_version": str(version)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "labels":
                text = labels_json(value)
            else:
                text = value if isinstance(value, str) else canonical_json(value)
            if field.name != "entropies" and (value or field.name not in _OPTIONAL):
                metadata[field.name] = text
        return metadata

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
        if version not in map(str, _VERSIONS):
            known = ", ".join(map(str, _VERSIONS))
            raise ScoreError(f"{path} has schema version {version}, none of {known}. Score with this release.")
        compared = version == str(ORIGINAL_VERSION)
        crossed = version == str(CROSS_VERSION)
        entropies = compared or crossed or version == str(ENTROPY_VERSION)
        headed = version == str(ALPHA_VERSION) or (version != str(SCHEMA_VERSION) and "alphas" in found)
        labelled = version == str(LABEL_VERSION) or (entropies and "labels" in found)
        try:
            software = parse_json(found["software"])
            return cls(
                message_sha256=found["message_sha256"],
                manifest_sha256=found["manifest_sha256"],
                plan_sha256=found["plan_sha256"],
                shard=int(found["shard"]),
                dtype=DTYPES[DTYPES.index(found["dtype"])],
                vocabulary_size=int(found["vocabulary_size"]),
                software={str(name): str(text) for name, text in software.items()},
                alphas=_read_grid(found["alphas"]) if headed else (),
                labels=_read_labels(found["labels"]) if labelled else (),
                entropies=entropies,
                original_sha256=found["original_sha256"] if compared else "",
                centre_order=ORDERS[ORDERS.index(int(found["centre_order"]))] if crossed else 0,
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ScoreError(f"{path} has no readable provenance ({error!r}). Score this shard again.") from error


def known_fields(entropies: bool, compared: bool, weighted: bool, crossed: bool = False) -> list[pa.Field]:
    """Columns of what a scorer may know besides loss and rank, in their order in a file.

    Parameters
    ----------
    entropies
        Whether it knows the entropies of its predictions.
    compared
        Whether it compares them with those of the original model.
    weighted
        Whether it chooses a smoothing weight for each token.
    crossed
        Whether it knows their cross-entropies under the predictions of n-grams.
    """
    of_predictions = [*([ENTROPY_FIELD] * entropies), *([CROSS_ENTROPY_FIELD] * crossed)]
    return [*of_predictions, *([KL_FIELD, CHANGED_FIELD] * compared), *([ALPHA_FIELD] * weighted)]


def _read_grid(text: str) -> tuple[float, ...]:
    """Smoothing weights from the metadata.

    Raises
    ------
    ValueError
        If there are none, or they are not increasing or outside (0, 1).
    """
    alphas = tuple(float(alpha) for alpha in parse_json(text))
    if not alphas or not all(low < high for low, high in itertools.pairwise((0.0, *alphas, 1.0))):
        raise ValueError(f"alphas {text[:80]} are not increasing numbers between 0 and 1")
    return alphas


def _read_labels(text: str) -> tuple[LabelColumn, ...]:
    """Label columns from the metadata.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there are none, or they are of a kind that score files do not carry.
    """
    columns = tuple(LabelColumn.from_dict(column) for column in parse_json(text))
    if not columns or not all(column.is_scored for column in columns):
        raise ValueError("labels name no columns of score files")
    return columns
