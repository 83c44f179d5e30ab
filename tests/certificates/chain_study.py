"""The tiny study with a second, larger message whose losses follow the first one's: a chain worth having."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from certified_study import VOCABULARY, TinyStudy, with_losses
from forged_messages import write_message
from tokenbounds.certificates.evidence import CertificateInputs
from tokenbounds.config import EvaluationSpec
from tokenbounds.messages.container import Part
from tokenbounds.scores.plan import plan_corpus


@dataclass(frozen=True)
class LargeMessage(TinyStudy):
    """A message of many bytes; most tokens cost it a little less than the cheap message, a few very much more."""

    message: str = "large"
    message_bytes: int = 90
    stride: int = 24

    def _build_message(self) -> None:
        model = {"family": "markov", "order": 0, "start_id": 0, "vocabulary_size": VOCABULARY}
        data = np.random.default_rng(77).bytes(self.message_bytes)
        header = {"model": model, "quantizer": {"kind": "counts"}}
        write_message(self.inputs.certified.message, header, [Part("symbols", data)])

    def _build_plan(self) -> None:
        spec = EvaluationSpec(context=32, stride=self.stride, sample_tokens=self.sample_tokens, seed=5, shards=2)
        plan_corpus(self.inputs.corpus, spec, self.inputs.plan)

    def _score_rows(self, corpus, plan, shard: int) -> pa.RecordBatch:
        cheap = super()._score_rows(corpus, plan, shard)
        rng = np.random.default_rng([78, shard])
        less = rng.normal(0.25, 0.15, cheap.num_rows)
        less[rng.random(cheap.num_rows) < 0.04] = -12.0
        nll_bits = np.maximum(cheap["nll_bits"].to_numpy() - less, 0.01).astype(np.float32)
        return with_losses(cheap, nll_bits)


def chain_inputs(cheap: TinyStudy, large: TinyStudy) -> CertificateInputs:
    """The large message with the cheap one below it."""
    return replace(large.inputs, links=(*cheap.inputs.links, *large.inputs.links))


def build_chain(root: Path, message_bytes: int = 90, **settings) -> CertificateInputs:
    """Make a study of two messages in a folder."""
    cheap = TinyStudy(root, **settings).build()
    return chain_inputs(cheap, LargeMessage(root, message_bytes=message_bytes, **settings).build())
