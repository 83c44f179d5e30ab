"""Training with transformers' Trainer: seeded, resumable after a kill, on one device or several.

To use several GPUs, start the same call under accelerate, one process per GPU:
`accelerate launch --num_processes 4 script.py`, or, without GPUs, under what accelerate itself calls, `python -m
torch.distributed.run --nproc-per-node 4 script.py`. Every step's batch is the same whatever the number of processes:
each takes its share of the rows. Checkpoints in the working folder hold weights as safetensors; optimizer and random
states are the Trainer's own files, which it reads back with `weights_only`, so that nothing is unpickled.
"""

from __future__ import annotations

import logging
import math
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from tokenbounds.config import FinetunedModel, TrainedModel, Training
from tokenbounds.corpus.reader import Corpus
from tokenbounds.errors import ModelError
from tokenbounds.files import canonical_json, read_json, sha256_bytes, sha256_file, write_json
from tokenbounds.models.adapters import AdapterCard
from tokenbounds.models.architecture import card_from_spec
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint, save_tensors
from tokenbounds.models.loss import IGNORED, summed_loss_nats
from tokenbounds.models.training.data import BlockSampler
from tokenbounds.models.training.start import initial_model
from tokenbounds.models.weights import WEIGHTS_FILE, weights_file
from tokenbounds.progress import Progress

LOGGER = logging.getLogger(__name__)

_CURVE_POINTS = 200
_BETAS = (0.9, 0.95)
_RUN_FILE = "run.json"
_WRITE_FAILURES = ("No space", "PytorchStreamWriter", "writing")  # how torch.save reports a disk that is full
_STATE_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", WEIGHTS_FILE)

CURVE_SCHEMA = pa.schema([("step", pa.int64()), ("loss_bits", pa.float64()), ("learning_rate", pa.float64())])


def train_model(
    spec: TrainedModel,
    corpus: Corpus,
    directory: Path | str,
    workdir: Path | str,
    *,
    start: Path | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> None:
    """Train a model and write its checkpoint to `directory`.

    Parameters
    ----------
    spec
        Architecture, parameterization, training and seed.
    corpus
        The corpus to train on; it gives the vocabulary and the start token.
    directory
        Where `model.safetensors`, `card.json` and `training.parquet` go.
    workdir
        Where the state is saved every `save_steps` steps. A call with the same spec and corpus continues from the last
        complete state there, and ends with the same weights as an uninterrupted run on the same machine; a state of
        another spec or corpus is discarded. Removed at the end.
    start
        Checkpoint folder of the model whose values training starts from, if the spec names one.
    callbacks
        More callbacks for the Trainer.

    Raises
    ------
    ModelError
        If the spec contradicts itself, the loss stops being finite, or the state cannot be saved.
    """
    card = card_from_spec(spec, vocabulary_size=corpus.vocabulary_size, start_id=corpus.start_id)
    identity = run_identity(spec, card.to_dict(), corpus, start)
    model = initial_model(spec, card, start)
    fit_model(model, card, spec.training, corpus, identity, (Path(directory), Path(workdir)), callbacks)


def fit_model(
    model: PreTrainedModel,
    card: ModelCard | AdapterCard,
    training: Training,
    corpus: Corpus,
    identity: dict[str, Any],
    folders: tuple[Path, Path],
    callbacks: tuple[TrainerCallback, ...],
) -> None:
    """Train a model from the values that it has, and save it; see `train_model`.

    Parameters
    ----------
    model, card
        What is trained, and what is written next to its values.
    training
        Budget and optimizer.
    corpus
        Where batches come from, in windows of `card.context` tokens.
    identity
        What must be equal for training to continue from a saved state: `run_identity`.
    folders
        Of the checkpoint, and of the state.
    callbacks
        More callbacks for the Trainer.
    """
    directory, workdir = folders
    arguments = _arguments(training, workdir)
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0:
            _prepare(workdir, identity)
    sampler = BlockSampler(corpus, card.context, training.batch_tokens, training.seed)
    trainer = _trainer(model, sampler, training, arguments, callbacks)
    _train(trainer, workdir)
    if trainer.is_world_process_zero():
        save_checkpoint(directory, model, card, _loss_curve(trainer))
        shutil.rmtree(workdir, ignore_errors=True)


def _train(trainer: Trainer, workdir: Path) -> None:
    """Train from the last complete state; if the disk refuses a state, the error is one line."""
    # The Trainer writes `trainer_state.json` last, so a state without it was left by a killed job.
    states = sorted(workdir.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    last = next((path for path in states if _is_whole(path)), None)
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _WRITE_FAILURES):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"cannot save the state of training in {workdir}: {reason}. Free space, or choose another folder."
        ) from error


