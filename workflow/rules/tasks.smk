"""Tasks of models of text: answers that are written and checked, and their tables and figures.

In    <results>/messages/{message}.tbm, with its side information; <results>/corpora/{corpus}/…
Out   <results>/tasks/{task}/questions.jsonl        zero-shot questions drawn from a corpus: one per line
      <results>/tasks/{task}/{message}.parquet      a model's answers: one row per prompt
      <results>/tasks/{table}.{parquet,csv}         what they come to, with bounds
      <results>/tasks/figure_*.{svg,png,parquet,csv}
"""


rule draw_questions:
    """Draw zero-shot questions from a corpus into a file that a task of any study can read."""
    input:
        manifest=on.of(graph.task_corpus),
    output:
        questions="<results>/tasks/{task}/questions.jsonl",
    log:
        "<logs>/draw_questions/{task}.log",
    benchmark:
        "<benchmarks>/draw_questions/{task}.tsv"
    wildcard_constraints:
        task=on.tasks(of_text=True),
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(2000, 20)),
        runtime=on.amount(growing(30)),
    params:
        row=on.row("tasks", "task"),
        tokenizer=on.of(graph.question_tokenizer),
    script:
        "../scripts/draw_questions.py"


rule measure_task:
    """Decode a message in a fresh process, and let its model answer the prompts of a task."""
    input:
        message="<results>/messages/{message}.tbm",
        side_information=on.of(graph.side_information),
        manifest=on.of(graph.asked_corpus),
        original=on.of(graph.sampled_original),
        drawn=on.of(graph.drawn_questions),
        questions=lambda wildcards: external.tables(wildcards.task).inputs,
    output:
        answers="<results>/tasks/{task}/{message}.parquet",
    log:
        "<logs>/measure_task/{task}/{message}.log",
    benchmark:
        "<benchmarks>/measure_task/{task}/{message}.tsv"
    wildcard_constraints:
        task=on.tasks(of_text=True),
    conda:
        "../../envs/environment.yaml"
    threads: on.of(resources.scoring_threads)
    resources:
        mem_mb=on.amount(growing(4000, 60)),
        runtime=on.amount(growing(120, 10)),
        gres="",
    params:
        row=on.row("tasks", "task"),
        tokenizers=on.of(graph.task_tokenizers),
        files=lambda wildcards: external.tables(wildcards.task).fingerprint,
    script:
        "../scripts/measure_task.py"


rule tabulate_tasks:
    """Shares of right answers, what bounds say of new prompts, and figures."""
    input:
        certificates=reported.certificates,
        reports=reported.reports,
        answers=reported.measured,
    output:
        expand("<results>/tasks/{table}.{format}", table=graph.TASK_TABLES, format=["parquet", "csv"]),
    log:
        "<logs>/tabulate_tasks.log",
    benchmark:
        "<benchmarks>/tabulate_tasks.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(2500)),
        runtime=on.amount(growing(20)),
    params:
        spec=graph.tasks_spec(study, of_text=True),
    script:
        "../scripts/tabulate_tasks.py"
