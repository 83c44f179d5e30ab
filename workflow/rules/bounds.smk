"""Bounds: scores and the message's size become a certificate.

In    <results>/messages/{message}.tbm, <results>/corpora/{corpus}/…, the plan and all its score shards;
      the same of every message of the chain; side information of messages; manifests of the corpora that held-out
      models and bases were trained on
Out   <results>/certificates/{certificate}.json   every bound with its ingredients, every input by hash
"""


rule certify_bound:
    """Compute every bound of a certificate from its scores."""
    input:
        unpack(on.of(graph.certificate_files)),
    output:
        certificate="<results>/certificates/{certificate}.json",
    log:
        "<logs>/certify_bound/{certificate}.log",
    benchmark:
        "<benchmarks>/certify_bound/{certificate}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=on.amount(growing(2500)),
        runtime=on.amount(growing(20, 0.02)),
    params:
        spec=on.of(graph.certificate_spec),
    script:
        "../scripts/certify_bound.py"
