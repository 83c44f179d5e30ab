"""Pretrained models: a hub name, a folder, or a GGUF file, turned into a card and coded values.

The architecture is looked up by name before any weight is read; weights are read from safetensors or GGUF, or, where
an installed package ships nothing else, from a torch archive without unpickling it; no code from the model is run.
Quantized checkpoints are decoded to the dense values they stand for. The model handed back is built from the card
alone, and checked against the original.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from tokenbounds.config import PretrainedModel
from tokenbounds.errors import ModelError
from tokenbounds.models.build import build_model, coded_parameters
from tokenbounds.models.card import ModelCard
from tokenbounds.models.checkpoint import save_checkpoint
from tokenbounds.models.families import Family, family_of
from tokenbounds.models.pretrained.quantized import fill_model, first_line, is_quantized, read_quantized
from tokenbounds.models.pretrained.quip_sharp import PublishedCodes, save_codes
from tokenbounds.models.pretrained.torch_archive import read_tensors

_PROBE_TOKENS = 32
_PROBE_TOLERANCE = 1e-4
_ARCHIVE = "pytorch_model.bin"
# Constants of transformers' older GPT-2, which stood in checkpoints beside the parameters.
_MASKS = (".attn.bias", ".attn.masked_bias")
# IgLM's configuration names a token it does not have; its sequences begin with the kind of chain, here [HEAVY].
_FIRST_TOKENS = {"iglm": 31}


def import_pretrained(spec: PretrainedModel, directory: Path | str) -> None:
    """Load a pretrained model and save it as a checkpoint, the codes of a QuIP# one beside its dense values.

    Raises
    ------
    TokenboundsError
        If the model cannot be loaded (see `load_pretrained`), or a file not be written.
    """
    model, card, codes = _load(spec, None)
    save_codes(Path(directory), codes)
    save_checkpoint(directory, model, card)


def load_pretrained(spec: PretrainedModel, *, start_id: int | None = None) -> tuple[PreTrainedModel, ModelCard]:
    """Load a pretrained causal language model.

    Parameters
    ----------
    spec
        Which model.
    start_id
        The token before a document's first one; without it the model's own first, else its end token.

    Returns
    -------
    model, card
        The model as `build_model(card)` makes it, float32, holding the pretrained values.

    Raises
    ------
    ModelError
        If the model cannot be found or read, its architecture is not supported, its weights are pickled or quantized
        in a way that is not read, or the rebuilt model computes something else.
    """
    model, card, _ = _load(spec, start_id)
    return model, card


def _load(spec: PretrainedModel, start_id: int | None) -> tuple[PreTrainedModel, ModelCard, PublishedCodes | None]:
    where = _locate(spec)
    files = {"revision": spec.revision, "gguf_file": spec.gguf_file}
    config = _read_config(where, files)
    family, codes = _family(where, config), None
    if is_quantized(config) and spec.gguf_file is None:
        original, codes = read_quantized(where, spec.revision, config, family)
    elif spec.subfolder is not None and (Path(where) / _ARCHIVE).is_file():
        original = _read_archive(Path(where), family)
    else:
        if spec.gguf_file is None and Path(where).is_dir():
            _check_folder(Path(where))
        original = _read(where, files, family)
    if start_id is None:
        start_id = _FIRST_TOKENS.get(spec.package or "")
    card = card_from_config(original.config, start_id=start_id)
    probe = torch.arange(_PROBE_TOKENS)[None] * 7919 % card.vocabulary_size
    probe = probe[:, : card.context]
    with torch.no_grad():
        expected = original(input_ids=probe, use_cache=False).logits
        model = build_model(card)
        _copy_values(original, model, where)
        difference = (model(input_ids=probe, use_cache=False).logits - expected).abs().max().item()
    if not difference <= _PROBE_TOLERANCE * (1.0 + expected.abs().max().item()):
        raise ModelError(f"{where}: the model rebuilt from its card computes other logits (by {difference:.3g}).")
    return model, card, codes


def card_from_config(config: PreTrainedConfig, *, start_id: int | None = None) -> ModelCard:
    """Describe a transformers configuration by a card.

    Raises
    ------
    ModelError
        If the family is not supported, or the configuration asks for what its card cannot say.
    """
    family = family_of(config.model_type)
    for key, value in family.fixed.items():
        if getattr(config, key, value) != value:
            raise ModelError(f"{config.model_type}: {key} = {getattr(config, key)!r:.80} is not supported.")
    values = {key: getattr(config, key) for key in family.fields}
    _drop_implied(values)
    return ModelCard(
        family=config.model_type,
        config=values,
        vocabulary_size=config.vocab_size,
        start_id=_first_token(config) if start_id is None else start_id,
        context=getattr(config, family.context_key),
    )


def _drop_implied(values: dict[str, Any]) -> None:
    """Replace, in place, what follows from other values by None: shorter, and equal cards for equal models."""
    if "num_key_value_heads" in values and values["num_key_value_heads"] == values["num_attention_heads"]:
        values["num_key_value_heads"] = None
    if "head_dim" in values and values["head_dim"] == values["hidden_size"] // values["num_attention_heads"]:
        values["head_dim"] = None
    if "n_inner" in values and values["n_inner"] == 4 * values["n_embd"]:
        values["n_inner"] = None


def _first_token(config: PreTrainedConfig) -> int:
    for key in ("bos_token_id", "eos_token_id"):
        value = getattr(config, key, None)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int) and 0 <= value < config.vocab_size:
            return value
    raise ModelError(f"this {config.model_type} model names no first or end token; a document has no first context.")


def _locate(spec: PretrainedModel) -> str:
    """The folder or hub name of a model; a package is looked up without importing it."""
    if spec.package is None:
        return str(spec.name)
    found = importlib.util.find_spec(spec.package) if spec.package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"the Python package {spec.package!r} is not installed. Install it, or correct 'package'.")
    folder = found.submodule_search_locations[0]
    if spec.subfolder is not None:
        return _locate_subfolder(Path(folder), spec)
    if spec.gguf_file is None or not (Path(folder) / spec.gguf_file).is_file():
        there = ", ".join(sorted(path.name for path in Path(folder).glob("*.gguf"))) or "none"
        raise ModelError(f"the package {spec.package} has no file {spec.gguf_file!r}; GGUF files there: {there}.")
    return folder


def _locate_subfolder(package: Path, spec: PretrainedModel) -> str:
    folder = package / str(spec.subfolder)
    if not (folder / "config.json").is_file():
        there = sorted(str(path.parent.relative_to(package)) for path in package.rglob("config.json"))
        raise ModelError(
            f"the package {spec.package} has no model in {spec.subfolder!r}; there are {', '.join(there) or 'none'}."
        )
    return str(folder)


def _read_config(where: str, files: dict[str, str | None]) -> dict[str, Any]:
    """Read the configuration alone."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(where, **files)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"cannot read the configuration of {where}: {first_line(error)}") from error
    return config


