"""Antibodies: tasks of the models, and tables over labelled tokens.

In    <results>/messages/{message}.tbm, <results>/corpora/{corpus}/… or tables of affinities; all certificates
Out   <results>/antibody/tasks/{task}/{message}.parquet     a model's answers: one row a region, or a variant
      <results>/antibody/{table}.{parquet,csv}              models, regions, positions, recovery, affinity, quantization
      <results>/antibody/figure_*.{svg,png,parquet,csv}     as many as have data
"""


rule run_task:
    """Decode a message in a fresh process, and try its model at a task."""
    input:
        message="<results>/messages/{message}.tbm",
        manifest=task_corpus,
        tables=task_tables,
    output:
        answers="<results>/antibody/tasks/{task}/{message}.parquet",
    log:
        "<logs>/run_task/{task}/{message}.log",
    benchmark:
        "<benchmarks>/run_task/{task}/{message}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 4
    resources:
        mem_mb=growing(4000, 60),
        runtime=growing(120, 10),
        gres="",
    params:
        row=task_row,
        files=task_fingerprint,
    script:
        "../scripts/run_task.py"


rule tabulate_antibodies:
    """Tables and figures of models, regions, positions and tasks."""
    input:
        certificates=CERTIFICATES,
        reports=MESSAGE_REPORTS,
        answers=TASK_ANSWERS,
    output:
        expand("<results>/antibody/{table}.{format}", table=ANTIBODY_TABLES, format=["parquet", "csv"]),
    log:
        "<logs>/tabulate_antibodies.log",
    benchmark:
        "<benchmarks>/tabulate_antibodies.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=growing(2500),
        runtime=growing(20),
    params:
        tasks=TASK_ROWS,
    script:
        "../scripts/tabulate_antibodies.py"
