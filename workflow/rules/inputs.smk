"""What each step reads, and the rows of the study it depends on: functions of wildcards, in the order of the stages."""

# Snakemake itself knows it only once all rules are read.
DRY_RUN = any(re.fullmatch(r"--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", argument) for argument in sys.argv)

# --- corpus -----------------------------------------------------------------------------------------------------------


@cache
def files_of_source(corpus: str) -> list[str]:
    """Files of a corpus's source; none if it is not made of files."""
    try:
        return [str(path) for path in source_files(study.corpora[corpus].source)]
    except TokenboundsError as error:
        if DRY_RUN:
            print(f"corpora.{corpus}.source: {error} Its jobs are listed as if it were there.", file=sys.stderr)
            return []
        raise WorkflowError(f"corpora.{corpus}.source: {error}") from None


@cache
def files_of_corpus(corpus: str) -> list[str]:
    """Local files that a corpus is made from: those of its source, and of its tokenizer."""
    tokenizer = [str(path) for path in tokenizer_files(study.corpora[corpus].tokenizer)]
    return list(dict.fromkeys([*files_of_source(corpus), *tokenizer]))


def corpus_sources(wildcards) -> list[str]:
    """Files of the corpus's source and tokenizer, so that editing one tokenizes again."""
    return plainly_named(files_of_corpus(wildcards.corpus))


def plainly_named(paths: list[str]) -> list[str]:
    """Paths that mean themselves to Snakemake; the others count by their fingerprint alone."""
    return [path for path in paths if not re.search(r"[{}<>]", path)]


def corpus_fingerprint(wildcards) -> str:
    """Hash of what corpus_sources lists, as a file may be replaced by an older one, or one of the same time."""
    return fingerprint_of(files_of_corpus(wildcards.corpus))


def fingerprint_of(paths: list[str]) -> str:
    """Hash of files' names, sizes, beginnings and ends; a file that cannot be read ends the run in one line."""
    try:
        return fingerprint(map(Path, paths))
    except TokenboundsError as error:
        raise WorkflowError(str(error)) from None


def disjoint_corpus(wildcards) -> list[str]:
    """Manifest of the corpus that the tokenizer was trained on, if there is one."""
    trained_on = getattr(study.corpora[wildcards.corpus].tokenizer, "trained_on", "published")
    return [] if trained_on == "published" else [f"<results>/corpora/{trained_on}/manifest.json"]


def corpus_row(wildcards) -> str:
    """The corpus's row of the study."""
    return row_json(study.corpora[wildcards.corpus])


# --- models -----------------------------------------------------------------------------------------------------------


def training_corpus(wildcards) -> str:
    """Manifest of the corpus that a model is trained on or counted from."""
    return f"<results>/corpora/{study.models[wildcards.model].corpus}/manifest.json"


def starting_model(wildcards) -> list[str]:
    """Card and values of the model that training starts from; none if values are random."""
    name = study.models[wildcards.model].start
    return [f"<results>/models/{name}/{file}" for file in ("card.json", "model.safetensors") if name]


def pretrained_files(wildcards) -> list[str]:
    """Files of a checkpoint in a folder, so that replacing one imports again."""
    return plainly_named(files_of_checkpoint(wildcards.model))


def pretrained_fingerprint(wildcards) -> str:
    """Hash of what pretrained_files lists."""
    return fingerprint_of(files_of_checkpoint(wildcards.model))


@cache
def files_of_checkpoint(name: str) -> list[str]:
    """Files of a checkpoint in a folder; none for one in a package or on the hub."""
    model = study.models[name]
    folder = Path(model.name or "")
    if model.package is not None or not folder.is_dir():
        return []
    return sorted(str(path) for path in folder.iterdir() if path.suffix in {".safetensors", ".gguf", ".json"})


def model_row(wildcards) -> str:
    """The model's row of the study."""
    return row_json(study.models[wildcards.model])


def training_workdir(wildcards) -> str:
    """Where training keeps resumable checkpoints: a folder of this row alone, so that no other row resumes from it."""
    digest = hashlib.sha256(model_row(wildcards).encode()).hexdigest()[:12]
    return f"{study.results}/work/{wildcards.model}-{digest}"


def base_files(wildcards) -> list[str]:
    """Card and values of the base that a model is fine-tuned over."""
    return files_of_model(study.models[wildcards.model].base)


def files_of_model(name: str) -> list[str]:
    """Card and values of a model."""
    values = "counts.arrow" if study.models[name].kind == "markov" else "model.safetensors"
    return [f"<results>/models/{name}/card.json", f"<results>/models/{name}/{values}"]


# --- messages ---------------------------------------------------------------------------------------------------------


