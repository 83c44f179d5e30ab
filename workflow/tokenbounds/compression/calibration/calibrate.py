"""Calibrate a model: one forward and one backward pass over its blocks, one block in memory at a time.

Hidden states between blocks are kept in a scratch file. The backward pass runs each block again with hooks on its
linear layers, takes the gradient of the summed loss through it, and passes the gradient on to the block before.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tokenbounds.compression.calibration.head import pass_head
from tokenbounds.compression.calibration.layers import (
    HEAD_INPUTS,
    LOOKUP_OUTPUTS,
    Matrix,
    check_calibratable,
    matrices_of,
    of_use,
)
from tokenbounds.compression.calibration.moments import BlockMoments, add_moments
from tokenbounds.compression.calibration.store import CalibrationWriter, calibration_writer
from tokenbounds.compression.calibration.windows import Windows, pack_windows
from tokenbounds.config import CalibrationSpec
from tokenbounds.corpus.reader import Corpus, check_known
from tokenbounds.models.blockwise import BlockArguments, BlockwiseModel
from tokenbounds.models.checkpoint import open_checkpoint
from tokenbounds.models.loss import IGNORED
from tokenbounds.progress import Progress

LOGGER = logging.getLogger(__name__)
_CHUNK_LOGITS = 1 << 25
_NATS_PER_BIT = math.log(2)


def calibrate_model(
    directory: Path | str,
    corpus: Corpus,
    spec: CalibrationSpec,
    out: Path | str,
    *,
    corpus_sha256: str = "",
    device: str | None = None,
) -> None:
    """Write the calibration of a model; see `store` for what is in it.

    Parameters
    ----------
    directory : path
        A checkpoint folder of a dense model.
    corpus : Corpus
        Tokens of the model's own tokenizer.
    spec : CalibrationSpec
        Number of tokens, length of windows, seed of the sample, and precision of the computation.
    out : path
    corpus_sha256 : str
        Of the corpus's manifest, for the record.
    device : str, optional
        A torch device; without it a GPU if there is one.

    Raises
    ------
    CalibrationError
        If the model cannot be calibrated, the corpus is too short, or a value overflows.
    CorpusError
        If the corpus holds a token that the model does not know.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source, card = open_checkpoint(directory)
    check_calibratable(card)
    model = BlockwiseModel(source, card, torch.device(device), getattr(torch, spec.dtype))
    # A model may also predict more tokens than its tokenizer knows: their number is often rounded up for the hardware.
    check_known(corpus, model.card.vocabulary_size)
    context = min(spec.context, model.card.context)
    windows = pack_windows(corpus, spec.tokens, context, spec.seed)
    record = {
        "model": model.card.to_dict(),
        "corpus": spec.corpus,
        "corpus_sha256": corpus_sha256,
        "documents": list(windows.documents),
        "tokens": windows.tokens,
        "context": context,
        "seed": spec.seed,
        "sensitivity_tokens": spec.sensitivity_tokens or windows.tokens,
        "dtype": spec.dtype,
    }
    matrices = matrices_of(model.model)
    with (
        calibration_writer(out, _shapes(model, matrices, windows), record) as writer,
        tempfile.TemporaryDirectory() as scratch,
    ):
        writer.write("windows/inputs", windows.inputs)
        writer.write("windows/targets", windows.targets)
        passes = _Passes(model, windows, matrices, writer, _Scratch.create(Path(scratch), model, windows, spec))
        passes.forwards()
        loss_bits = passes.head()
        passes.backwards()
    LOGGER.info("calibrated on %d tokens: %.4f bits per token", windows.tokens, loss_bits)


