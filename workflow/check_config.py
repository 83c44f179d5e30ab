"""Reads the configuration files of a run before Snakemake does, so that a fault in one is one line, not a traceback.

Arguments are Snakemake's, e.g. --configfile FILE; without that one, Snakemake reads config/config.yaml.
"""

import argparse
import sys

from tokenbounds.config.yaml_file import read_yaml
from tokenbounds.errors import ConfigError

parser = argparse.ArgumentParser(add_help=False)
parser.add_argument("--configfile", "--configfiles", nargs="+", action="extend", default=[])
parser.add_argument("--config", "-C", nargs="*")  # without it, an abbreviation of --configfile to argparse
files = parser.parse_known_args()[0].configfile

try:
    for file in files or ["config/config.yaml"]:
        read_yaml(file)
except ConfigError as error:
    sys.exit(f"error: {error}")
