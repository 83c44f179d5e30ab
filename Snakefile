"""From a corpus and language models to certificates: `snakemake --cores all`, with `--configfile` for your own study."""

from snakemake.utils import min_version

min_version("9.27")

# A study given on the command line replaces the default one; Snakemake by itself would merge the two.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=study.results,
    logs="logs" if study.results == "results" else f"{study.results}/logs",
    benchmarks=f"{study.results}/benchmarks",


wildcard_constraints:
    corpus=one_of(study.corpora),
    model=one_of(study.models),
    calibration=one_of(study.calibrations),
    message=one_of(study.messages),
    evaluation=one_of(study.evaluations),
    certificate=one_of(study.certificates),
    task=one_of(study.tasks),
    shard=r"\d{5}",


include: "workflow/rules/corpus.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/messages.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/bounds.smk"
include: "workflow/rules/antibody.smk"
include: "workflow/rules/tasks.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        reported.certificates,
        rules.tabulate_certificates.output,
        rules.draw_figures.output,
        reported.antibodies,
        reported.task_tables,
        rules.write_report.output,
        rules.sum_published.output,
    localrule: True


onsuccess:
    from tokenbounds.report.summary import print_summary

    print_summary(study)
