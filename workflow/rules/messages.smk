"""Messages: a model becomes the bits that count.

In    <results>/models/{model}/…                           card and values; for a fine-tune those of its base too
      <results>/corpora/{corpus}/…                         to calibrate, or if quantized weights are trained further
      <results>/messages/{message}.tbm                     only for a refinement: the coarse message
Out   <results>/calibrations/{calibration}.safetensors     what its layers see and how much their outputs matter
      <results>/messages/{message}.tbm                     the message: C = 8 × its size in bytes
      <results>/messages/{message}.json                    its bits by part
"""


rule calibrate_model:
    """Run a model over calibration tokens, forward and backward, one block at a time."""
    input:
        model=on.of(graph.calibrated_model),
        manifest=on.of(graph.calibration_corpus),
    output:
        calibration="<results>/calibrations/{calibration}.safetensors",
    log:
        "<logs>/calibrate_model/{calibration}.log",
    benchmark:
        "<benchmarks>/calibrate_model/{calibration}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 16
    resources:
        mem_mb=on.amount(growing(5000, 2)),
        runtime=on.amount(resources.calibration_minutes),
        gres="",
    params:
        row=on.row("calibrations", "calibration"),
    script:
        "../scripts/calibrate_model.py"


rule encode_model:
    """Quantize a model, write its message, decode it again and compare tensor by tensor."""
    input:
        model=on.of(graph.encoded_model),
        manifest=on.of(graph.encoding_corpus),
        calibration=on.of(graph.encoding_calibration),
        side_information=on.of(graph.side_information),
    output:
        message="<results>/messages/{message}.tbm",
        report="<results>/messages/{message}.json",
    log:
        "<logs>/encode_model/{message}.log",
    benchmark:
        "<benchmarks>/encode_model/{message}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: on.of(resources.encoding_threads)
    resources:
        mem_mb=on.amount(resources.encoding_megabytes),
        runtime=on.amount(growing(120, 1)),
        gres="",
    params:
        row=on.row("messages", "message"),
    script:
        "../scripts/encode_model.py"
