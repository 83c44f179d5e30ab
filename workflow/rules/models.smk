"""Models: trained from scratch, imported, fine-tuned, or counted. One rule per kind, known from the model's row.

In    <results>/corpora/{corpus}/manifest.json, or a pretrained checkpoint on disk or hub, or both
      <results>/models/{model}/…                     of the model that training starts from, if it names one
Out   <results>/models/{model}/card.json             what rebuilds the model around its coded values
      <results>/models/{model}/model.safetensors     those values (transformers); of a fine-tune its adapters alone
      <results>/models/{model}/original.json         the files that those values are in (pretrained)
      <results>/models/{model}/counts.arrow          those values (Markov chains)
      <results>/models/{model}/training.parquet      step, loss in bits, learning rate (trained, fine-tuned)
"""


rule train_model:
    """Train a transformer, from scratch or from another model's values; a killed job continues from its last checkpoint."""
    input:
        manifest=on.of(graph.training_corpus),
        start=on.of(graph.parent_model),
    output:
        weights="<results>/models/{model}/model.safetensors",
        card="<results>/models/{model}/card.json",
        curve="<results>/models/{model}/training.parquet",
    log:
        "<logs>/train_model/{model}.log",
    benchmark:
        "<benchmarks>/train_model/{model}.tsv"
    wildcard_constraints:
        model=on.models("trained"),
    conda:
        "../../envs/environment.yaml"
    threads: 16
    resources:
        mem_mb=on.amount(resources.training_megabytes),
        runtime=on.amount(resources.training_minutes),
        gres="",
    params:
        row=on.row("models", "model"),
        workdir=on.of(graph.training_folder),
    script:
        "../scripts/train_model.py"


rule import_model:
    """Check a pretrained checkpoint, and note where its values are; none of its code is run."""
    input:
        files=lambda wildcards: external.checkpoint(wildcards.model).inputs,
    output:
        original="<results>/models/{model}/original.json",
        card="<results>/models/{model}/card.json",
    log:
        "<logs>/import_model/{model}.log",
    benchmark:
        "<benchmarks>/import_model/{model}.tsv"
    wildcard_constraints:
        model=on.models("pretrained"),
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        mem_mb=on.amount(resources.import_megabytes),
        runtime=on.amount(growing(60, 0.1)),
    params:
        row=on.row("models", "model"),
        files=lambda wildcards: external.checkpoint(wildcards.model).fingerprint,
    script:
        "../scripts/import_model.py"


rule finetune_model:
    """Train adapters over a base that is not changed; a killed job continues from its last checkpoint."""
    input:
        manifest=on.of(graph.training_corpus),
        base=on.of(graph.parent_model),
    output:
        weights="<results>/models/{model}/model.safetensors",
        card="<results>/models/{model}/card.json",
        curve="<results>/models/{model}/training.parquet",
    log:
        "<logs>/finetune_model/{model}.log",
    benchmark:
        "<benchmarks>/finetune_model/{model}.tsv"
    wildcard_constraints:
        model=on.models("finetuned"),
    conda:
        "../../envs/environment.yaml"
    threads: 16
    resources:
        mem_mb=on.amount(growing(6000, 3)),
        runtime=on.amount(resources.finetuning_minutes),
        gres="",
    params:
        row=on.row("models", "model"),
        workdir=on.of(graph.training_folder),
    script:
        "../scripts/finetune_model.py"


rule name_online:
    """Name an online reference: it holds nothing before it reads a corpus."""
    output:
        card="<results>/models/{model}/card.json",
    log:
        "<logs>/name_online/{model}.log",
    benchmark:
        "<benchmarks>/name_online/{model}.tsv"
    wildcard_constraints:
        model=on.models("online"),
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(1000)),
        runtime=on.amount(growing(5)),
    params:
        row=on.row("models", "model"),
    script:
        "../scripts/name_online.py"


rule fit_markov:
    """Count the corpus's k-grams."""
    input:
        manifest=on.of(graph.training_corpus),
    output:
        counts="<results>/models/{model}/counts.arrow",
        card="<results>/models/{model}/card.json",
    log:
        "<logs>/fit_markov/{model}.log",
    benchmark:
        "<benchmarks>/fit_markov/{model}.tsv"
    wildcard_constraints:
        model=on.models("markov"),
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(resources.counting_megabytes),
        runtime=on.amount(resources.counting_minutes),
    params:
        row=on.row("models", "model"),
    script:
        "../scripts/fit_markov.py"
