"""Models: trained from scratch, imported, or counted. One rule a kind; a model's kind is known from its row.

In    <results>/corpora/{corpus}/manifest.json, or a pretrained checkpoint on disk or hub
Out   <results>/models/{model}/card.json             what rebuilds the model around its coded values
      <results>/models/{model}/model.safetensors     those values (transformers)
      <results>/models/{model}/counts.arrow          those values (Markov chains)
      <results>/models/{model}/training.parquet      step, loss in bits, learning rate (trained)
"""


def training_corpus(wildcards) -> str:
    """Manifest of the corpus that a model is trained on or counted from."""
    return f"<results>/corpora/{study.models[wildcards.model].corpus}/manifest.json"


def pretrained_files(wildcards) -> list[str]:
    """Files of a checkpoint in a folder; none for one in a package or on the hub."""
    model = study.models[wildcards.model]
    folder = Path(model.name or "")
    if model.package is not None or not folder.is_dir():
        return []
    return sorted(
        str(path)
        for path in folder.iterdir()
        if path.suffix in {".safetensors", ".gguf", ".json"}
    )


def model_row(wildcards) -> str:
    """The model's row of the study."""
    return row_json(study.models[wildcards.model])


def training_workdir(wildcards) -> str:
    """Where training keeps resumable checkpoints: a folder of this row alone, so that no other row resumes from it."""
    digest = hashlib.sha256(model_row(wildcards).encode()).hexdigest()[:12]
    return f"{study.results}/work/{wildcards.model}-{digest}"


def training_minutes(wildcards, attempt) -> int:
    """Twenty minutes, plus the time of 6 operations a parameter and token at a modest 2·10^10 operations a second."""
    model = study.models[wildcards.model]
    parameters = 12 * model.architecture.layers * model.architecture.hidden**2
    seconds = 6 * parameters * model.training.steps * model.training.batch_tokens / 2e10
    return int((20 + seconds / 60) * attempt)


rule train_model:
    """Train a transformer from scratch; a killed job goes on from its last checkpoint."""
    input:
        manifest=training_corpus,
    output:
        weights="<results>/models/{model}/model.safetensors",
        card="<results>/models/{model}/card.json",
        curve="<results>/models/{model}/training.parquet",
    log:
        "<logs>/train_model/{model}.log",
    benchmark:
        "<benchmarks>/train_model/{model}.tsv"
    wildcard_constraints:
        model=models_of_kind("trained"),
    conda:
        "../../envs/environment.yaml"
    threads: 16
    resources:
        mem_mb=growing(6000),
        runtime=training_minutes,
        gpu=0,
    params:
        row=model_row,
        workdir=training_workdir,
    script:
        "../scripts/train_model.py"


rule import_model:
    """Read a pretrained checkpoint as plain values; no code of the checkpoint runs."""
    input:
        files=pretrained_files,
    output:
        weights="<results>/models/{model}/model.safetensors",
        card="<results>/models/{model}/card.json",
    log:
        "<logs>/import_model/{model}.log",
    benchmark:
        "<benchmarks>/import_model/{model}.tsv"
    wildcard_constraints:
        model=models_of_kind("pretrained"),
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        mem_mb=growing(6000, 4),
        runtime=growing(60, 0.1),
    params:
        row=model_row,
    script:
        "../scripts/import_model.py"


rule fit_markov:
    """Count the corpus's k-grams."""
    input:
        manifest=training_corpus,
    output:
        counts="<results>/models/{model}/counts.arrow",
        card="<results>/models/{model}/card.json",
    log:
        "<logs>/fit_markov/{model}.log",
    benchmark:
        "<benchmarks>/fit_markov/{model}.tsv"
    wildcard_constraints:
        model=models_of_kind("markov"),
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        row=model_row,
    script:
        "../scripts/fit_markov.py"
