"""Training of adapters over a fixed base: the base is frozen, and only the adapters are in the optimizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from transformers import TrainerCallback

from tokenbounds.config import FinetunedModel
from tokenbounds.corpus.reader import Corpus, check_known
from tokenbounds.errors import ModelError
from tokenbounds.models.adapters import AdapterCard, attach_adapters, check_adapter
from tokenbounds.models.base import load_base
from tokenbounds.models.build import initialize
from tokenbounds.models.training.train import fit_model, run_identity


def finetune_model(
    spec: FinetunedModel,
    base: Path | str,
    corpus: Corpus,
    directory: Path | str,
    workdir: Path | str,
    *,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> None:
    """Train adapters over a base that is not changed, and write their checkpoint to `directory`.

    Before the first step the model is the base itself: one factor of every adapter starts at zero. The optimizer
    holds the adapters alone, and gradients stop at the first block that has one.

    Parameters
    ----------
    spec
        Adapters, training, windows and seed; its name for the base is only a label here.
    base
        The base: a checkpoint folder, a Hugging Face folder, or a GGUF file.
    corpus, directory, workdir, callbacks
        As in `train_model`.

    Raises
    ------
    ModelError
        If the base cannot be read; see also `train_model`.
    CorpusError
        If the corpus holds a token that the base does not know.
    """
    model, card, sha256 = load_base(base)
    check_known(corpus, card.vocabulary_size)
    if spec.context > card.context:
        raise ModelError(f"windows of {spec.context} tokens are longer than the base's {card.context} positions.")
    settings = check_adapter(dataclasses.asdict(spec.parameterization))
    adapters = AdapterCard(sha256, settings, card.vocabulary_size, spec.context)
    model = attach_adapters(model, settings)
    initialize(model, spec.seed)
    identity = run_identity(spec, adapters.to_dict(), corpus)
    fit_model(model, adapters, spec.training, corpus, identity, (Path(directory), Path(workdir)), callbacks)
