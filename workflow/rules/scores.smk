"""Scores: the decoded message's loss on every planned token, one job a shard of the plan.

In    <results>/corpora/{corpus}/…  and  <results>/messages/{message}.tbm, with its side information
Out   <results>/plans/{corpus}/{evaluation}.parquet                          blocks, and which job scores them
      <results>/scores/{corpus}/{evaluation}/{message}/shard-{shard}.parquet one row a token: nll_bits, rank
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
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500, 20),
        runtime=growing(10, 1),
    params:
        row=evaluation_row,
    script:
        "../scripts/plan_scoring.py"


rule score_shard:
    """Decode the message in a fresh process and score one shard of the plan with it."""
    input:
        message="<results>/messages/{message}.tbm",
        side_information=side_information_files,
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
    threads: 4
    resources:
        mem_mb=scoring_megabytes,
        runtime=scoring_minutes,
        gres="",
    params:
        row=evaluation_row,
    script:
        "../scripts/score_shard.py"
