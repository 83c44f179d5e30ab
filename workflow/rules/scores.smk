"""Scores: the decoded message's loss on every planned token, one job per shard of the plan.

In    <results>/corpora/{corpus}/…  and  <results>/messages/{message}.tbm, with its side information
Out   <results>/plans/{corpus}/{evaluation}.parquet                          blocks, and which job scores them
      <results>/scores/{corpus}/{evaluation}/{message}/shard-{shard}.parquet one row per token: nll_bits, rank
"""


rule plan_scoring:
    """Decide which tokens are scored, in which windows, by which job."""
    input:
        manifest="<results>/corpora/{corpus}/manifest.json",
        documents="<results>/corpora/{corpus}/documents.parquet",
    output:
        plan="<results>/plans/{corpus}/{evaluation}.parquet",
    log:
        "<logs>/plan_scoring/{corpus}/{evaluation}.log",
    benchmark:
        "<benchmarks>/plan_scoring/{corpus}/{evaluation}.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(1500, 20)),
        runtime=on.amount(growing(10, 1)),
    params:
        row=on.row("evaluations", "evaluation"),
    script:
        "../scripts/plan_scoring.py"


rule score_shard:
    """Decode the message in a fresh process and score one shard of the plan with it."""
    input:
        message="<results>/messages/{message}.tbm",
        side_information=on.of(graph.side_information),
        original=on.of(graph.original_model),
        manifest="<results>/corpora/{corpus}/manifest.json",
        plan="<results>/plans/{corpus}/{evaluation}.parquet",
    output:
        scores="<results>/scores/{corpus}/{evaluation}/{message}/shard-{shard}.parquet",
    log:
        "<logs>/score_shard/{corpus}/{evaluation}/{message}/{shard}.log",
    benchmark:
        "<benchmarks>/score_shard/{corpus}/{evaluation}/{message}/{shard}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: on.of(resources.scoring_threads)
    resources:
        mem_mb=on.amount(resources.scoring_megabytes),
        runtime=on.amount(resources.scoring_minutes),
        gres="",
    params:
        row=on.row("evaluations", "evaluation"),
        centre_order=on.of(graph.centre_order),
    script:
        "../scripts/score_shard.py"