def _family(where: str, config: dict[str, Any]) -> Family:
    try:
        return family_of(config.get("model_type"))
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds an adapter. Merge it into its base model and save that.")
    if not list(folder.glob("*.safetensors")):
        pickled = ", ".join(path.name for path in sorted(folder.glob("*.bin"))) or "no weights at all"
        raise ModelError(f"{folder} has no *.safetensors, but {pickled}. Pickled weights are not read: convert them.")


def _read(where: str, files: dict[str, str | None], family: Family) -> PreTrainedModel:
    """Load the original; every parameter must come from the file."""
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    model_class = getattr(transformers, family.model_class)
    options = {"dtype": torch.float32, "attn_implementation": "sdpa", "output_loading_info": True}
    if files["gguf_file"] is None:
        options["use_safetensors"] = True
    try:
        model, info = model_class.from_pretrained(where, **files, **options)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise ModelError(f"cannot load {where}: {first_line(error)}") from error
    strange = sorted(map(str, [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]))
    if strange:
        raise ModelError(f"{where}: its weights do not fit a {family.model_class} (first at {strange[0]}).")
    return cast(PreTrainedModel, model.eval())


def _read_archive(folder: Path, family: Family) -> PreTrainedModel:
    """Load the original from a torch archive, read as data; every parameter must come from the file."""
    tensors = {name: value for name, value in read_tensors(folder / _ARCHIVE).items() if not name.endswith(_MASKS)}
    config = getattr(transformers, family.config_class).from_pretrained(folder, attn_implementation="sdpa")
    return fill_model(config, family, tensors, str(folder))


def _copy_values(original: PreTrainedModel, model: PreTrainedModel, where: str) -> None:
    source, target = coded_parameters(original), coded_parameters(model)
    shapes = [{name: tuple(value.shape) for name, value in one.items()} for one in (source, target)]
    if shapes[0] != shapes[1]:
        name = min(name for name, _ in shapes[0].items() ^ shapes[1].items())
        raise ModelError(f"{where}: the tensor {name} does not fit the model's card.")
    for name, parameter in target.items():
        parameter.copy_(source[name])
