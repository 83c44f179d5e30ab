"""Messages: a model becomes the bits that count.

In    <results>/models/{model}/…             card and values
      <results>/corpora/{corpus}/…           only if quantized weights are trained further
Out   <results>/messages/{message}.tbm       the message: C = 8 × its size in bytes
      <results>/messages/{message}.json      its bits by part
"""


def model_files(wildcards) -> list[str]:
    """Card and values of the model that a message holds."""
    name = study.messages[wildcards.message].model
    values = (
        "counts.arrow" if study.models[name].kind == "markov" else "model.safetensors"
    )
    return [f"<results>/models/{name}/card.json", f"<results>/models/{name}/{values}"]


def finetuning_corpus(wildcards) -> list[str]:
    """Manifest of the model's training corpus, if the message's weights are trained further."""
    message = study.messages[wildcards.message]
    corpus = getattr(study.models[message.model], "corpus", None)
    steps = (
        message.quantizer.finetuning.steps
        if hasattr(message.quantizer, "finetuning")
        else 0
    )
    return [f"<results>/corpora/{corpus}/manifest.json"] if corpus and steps else []


def message_row(wildcards) -> str:
    """The message's row of the study."""
    return row_json(study.messages[wildcards.message])


rule encode_model:
    """Quantize a model, write its message, decode it again and compare tensor by tensor."""
    input:
        model=model_files,
        manifest=finetuning_corpus,
    output:
        message="<results>/messages/{message}.tbm",
        report="<results>/messages/{message}.json",
    log:
        "<logs>/encode_model/{message}.log",
    benchmark:
        "<benchmarks>/encode_model/{message}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 16
    resources:
        mem_mb=growing(6000, 6),
        runtime=growing(120, 1),
        gpu=0,
    params:
        row=message_row,
    script:
        "../scripts/encode_model.py"