@dataclass(frozen=True)
class _Scratch:
    """Hidden states [blocks + 1, batches, rows, time, width] and gradients [batches, …] on disk.

    Gradients are those of the first few batches, which go backwards as well. Of all others only the latest hidden
    states are kept: they have one file each for all blocks.
    """

    hidden: list[list[torch.Tensor]]
    gradients: list[torch.Tensor]

    @classmethod
    def create(cls, folder: Path, model: BlockwiseModel, windows: Windows, spec: CalibrationSpec) -> _Scratch:
        count, context = windows.inputs.shape
        back = min(max((spec.sensitivity_tokens or windows.tokens) // context, 1), count)  # windows that go backwards
        # All batches are of one shape: as many windows as the limit allows, of the numbers that divide both counts.
        limit = max(1, spec.batch_tokens // context)
        rows = max(size for size in range(1, limit + 1) if count % size == 0 and back % size == 0)
        shape = (rows, context, model.hidden)

        def tensor(name: str) -> torch.Tensor:
            path = str(folder / name)
            return torch.from_file(path, shared=True, size=math.prod(shape), dtype=model.dtype).view(shape)

        batches = [tensor(f"hidden-{i}") for i in range(count // rows)]
        kept = back // rows
        hidden = [[*(tensor(f"hidden-{k}-{i}") for i in range(kept)), *batches[kept:]] for k in range(model.blocks + 1)]
        return cls(hidden, [tensor(f"gradient-{i}") for i in range(kept)])


class _Passes:
    """The three passes over a model."""

    def __init__(
        self,
        model: BlockwiseModel,
        windows: Windows,
        matrices: Sequence[Matrix],
        writer: CalibrationWriter,
        scratch: _Scratch,
    ) -> None:
        self._model, self._matrices, self._writer, self._scratch = model, matrices, writer, scratch
        rows = scratch.gradients[0].shape[0]
        self._inputs = torch.from_numpy(windows.inputs).split(rows)
        self._targets = torch.from_numpy(windows.targets).split(rows)
        self._tokens = windows.tokens
        self._arguments = BlockArguments((), {})
        self._backward_tokens = sum(each.shape[0] * each.shape[1] for each in scratch.gradients)

    def forwards(self) -> None:
        """Hidden states before each block and after the last; second moments of every layer's inputs."""
        hidden = self._scratch.hidden
        progress = Progress(LOGGER, self._model.blocks, "blocks", "calibrated, forwards:")
        with torch.no_grad():
            for batch, ids in enumerate(self._inputs):
                embedded, self._arguments = self._model.embed(ids)  # all batches have the same shape
                hidden[0][batch].copy_(embedded)
            for index in range(self._model.blocks):
                mine = self._layers(index)
                with (
                    self._model.block(index) as block,
                    BlockMoments(self._model.model, mine, backward=False) as moments,
                ):
                    for batch, states in enumerate(hidden[index]):
                        states = self._model.run(block, states.to(self._model.device), self._arguments)
                        hidden[index + 1][batch].copy_(states)
                for name, value in moments.means(self._tokens).items():
                    self._writer.write(name, value)
                progress.add(1)

    def head(self) -> float:
        """Loss in bits, gradients after the last block, and the head's own statistics."""
        moments: dict[str, torch.Tensor] = {}
        vocabulary = self._model.card.vocabulary_size
        variance = torch.zeros(vocabulary, device=self._model.device)
        loss_nats, count = 0.0, 0
        for batch, states in enumerate(self._scratch.hidden[-1]):
            rows = states.to(self._model.device).flatten(0, 1)  # [windows · time, width]
            if batch >= len(self._scratch.gradients):
                with torch.no_grad():
                    add_moments(moments, HEAD_INPUTS, self._model.final_norm(rows))
                continue
            targets = self._targets[batch].flatten().to(self._model.device)  # [windows · time]
            gradient = self._scratch.gradients[batch].flatten(0, 1)  # the same shape, a view of the file
            size = max(1, _CHUNK_LOGITS // vocabulary)  # tokens whose logits are in memory together
            for first in range(0, len(rows), size):
                here = slice(first, first + size)
                passed = pass_head(self._model, rows[here], targets[here], variance)
                gradient[here] = passed.gradient.to(gradient)
                loss_nats += passed.loss_nats
                add_moments(moments, HEAD_INPUTS, passed.normed)
            count += int((targets != IGNORED).sum())
        loss_bits = loss_nats / max(count, 1) / _NATS_PER_BIT
        self._write(f"moments/{HEAD_INPUTS}", moments[HEAD_INPUTS], self._tokens)
        for matrix in of_use(self._matrices, "head", "tied"):
            self._write(f"outputs/{matrix.name}", variance, self._backward_tokens)
        self._writer.write("loss_bits", np.array([loss_bits]))
        return loss_bits

    def backwards(self) -> None:
        """Squared gradients of the outputs of every block's layers, last block first; then the statistics of tables."""
        gradients = self._scratch.gradients
        progress = Progress(LOGGER, self._model.blocks, "blocks", "calibrated, backwards:")
        for index in reversed(range(self._model.blocks)):
            mine = self._layers(index)
            with self._model.block(index) as block, BlockMoments(self._model.model, mine, backward=True) as moments:
                for batch, states in enumerate(self._scratch.hidden[index][: len(gradients)]):
                    # From the gradient on the block's outputs to that on its inputs, the outputs of the block before.
                    leaf = states.to(self._model.device).detach().requires_grad_()  # [windows, time, width]
                    self._model.run(block, leaf, self._arguments).backward(gradients[batch].to(self._model.device))
                    gradients[batch].copy_(leaf.grad)  # type: ignore[arg-type]
                for name, value in moments.means(self._backward_tokens).items():
                    self._writer.write(name, value)
            progress.add(1)
        self._tables()

    def _layers(self, index: int) -> list[Matrix]:
        """The linear layers of a block."""
        names = set(self._model.block_parameters(index))
        return [matrix for matrix in of_use(self._matrices, "linear") if matrix.name in names]

    def _tables(self) -> None:
        sums: dict[str, torch.Tensor] = {}
        for gradient in self._scratch.gradients:
            add_moments(sums, LOOKUP_OUTPUTS, gradient.to(self._model.device))
        self._write(f"moments/{LOOKUP_OUTPUTS}", sums[LOOKUP_OUTPUTS], self._backward_tokens)
        context = self._inputs[0].shape[1]
        model = self._model.model
        for matrix in of_use(self._matrices, "lookup", "tied"):
            rows = model.get_parameter(matrix.name).shape[0]
            if model.get_submodule(matrix.name.rpartition(".")[0]) is model.get_input_embeddings():
                counts = torch.bincount(torch.cat(list(self._inputs)).flatten(), minlength=rows).float()
            else:  # a table of positions: every window looks up each of its own once
                counts = (torch.arange(rows) < context).float() * (self._tokens / context)
            self._write(f"rows/{matrix.name}", counts, self._tokens)

    def _write(self, name: str, sums: torch.Tensor, tokens: int) -> None:
        self._writer.write(name, (sums / tokens).cpu().numpy())


def _shapes(model: BlockwiseModel, matrices: Sequence[Matrix], windows: Windows) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything a calibration holds."""
    width = model.hidden
    shapes: dict[str, tuple[int, ...]] = {
        "loss_bits": (1,),
        "windows/inputs": windows.inputs.shape,
        "windows/targets": windows.targets.shape,
        f"moments/{HEAD_INPUTS}": (width, width),
        f"moments/{LOOKUP_OUTPUTS}": (width, width),
    }
    for matrix in matrices:
        rows, columns = model.model.get_parameter(matrix.name).shape
        outputs, inputs = (columns, rows) if matrix.transposed else (rows, columns)
        if matrix.use == "linear":
            shapes[f"moments/{matrix.group}"] = (inputs, inputs)
        if matrix.use != "lookup":
            shapes[f"outputs/{matrix.name}"] = (outputs,)
        if matrix.use in ("lookup", "tied"):
            shapes[f"rows/{matrix.name}"] = (rows,)
    return shapes
