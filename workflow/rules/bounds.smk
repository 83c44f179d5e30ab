"""Bounds: scores and the message's size become a certificate.

In    <results>/messages/{message}.tbm, <results>/corpora/{corpus}/…, the plan and all its score shards
Out   <results>/certificates/{certificate}.json   every bound with its ingredients, every input by hash
"""


def certified(wildcards) -> dict[str, str | list[str]]:
    """Files that a certificate rests on."""
    row = study.certificates[wildcards.certificate]
    shards = study.evaluations[row.evaluation].shards
    return {
        "message": f"<results>/messages/{row.message}.tbm",
        "manifest": f"<results>/corpora/{row.corpus}/manifest.json",
        "plan": f"<results>/plans/{row.corpus}/{row.evaluation}.parquet",
        "scores": [
            f"<results>/scores/{row.corpus}/{row.evaluation}/{row.message}/shard-{shard:05d}.parquet"
            for shard in range(shards)
        ],
    }


def certificate_row(wildcards) -> str:
    """The certificate's row of the study."""
    return row_json(study.certificates[wildcards.certificate])


rule certify_bound:
    """Compute every bound of a certificate in one pass over its scores."""
    input:
        unpack(certified),
    output:
        certificate="<results>/certificates/{certificate}.json",
    log:
        "<logs>/certify_bound/{certificate}.log",
    benchmark:
        "<benchmarks>/certify_bound/{certificate}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 2
    resources:
        mem_mb=growing(2500),
        runtime=growing(20, 0.02),
    params:
        study=study.study,
        row=certificate_row,
    script:
        "../scripts/certify_bound.py"