class _StepDataset(torch.utils.data.Dataset):
    """Item i is one process's share of the rows of a step's batch: step i // processes, share i % processes."""

    def __init__(self, sampler: BlockSampler, steps: int, processes: int) -> None:
        if sampler.rows % processes:
            raise ModelError(f"{sampler.rows} rows per batch cannot be shared equally by {processes} processes.")
        self._sampler, self._steps, self._processes = sampler, steps, processes

    def __len__(self) -> int:
        return self._steps * self._processes

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        inputs, targets = self._sampler.batch(item // self._processes)
        share = slice(item % self._processes, None, self._processes)
        scale = self._processes / max(1, int((targets != IGNORED).sum()))
        return {
            "inputs": torch.from_numpy(inputs[share]),
            "targets": torch.from_numpy(targets[share]),
            "scale": torch.tensor(scale, dtype=torch.float32),
        }


class _WithLoss(nn.Module):
    """A language model that returns its loss, in nats per token of the whole batch."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": summed_loss_nats(self.model, inputs, targets) * scale}


class _Trainer(Trainer):
    """A Trainer whose checkpoints hold the trained parameters, once each, and no pickled arguments."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.losses: list[torch.Tensor] = []

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir or ".")
            parameters = cast(nn.Module, self.model).named_parameters()
            tensors = {name: value.detach().contiguous() for name, value in parameters}
            save_tensors(folder / WEIGHTS_FILE, tensors)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Stay silent about tied and generated tensors, which no checkpoint holds."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append(loss)
        return loss


class _Watch(TrainerCallback):
    """Stops at the first loss that is not finite, looking only when a log or a checkpoint waits for the device.

    Also logs how far training is, and its loss.
    """

    trainer: _Trainer
    progress: Progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress = Progress(LOGGER, state.max_steps, "steps", done=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            bits = logs["loss"] / math.log(2)
            self.progress.add(state.global_step - self.progress.done, f"{bits:.3f} bits per token")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (control.should_log or control.should_save or control.should_training_stop):
            return
        losses = torch.stack(self.trainer.losses).float().cpu()
        self.trainer.losses = []
        first = state.global_step - len(losses) + 1
        for step, loss in enumerate(losses.tolist(), start=first):
            if not math.isfinite(loss):
                raise ModelError(
                    f"training diverged: the loss of step {step} is {loss}. Lower training.learning_rate, or lengthen "
                    "the warm-up."
                )


def _trainer(
    model: PreTrainedModel,
    sampler: BlockSampler,
    training: Training,
    arguments: TrainingArguments,
    callbacks: tuple[TrainerCallback, ...],
) -> _Trainer:
    if training.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    cast(nn.Module, model).to(arguments.device)
    watch = _Watch()
    trainer = _Trainer(
        model=_WithLoss(model),
        args=arguments,
        train_dataset=_StepDataset(sampler, training.steps, arguments.world_size),
        data_collator=lambda items: items[0],  # each item of the dataset is a whole batch already
        optimizers=_optimizer(model, training),
        callbacks=[watch, *callbacks],
    )
    watch.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(training: Training, workdir: Path) -> TrainingArguments:
    # The coarsest interval with enough points that divides `save_steps`, so that resuming does not change the curve.
    wanted = max(1, training.steps // _CURVE_POINTS)
    logging_steps = max(size for size in range(1, wanted + 1) if training.save_steps % size == 0)
    return TrainingArguments(
        output_dir=str(workdir),
        max_steps=training.steps,
        per_device_train_batch_size=1,
        train_sampling_strategy="sequential",
        bf16=training.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        max_grad_norm=1.0,
        seed=training.seed % (1 << 32),
        logging_steps=logging_steps,
        logging_nan_inf_filter=False,
        save_steps=training.save_steps,
        save_total_limit=2,
        average_tokens_across_devices=False,
        ddp_broadcast_buffers=False,  # fixed parts are already equal everywhere
        remove_unused_columns=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        log_level="error",
    )


def _optimizer(
    model: PreTrainedModel, training: Training
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with decay on matrices only; linear warm-up, then a cosine to zero."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, betas=_BETAS, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, training))


def learning_rate_factor(step: int, training: Training) -> float:
    """The learning rate of step 0, 1, … as a share of the largest."""
    warmup = math.ceil(training.warmup_fraction * training.steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, training.steps - warmup)))


def _loss_curve(trainer: Trainer) -> pa.Table:
    rows = [
        {"step": entry["step"], "loss_bits": entry["loss"] / math.log(2), "learning_rate": entry["learning_rate"]}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return pa.Table.from_pylist(rows, schema=CURVE_SCHEMA)


def run_identity(
    spec: TrainedModel | FinetunedModel, card: dict[str, Any], corpus: Corpus, start: Path | None = None
) -> dict[str, Any]:
    """What must be equal for training to continue from a saved state."""
    training = {name: getattr(spec.training, name) for name in spec.training.__dataclass_fields__}
    shards = [shard.sha256 for shard in corpus.manifest.shards]
    return {
        "card": card,
        "initialization": getattr(spec.parameterization, "initialization", "random"),
        "start_sha256": sha256_file(weights_file(start)) if start else None,
        "training": training,
        "seed": spec.seed,
        "corpus_sha256": sha256_bytes(canonical_json(shards).encode()),
    }


def _prepare(workdir: Path, identity: dict[str, Any]) -> None:
    """Empty the working folder unless it holds states of the same run."""
    record = workdir / _RUN_FILE
    if workdir.exists() and not (record.is_file() and read_json(record) == identity):
        shutil.rmtree(workdir)
    write_json(record, identity)


def _is_whole(checkpoint: Path) -> bool:
    if not all((checkpoint / name).is_file() for name in _STATE_FILES):
        return False
    try:
        return bool(read_json(checkpoint / "trainer_state.json"))
    except Exception:
        return False
