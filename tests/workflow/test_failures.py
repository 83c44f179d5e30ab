"""Runs that cannot succeed end with one clear error; killed runs continue to the same results."""

import pytest
from tiny_study import ROOT, parse_jobs, snakemake, tiny_config

pytestmark = pytest.mark.workflow


def test_a_misspelt_key_is_named_with_the_nearest_valid_one(fresh):
    config = tiny_config()
    config["corpora"]["letters"]["shrads"] = config["corpora"]["letters"].pop("shards")
    done = fresh.snakemake(config=fresh.write_config(config))
    assert done.returncode != 0
    assert "corpora.letters.shrads: unknown key, did you mean 'shards'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (fresh.folder / "results").exists()


def test_a_section_that_stands_twice_is_named_with_both_lines(fresh):
    path = fresh.write_config(tiny_config())
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, "models:", "  other: {kind: markov, corpus: numbers}", ""]))
    done = fresh.snakemake("--dry-run", config=path)
    assert done.returncode != 0
    first = lines.index("models:") + 1
    assert f"the key 'models' occurs twice, in line {first} and in line {len(lines) + 1}" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_folder_of_results_is_one_of_its_own(fresh):
    done = fresh.snakemake("--dry-run", config=fresh.write_config({**tiny_config(), "results": ""}))
    assert done.returncode != 0
    assert "results: '' is not a folder of its own. Name one, e.g. results/tiny." in done.stdout + done.stderr


def test_a_run_of_the_first_steps_alone_ends_well(fresh):
    done = fresh.snakemake("--until", "tokenize_corpus")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (fresh.folder / "results/corpora/letters/manifest.json").is_file()
    assert not (fresh.folder / "results/certificates").exists()


def test_a_source_that_matches_no_file_is_named(fresh):
    config = tiny_config()
    config["corpora"]["numbers"]["source"]["paths"] = ["nowhere/*.txt"]
    done = fresh.snakemake(config=fresh.write_config(config))
    assert done.returncode != 0
    assert "corpora.numbers.source: nowhere/*.txt matches no file" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_failed_job_says_why_in_one_line_and_leaves_no_output(fresh):
    for path in (fresh.folder / "numbers").iterdir():
        path.write_text("")
    target = "results/corpora/numbers/manifest.json"
    done = fresh.snakemake(target)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == ["error: corpus numbers is empty: its source gave no token. Check the source's paths and field."]
    log = (fresh.folder / "logs/tokenize_corpus/numbers.log").read_text()
    assert "ERROR tokenbounds: corpus numbers is empty" in log
    assert "Traceback" not in log
    assert not any(path.is_file() for path in (fresh.folder / "results" / "corpora" / "numbers").glob("*"))


def test_the_workflow_is_a_module_of_another_one(fresh):
    """From another folder, with that workflow's configuration and a rule of its own."""
    config = fresh.write_config(tiny_config())
    (fresh.folder / "Snakefile").write_text(
        f'configfile: "{config.name}"\n'
        f'module tokenbounds:\n    snakefile: "{ROOT}/Snakefile"\n    config: config\n'
        "use rule * from tokenbounds\n"
        'rule mine:\n    input: "results/report.html"\n    output: "mine.txt"\n    shell: "touch {output}"\n'
    )
    done = snakemake(fresh.folder, ["--dry-run", "--cores", "1", "mine"])
    jobs = parse_jobs(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    assert {"mine", "write_report", "certify_bound certificate=chain"} <= jobs
