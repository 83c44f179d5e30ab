"""Glue: the checked study, and the library's functions as functions of wildcards.

What each step reads is in `tokenbounds.config.graph`, what it asks for in `tokenbounds.config.resources`.
"""

import sys

from tokenbounds.config import graph, parse_study, resources
from tokenbounds.config.resources import growing
from tokenbounds.config.wildcards import Functions, one_of
from tokenbounds.config.yaml_file import read_yaml
from tokenbounds.external_files import ExternalFiles, is_dry_run
from tokenbounds.files import canonical_json

# Snakemake has read the configuration and taken the last of repeated keys; here it is read again to refuse them.
for path in workflow.overwrite_configfiles or workflow.configfiles:
    read_yaml(path)

study = parse_study(config)
on = Functions(study)
reported = graph.report(study)
external = ExternalFiles(study, dry_run=is_dry_run(sys.argv))

# Missing sources end the run before any job starts.
if workflow.is_main_process:
    external.find_all()
