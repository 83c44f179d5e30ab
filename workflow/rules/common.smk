"""Glue: the checked study, and the library's functions as functions of wildcards.

What each step reads is in `tokenbounds.config.graph`, what it asks for in `tokenbounds.config.resources`.
"""

import re
import sys
from functools import cache

from snakemake.exceptions import WorkflowError
from tokenbounds.config import graph, parse_study, resources
from tokenbounds.config.resources import growing
from tokenbounds.config.wildcards import Functions, one_of
from tokenbounds.config.yaml_file import read_yaml
from tokenbounds.corpus.sources import source_files
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import canonical_json
from tokenbounds.models.pretrained.files import checkpoint_files
from tokenbounds.tasks.tables import affinity_files

# Snakemake itself knows it only once all rules are read.
DRY_RUN = any(re.fullmatch(r"--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", argument) for argument in sys.argv)


def checked_study():
    """The study of the configuration; faults end the run before any job starts."""
    try:
        for path in workflow.overwrite_configfiles or workflow.configfiles:
            read_yaml(path)  # Snakemake has read it, and took the last of equal keys
        return parse_study(config)
    except TokenboundsError as error:
        raise WorkflowError(str(error)) from None


def outside(where: str, find, row) -> list[str]:
    """Files outside the results that a row names; a dry run goes on without them."""
    try:
        return [str(path) for path in find(row)]
    except TokenboundsError as error:
        if not DRY_RUN:
            raise WorkflowError(f"{where}: {error}") from None
        print(f"{where}: {error} Its jobs are listed as if it were there.", file=sys.stderr)
        return []


@cache
def files_of_source(corpus: str) -> list[str]:
    return outside(f"corpora.{corpus}.source", source_files, study.corpora[corpus].source)


@cache
def files_of_task(task: str) -> list[str]:
    row = study.tasks[task]
    return outside(f"tasks.{task}.paths", affinity_files, row) if row.kind == "affinity" else []


study = checked_study()
on = Functions(study)
reported = graph.report(study)

# Missing sources end the run before any job starts, in one line; an input function would add a traceback.
if workflow.is_main_process:
    list(map(files_of_source, study.corpora))
    list(map(files_of_task, study.tasks))
