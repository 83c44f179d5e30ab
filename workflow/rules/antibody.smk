"""Antibodies: tasks of the models, and tables over labelled tokens.

In    <results>/messages/{message}.tbm, <results>/corpora/{corpus}/… or tables of affinities; all certificates
Out   <results>/antibody/tasks/{task}/{message}.parquet     a model's answers: one row per region or variant
      <results>/antibody/{table}.{parquet,csv}              models, regions, positions, recovery, affinity, quantization
      <results>/antibody/figure_*.{svg,png,parquet,csv}     as many as have data
"""


rule run_task:
    """Decode a message in a fresh process, and test its model on a task."""
    input:
        message="<results>/messages/{message}.tbm",
        manifest=on.of(graph.task_corpus),
        tables=lambda wildcards: external.tables(wildcards.task).inputs,
    output:
        answers="<results>/antibody/tasks/{task}/{message}.parquet",
    log:
        "<logs>/run_task/{task}/{message}.log",
    benchmark:
        "<benchmarks>/run_task/{task}/{message}.tsv"
    wildcard_constraints:
        task=on.tasks(of_text=False),
    conda:
        "../../envs/environment.yaml"
    threads: on.of(resources.scoring_threads)
    resources:
        mem_mb=on.amount(growing(4000, 60)),
        runtime=on.amount(growing(120, 10)),
        gres="",
    params:
        row=on.row("tasks", "task"),
        files=lambda wildcards: external.tables(wildcards.task).fingerprint,
    script:
        "../scripts/run_task.py"


rule tabulate_antibodies:
    """Tables and figures of models, regions, positions and tasks."""
    input:
        certificates=reported.certificates,
        reports=reported.reports,
        answers=reported.answers,
    output:
        expand("<results>/antibody/{table}.{format}", table=graph.ANTIBODY_TABLES, format=["parquet", "csv"]),
    log:
        "<logs>/tabulate_antibodies.log",
    benchmark:
        "<benchmarks>/tabulate_antibodies.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(2500)),
        runtime=on.amount(growing(20)),
    params:
        spec=graph.tasks_spec(study),
    script:
        "../scripts/tabulate_antibodies.py"
