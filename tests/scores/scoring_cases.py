"""Small corpora, plans and models shared by the tests of scoring."""

from dataclasses import dataclass

import numpy as np
import torch
from tokenbounds.scores.plan import Plan, plan_scoring, read_plan, write_plan
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

VOCABULARY = 37
CONTEXT = 12


@dataclass
class MemoryCorpus:
    """A corpus in memory with the reader's interface."""

    contents: list[np.ndarray]
    vocabulary_size: int = VOCABULARY
    start_id: int = 3

    @property
    def tokens(self) -> int:
        return sum(map(len, self.contents))

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(document) for document in self.contents], dtype=np.int64)

    def document(self, number: int) -> np.ndarray:
        return self.contents[number]


def make_corpus(lengths=(0, 1, 5, 0, 12, 13, 29, 2, 40), seed=1) -> MemoryCorpus:
    generator = np.random.default_rng(seed)
    return MemoryCorpus([generator.integers(0, VOCABULARY, size).astype(np.uint16) for size in lengths])


def make_plan(folder, corpus, **settings) -> Plan:
    settings = {"context": CONTEXT, "stride": None, "sample_tokens": None, "seed": 0, "shards": 1} | settings
    write_plan(plan_scoring(corpus.lengths, **settings), folder / "plan.parquet", manifest_sha256="ma")
    return read_plan(folder / "plan.parquet")


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
