"""Report: all certificates as tables, figures and one page.

In    <results>/certificates/*.json, <results>/messages/*.json; figures also read the score files that certificates name;
      <results>/antibody/… if the study has tasks or rows over labelled tokens
Out   <results>/tables/certificates.{parquet,csv,md}     one row per certificate, metric and bound
      <results>/tables/compression.{parquet,csv,md}      one row per transformer: parameters, bits, best bounds
      <results>/figures/*.{svg,png,parquet,csv}          each figure with its data
      <results>/report.html                              everything on one page, without other files
      <results>/SHA256SUMS                               digests of all of these, of questions, and of what encoders say
"""


rule tabulate_certificates:
    """One row per certificate, metric and bound; and what each method of compression trains, costs and buys."""
    input:
        certificates=reported.certificates,
        reports=reported.certified_reports,
    output:
        parquet="<results>/tables/certificates.parquet",
        csv="<results>/tables/certificates.csv",
        markdown="<results>/tables/certificates.md",
        compression=expand("<results>/tables/compression.{format}", format=["parquet", "csv", "md"]),
    log:
        "<logs>/tabulate_certificates.log",
    benchmark:
        "<benchmarks>/tabulate_certificates.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(1500)),
        runtime=on.amount(growing(10)),
    script:
        "../scripts/tabulate_certificates.py"


rule draw_figures:
    """Bounds against message size and smoothing, perhaps beside published ones; loss by position, training and more."""
    input:
        certificates=reported.certificates,
        curves=list(reported.curves.values()),
        reports=reported.certified_reports,
        published=[study.published_numbers] if study.published_numbers else [],
        losses=[study.published_losses] if study.published_losses else [],
    output:
        expand(
            "<results>/figures/{figure}.{format}",
            figure=reported.figures,
            format=["svg", "png", "parquet", "csv"],
        ),
    log:
        "<logs>/draw_figures.log",
    benchmark:
        "<benchmarks>/draw_figures.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(2500)),
        runtime=on.amount(growing(20)),
    params:
        curves=canonical_json(reported.curves),
        methods="bound_by_method" in reported.figures,
    script:
        "../scripts/draw_figures.py"


rule write_report:
    """One page for people, every number linked to its certificate."""
    input:
        certificates=reported.certificates,
        tables=rules.tabulate_certificates.output,
        figures=rules.draw_figures.output,
        antibodies=reported.antibodies,
        tasks=reported.task_tables,
    output:
        report="<results>/report.html",
    log:
        "<logs>/write_report.log",
    benchmark:
        "<benchmarks>/write_report.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(1500)),
        runtime=on.amount(growing(10)),
    script:
        "../scripts/write_report.py"


rule sum_published:
    """Digests of everything that people read: `tokenbounds verify results` compares them."""
    input:
        reported.certificates,
        reported.reports,
        reported.antibodies,
        reported.questions,
        reported.task_tables,
        rules.tabulate_certificates.output,
        rules.draw_figures.output,
        rules.write_report.output,
    output:
        sums="<results>/SHA256SUMS",
    log:
        "<logs>/sum_published.log",
    benchmark:
        "<benchmarks>/sum_published.tsv"
    localrule: True
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(1000)),
        runtime=on.amount(growing(10)),
    script:
        "../scripts/sum_published.py"
