"""Where the model of a message is while it scores: whole on one device, on all GPUs of the node, or block by block."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import dispatch_model, infer_auto_device_map, init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import nn

from tokenbounds.errors import ScoreError
from tokenbounds.limits import GIB, memory_limit
from tokenbounds.messages.container import Message
from tokenbounds.messages.decode import attach_head, decode_message
from tokenbounds.messages.spool import spool_message, spoolable_card
from tokenbounds.models.base import base_checkpoint
from tokenbounds.models.blockwise import BlockwiseModel
from tokenbounds.models.build import count_parameters, empty_model
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import load_checkpoint, open_checkpoint
from tokenbounds.models.families import family_of
from tokenbounds.models.identity import checkpoint_sha256
from tokenbounds.models.tensor_source import TensorSource
from tokenbounds.scores.blockwise import SCRATCH_BYTES, BlockwiseTrunk
from tokenbounds.scores.faithfulness import Original
from tokenbounds.scores.neural import TORCH_DTYPES, device_of
from tokenbounds.scores.scorer import Placement, ScoringOptions

_log = logging.getLogger(__name__)

# Bytes of memory that decoding a whole message takes for each parameter at its peak: codes as they are decoded,
# float32 values, and the float32 model.
_DECODING_BYTES = 20
# The same of loading a checkpoint: its file, and the float32 model.
_LOADING_BYTES = 8
# What must be left of a GPU for activations and logits, and of the machine's memory for everything else.
_GPU_RESERVE, _HOST_RESERVE = 4 * GIB, 2 * GIB


@dataclass(frozen=True)
class Sizes:
    """What is measured before a placement is chosen, bytes.

    Attributes
    ----------
    model
        Of the decoded model in the type that it scores in.
    decoding
        Of the machine's memory that decoding the whole message, or loading a whole checkpoint, takes.
    host
        Of memory that may be used.
    gpus
        Free memory of each GPU that may be used; none where scoring is on a CPU.
    """

    model: int
    decoding: int
    host: int
    gpus: tuple[int, ...]


def choose_placement(sizes: Sizes) -> Placement:
    """Where a model goes.

    `whole` where memory holds what decoding takes and, on a GPU, one holds the model; `dispatch` where all GPUs
    together hold it, a single one included if only the machine's memory is too small to decode it whole; otherwise
    `blocks`.
    """
    free = [max(0, gpu - _GPU_RESERVE) for gpu in sizes.gpus]
    decodes = sizes.decoding + _HOST_RESERVE <= sizes.host
    if decodes and (not free or sizes.model <= max(free)):
        return "whole"
    return "dispatch" if sizes.model <= sum(free) else "blocks"


def measure_sizes(card: ModelCard, device: torch.device, dtype: torch.dtype, building: int = _DECODING_BYTES) -> Sizes:
    """Sizes of a card's model, and what this process may use now; a device with a number is the only GPU.

    `building` is how many bytes of memory it takes for each parameter to make the model whole.
    """
    parameters = count_parameters(card).total
    gpus: tuple[int, ...] = ()
    if device.type == "cuda":
        numbers = range(torch.cuda.device_count()) if device.index is None else [device.index]
        gpus = tuple(torch.cuda.mem_get_info(number)[0] for number in numbers)
    return Sizes(parameters * dtype.itemsize, parameters * building, _free_memory(), gpus)


def _free_memory() -> int:
    """Memory that this process may still use, bytes: of the machine, of its own limits, or of its SLURM job."""
    free = memory_limit()
    with contextlib.suppress(KeyError, ValueError):
        if megabytes := int(os.environ["SLURM_MEM_PER_NODE"]):  # 0 is all of the node
            free = min(free, megabytes << 20)
    with contextlib.suppress(OSError, ValueError, IndexError):
        free -= int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        free = min(free, 1024 * int(available.split()[1]))
    return max(0, free)


@contextlib.contextmanager
def placed_predictor(
    message: Message, path: Path, side_information: Iterable[Path | str], options: ScoringOptions
) -> Iterator[Any]:
    """Decode a message, read from `path`, to where it scores: a predictor for `scoring.make_scorer`.

    Scratch files are in a new folder under TMPDIR, which is removed at the end.

    Raises
    ------
    MessageError
        If the message is damaged.
    ScoreError
        If the options want a placement that this message or machine cannot have.
    """
    card = spoolable_card(message)
    if card is None and options.placement not in ("auto", "whole"):
        raise ScoreError(
            f"{path} cannot be scored with placement '{options.placement}': only messages of dense transformers "
            "without side information can. Use 'auto' or 'whole'."
        )
    device, dtype = device_of(options), TORCH_DTYPES[options.dtype]
    sizes = None if card is None else measure_sizes(card, device, dtype)
    placement = options.placement
    if placement == "auto":
        placement = "whole" if sizes is None else choose_placement(sizes)
    if card is None or sizes is None or placement == "whole":
        _log_placement(placement, sizes, options)
        yield decode_message(path, side_information)
        return
    _log_placement(placement, sizes, options)
    with tempfile.TemporaryDirectory(prefix="tokenbounds-") as name:
        folder = Path(name)
        source = spool_message(message, card, folder / "model.safetensors", dtype)
        if placement == "dispatch":
            model = load_dispatched(source, card, dtype, _room(sizes, device))
            attach_head(model, message)
            yield model
        else:
            blocks = BlockwiseModel(source, card, device, dtype, keep_vocabulary=False)
            attach_head(blocks.model, message)
            yield BlockwiseTrunk(blocks, folder, SCRATCH_BYTES)


@contextlib.contextmanager
def placed_original(place: Path | str, options: ScoringOptions) -> Iterator[Original]:
    """Load the model that a decoded one is compared with, to where there is room for it beside that one.

    Parameters
    ----------
    place
        A checkpoint folder, a Hugging Face folder or a GGUF file; see `models.base.load_base`.
    options
        Those of the decoded model, which is placed already.

    Raises
    ------
    ModelError
        If there is no dense transformer at `place`.
    ScoreError
        If the options want a placement that this machine cannot have.
    """
    with base_checkpoint(place) as checkpoint:
        sha256 = checkpoint_sha256(checkpoint)
        with placed_checkpoint(checkpoint, options) as model:
            yield Original(model, sha256)


@contextlib.contextmanager
def placed_checkpoint(checkpoint: Path, options: ScoringOptions) -> Iterator[Any]:
    """Load the model of a checkpoint folder to where it scores: a predictor for `scoring.make_scorer`.

    A model that is not dense is `whole`, whatever the options say.

    Raises
    ------
    ModelError
        If the folder holds no transformer, or a file is damaged.
    ScoreError
        If the options want a placement that this machine cannot have.
    """
    source, card = open_checkpoint(checkpoint)
    device, dtype = device_of(options), TORCH_DTYPES[options.dtype]
    sizes = measure_sizes(card, device, dtype, _LOADING_BYTES)
    placement = choose_placement(sizes) if options.placement == "auto" else options.placement
    if card.parameterization["kind"] != "dense":
        placement = "whole"
    _log_placement(placement, sizes, options, "the original")
    if placement == "whole":
        yield load_checkpoint(checkpoint)[0]
    elif placement == "dispatch":
        yield load_dispatched(source, card, dtype, _room(sizes, device))
    else:
        with tempfile.TemporaryDirectory(prefix="tokenbounds-") as folder:
            yield BlockwiseTrunk(
                BlockwiseModel(source, card, device, dtype, keep_vocabulary=False), Path(folder), SCRATCH_BYTES
            )


def _log_placement(
    placement: Placement, sizes: Sizes | None, options: ScoringOptions, model: str = "the model"
) -> None:
    if sizes is None:
        _log.info("placement %s: the message alone does not say how large the model is", placement)
        return
    gpus = " + ".join(f"{gpu / GIB:.1f} GiB" for gpu in sizes.gpus) or "none"
    needs = (model, sizes.model / GIB, options.dtype, sizes.decoding / GIB, sizes.host / GIB, gpus)
    _log.info(
        "placement %s: %s takes %.2f GiB as %s, making it whole %.2f GiB; free memory: %.1f GiB, GPUs: %s",
        *(placement, *needs),
    )


def _room(sizes: Sizes, device: torch.device) -> dict[int | str, int]:
    """What each GPU may hold, in the order of their numbers."""
    if not sizes.gpus:
        raise ScoreError("placement 'dispatch' needs a GPU, and there is none. Use 'auto', 'whole' or 'blocks'.")
    first = device.index or 0
    return {first + number: max(0, free - _GPU_RESERVE) for number, free in enumerate(sizes.gpus)}


def load_dispatched(
    source: TensorSource, card: ModelCard, dtype: torch.dtype, room: Mapping[int | str, int], force: bool = False
) -> Any:
    """A model whose blocks are spread over devices, each loaded to its own directly.

    Parameters
    ----------
    source, card
        Values and structure.
    dtype
        In which it computes; rotary frequencies stay in float32.
    room
        Bytes that each device may hold, by the names that accelerate gives them.
    force
        Whether to move inputs from device to device even where there is one only, as a test on a CPU does.
    """
    with init_empty_weights(include_buffers=False):
        model = empty_model(card)
    model.tie_weights()
    blocks = cast(nn.ModuleList, model.get_submodule(family_of(card.family).blocks))
    whole = [type(blocks[0]).__name__]
    places: Any = infer_auto_device_map(model, max_memory=dict(room), no_split_module_classes=whole, dtype=dtype)
    if set(map(str, places.values())) & {"disk"} - set(map(str, room)):
        raise ScoreError("the GPUs' free memory does not hold the model. Use placement 'auto' or 'blocks'.")
    for tensor, _ in model.named_parameters():
        module = next(name for name in _owners(tensor) if name in places)
        set_module_tensor_to_device(model, tensor, places[module], value=source.read(tensor), dtype=dtype)
    model.tie_weights()
    dispatched = dispatch_model(model, device_map=places, force_hooks=force)
    return dispatched.eval().requires_grad_(False)


def _owners(tensor: str) -> Iterator[str]:
    """The modules that a tensor is in, the innermost first, the model itself ('') last."""
    while tensor:
        yield tensor
        tensor = tensor.rpartition(".")[0]
    yield ""
