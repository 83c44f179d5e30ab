"""Corpora: documents become token shards.

In    the files of the source and of a local tokenizer; other sources are not files
Out   <results>/corpora/{corpus}/manifest.json       tokens, documents, hashes of the shards next to it
      <results>/corpora/{corpus}/documents.parquet   one row per document
      <results>/corpora/{corpus}/shard-*.arrow       document, tokens; as many as the corpus's row says

Shards are not declared as outputs: their number differs from corpus to corpus, and a rule's outputs are the same for
all of them. The manifest represents them. It is written last and holds their hashes, so every reader of a corpus finds
a shard that is missing or damaged.
"""


rule tokenize_corpus:
    """Write a corpus as Arrow shards of tokens, and a manifest that names them by hash."""
    input:
        sources=lambda wildcards: external.corpus(wildcards.corpus).inputs,
        disjoint=on.of(graph.tokenizer_corpora),
    output:
        manifest="<results>/corpora/{corpus}/manifest.json",
        documents="<results>/corpora/{corpus}/documents.parquet",
    log:
        "<logs>/tokenize_corpus/{corpus}.log",
    benchmark:
        "<benchmarks>/tokenize_corpus/{corpus}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        mem_mb=on.amount(growing(2500)),
        runtime=on.amount(growing(30, 0.05)),
    params:
        row=on.row("corpora", "corpus"),
        files=lambda wildcards: external.corpus(wildcards.corpus).fingerprint,
    script:
        "../scripts/tokenize_corpus.py"