def calibrated_model(wildcards) -> list[str]:
    """Card and values of the model that is calibrated."""
    name = study.calibrations[wildcards.calibration].model
    return [f"<results>/models/{name}/card.json", f"<results>/models/{name}/model.safetensors"]


def calibration_corpus(wildcards) -> list[str]:
    """Manifest of the corpus that a model is calibrated on."""
    return [f"<results>/corpora/{study.calibrations[wildcards.calibration].corpus}/manifest.json"]


def calibration_row(wildcards) -> str:
    """The calibration's row of the study."""
    return row_json(study.calibrations[wildcards.calibration])


def model_files(wildcards) -> list[str]:
    """Card and values of the model that a message holds."""
    return files_of_model(study.messages[wildcards.message].model)


def side_information_files(wildcards) -> list[str]:
    """Files of a message's side information: the base of a fine-tune, the message that it refines."""
    return files_of_side_information([wildcards.message])


def files_of_side_information(messages: Iterable[str]) -> list[str]:
    """Files of the side information of messages: cards and values of bases, and coarse messages; each once."""
    bases, coarse = side_information(messages)
    files = [path for name in bases for path in files_of_model(name)]
    return [*files, *(f"<results>/messages/{name}.tbm" for name in coarse)]


def side_information(messages: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names of the bases and of the coarse messages that messages are decoded with, each once."""
    found = [(base_model(study, name), coarse_message(study, name)) for name in messages]
    return tuple(list(dict.fromkeys(name for name in names if name is not None)) for names in zip(*found))


def finetuning_corpus(wildcards) -> list[str]:
    """Manifest of the model's training corpus, if a message is trained, searched or smoothed on one."""
    message = study.messages[wildcards.message]
    corpus = getattr(study.models[message.model], "corpus", None)
    needs = message.quantizer.needs()
    needed = needs.training_steps or message.smoothing_head is not None
    if needs.target is not None and needs.target.corpus is not None:
        return [f"<results>/corpora/{needs.target.corpus}/manifest.json"]
    return [f"<results>/corpora/{corpus}/manifest.json"] if corpus and needed else []


def message_calibration(wildcards) -> list[str]:
    """The calibration that the message's quantizer names, if it does."""
    calibration = study.messages[wildcards.message].quantizer.needs().calibration
    return [f"<results>/calibrations/{calibration}.safetensors"] if calibration else []


def message_row(wildcards) -> str:
    """The message's row of the study."""
    return row_json(study.messages[wildcards.message])


# --- scores -----------------------------------------------------------------------------------------------------------


def evaluation_row(wildcards) -> str:
    """The evaluation's row of the study."""
    return row_json(study.evaluations[wildcards.evaluation])


# --- bounds -----------------------------------------------------------------------------------------------------------


def certified(wildcards) -> dict[str, str | list[str]]:
    """Files that a certificate rests on."""
    row = study.certificates[wildcards.certificate]
    messages = (*row.chain, row.message)
    return {
        "manifest": f"<results>/corpora/{row.corpus}/manifest.json",
        "plan": f"<results>/plans/{row.corpus}/{row.evaluation}.parquet",
        "messages": [f"<results>/messages/{message}.tbm" for message in messages],
        "scores": [path for message in messages for path in score_files("<results>", row, message)],
        "trained_on": [f"<results>/corpora/{corpus}/manifest.json" for corpus in trained_on(row)],
        "side_information": files_of_side_information(messages),
    }


def score_files(results: str, row, message: str) -> list[str]:
    """Score files of a message, as a certificate's evaluation scores it."""
    folder = f"{results}/scores/{row.corpus}/{row.evaluation}/{message}"
    return [f"{folder}/shard-{shard:05d}.parquet" for shard in range(study.evaluations[row.evaluation].shards)]


def trained_on(row) -> list[str]:
    """Names of the corpora that held-out models, or else bases, were trained on."""
    return training_corpora(study, row) if row.prior == "held_out" else base_corpora(study, row)


def certificate_inputs(wildcards) -> str:
    """What each of these files is to the certificate: the fields of `CertificateInputs`, as JSON."""
    row, results = study.certificates[wildcards.certificate], study.results
    messages = (*row.chain, row.message)
    bases, coarse = side_information(messages)
    corpora = [f"{results}/corpora/{corpus}" for corpus in trained_on(row)]
    held_out = row.prior == "held_out"
    return json.dumps(
        {
            "corpus": f"{results}/corpora/{row.corpus}",
            "plan": f"{results}/plans/{row.corpus}/{row.evaluation}.parquet",
            "links": [
                {"message": f"{results}/messages/{message}.tbm", "scores": score_files(results, row, message)}
                for message in messages
            ],
            "held_out": corpora if held_out else None,
            "base_corpora": [] if held_out else corpora,
            "side_information": [
                *(f"{results}/messages/{name}.tbm" for name in coarse),
                *(f"{results}/models/{name}" for name in bases),
            ],
        }
    )


def bounds_row(wildcards) -> str:
    """What the certificate states: its failure probability, metrics, bounds and grids."""
    return row_json(study.certificates[wildcards.certificate].bounds)


def certified_model(wildcards) -> str:
    """Name of the model that the certificate's message decodes to."""
    return study.messages[study.certificates[wildcards.certificate].message].model


# --- report -----------------------------------------------------------------------------------------------------------


CERTIFICATES = [f"<results>/certificates/{name}.json" for name in sorted(study.certificates)]
CERTIFIED_MODELS = {study.messages[row.message].model for row in study.certificates.values()}
CURVES = {
    name: f"<results>/models/{name}/training.parquet"
    for name in sorted(CERTIFIED_MODELS)
    if study.models[name].kind in ("trained", "finetuned")
}


def compression_method(message) -> tuple[str, str] | None:
    """Parameterization and quantizer of a message of a transformer; none if nothing is compressed."""
    model = study.models[message.model]
    if model.kind == "markov" or message.quantizer.models == "fixed":
        return None
    parameterization = "dense" if model.kind == "pretrained" else model.parameterization.kind
    return parameterization, message.quantizer.kind


CERTIFIED_MESSAGES = sorted({row.message for row in study.certificates.values()})
FIGURES = ["bound_by_size", "bound_by_alpha", "loss_by_position", "message_anatomy"]
FIGURES += ["training"] if CURVES else []
# Several methods of compression, and of one of them several sizes.
METHODS = [method for name in CERTIFIED_MESSAGES if (method := compression_method(study.messages[name]))]
FIGURES += ["bound_by_method"] if 1 < len(set(METHODS)) < len(METHODS) else []


# --- antibodies -------------------------------------------------------------------------------------------------------


def task_row(wildcards) -> str:
    """The task's row of the study."""
    return row_json(study.tasks[wildcards.task])


def task_corpus(wildcards) -> list[str]:
    """Manifest of the corpus that a task draws sequences from, if it does."""
    task = study.tasks[wildcards.task]
    return [f"<results>/corpora/{task.corpus}/manifest.json"] if task.kind == "recovery" else []


def task_tables(wildcards) -> list[str]:
    """Tables of measured affinities that a task reads, if it does."""
    return plainly_named(files_of_task(wildcards.task))


def task_fingerprint(wildcards) -> str:
    """Hash of what task_tables lists."""
    return fingerprint_of(files_of_task(wildcards.task))


@cache
def files_of_task(name: str) -> list[str]:
    """Files of a task; none if it reads a corpus."""
    task = study.tasks[name]
    try:
        return [str(path) for path in affinity_files(task)] if task.kind == "affinity" else []
    except TokenboundsError as error:
        raise WorkflowError(f"tasks.{name}.paths: {error}") from None


HAS_ANTIBODIES = bool(study.tasks) or any(
    row.bounds.subsets and study.corpora[row.corpus].source.kind in ("airr", "oas", "fasta", "csv")
    for row in study.certificates.values()
)
ANTIBODY_TABLES = ["models", "regions", "positions", "recovery", "affinity", "quantization"]
ANTIBODY_RESULTS = [f"<results>/antibody/{table}.parquet" for table in ANTIBODY_TABLES] if HAS_ANTIBODIES else []
TASK_ROWS = [list(study.tasks), [row_json(task) for task in study.tasks.values()]]
TASK_ANSWERS = [
    f"<results>/antibody/tasks/{name}/{message}.parquet"
    for name, task in study.tasks.items()
    for message in task.messages
]
REPORTED_MESSAGES = {row.message for row in study.certificates.values()} | {
    message for task in study.tasks.values() for message in task.messages
}
MESSAGE_REPORTS = [f"<results>/messages/{message}.json" for message in sorted(REPORTED_MESSAGES)]


# --- the end ----------------------------------------------------------------------------------------------------------


def print_summary(study) -> None:
    """Print the certificates of a finished run, and where the report is, if this run or an earlier one wrote it."""
    from tokenbounds.report.tables import print_table

    folder = Path(study.results)
    paths = [folder / "certificates" / f"{name}.json" for name in sorted(study.certificates)]
    there, page = [path for path in paths if path.is_file()], folder / "report.html"
    if there:  # a run of some rules may have made none
        print_table(there, page if page.is_file() else None)


# Missing sources end the run before any job starts, in one line; an input function would add a traceback.
if workflow.is_main_process:
    for corpus in study.corpora:
        files_of_source(corpus)
    for task in study.tasks:
        files_of_task(task)
