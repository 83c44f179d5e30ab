"""Small corpora, plans and models shared by the tests of scoring."""

import numpy as np
import torch
from tokenbounds.corpus.memory import MemoryCorpus
from tokenbounds.scores.plan import plan_scoring
from tokenbounds.scores.plan_file import Plan, read_plan, write_plan
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

VOCABULARY = 37
CONTEXT = 12


def in_memory(contents: list[np.ndarray]) -> MemoryCorpus:
    return MemoryCorpus(contents, VOCABULARY, start_id=3)


def make_corpus(lengths=(0, 1, 5, 0, 12, 13, 29, 2, 40), seed=1) -> MemoryCorpus:
    generator = np.random.default_rng(seed)
    return in_memory([generator.integers(0, VOCABULARY, size).astype(np.uint16) for size in lengths])


def make_plan(folder, corpus, **settings) -> Plan:
    """A plan in a file of its own: the first is `plan.parquet`."""
    settings = {"context": CONTEXT, "stride": None, "sample_tokens": None, "seed": 0, "shards": 1} | settings
    before = len(list(folder.glob("plan*.parquet")))
    path = folder / (f"plan-{before}.parquet" if before else "plan.parquet")
    write_plan(plan_scoring(corpus.lengths, **settings), path, manifest_sha256="ma")
    return read_plan(path)


def make_model(family: str, **changes) -> torch.nn.Module:
    """A tiny random model whose logits spread enough that ranks are not a matter of rounding."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "gpt2":
        config = GPT2Config(**sizes, n_positions=64, initializer_range=0.3, **changes)
        return GPT2LMHeadModel(config).eval()
    sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.3, **changes)).eval()
    return MistralForCausalLM(MistralConfig(**sizes, sliding_window=5, initializer_range=0.3, **changes)).eval()
