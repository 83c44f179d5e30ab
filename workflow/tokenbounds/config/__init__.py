"""The configuration as types: what a study is made of, checked before any job runs.

A study is a set of named rows that refer to each other by name: corpora, models, messages, evaluations and
certificates. Every type is a frozen dataclass; unknown keys are rejected with the nearest valid key; the JSON schema
in `workflow/schemas/` and the tables in `config/README.md` are generated from here. Every default is visible below.
"""

from tokenbounds.config.antibodies import (
    AirrSource,
    AntibodySource,
    AntibodyTokenizer,
    CsvSource,
    FamilyLayout,
    FastaSource,
    IglmTokenizer,
    KeepSpec,
    OasSource,
    SingleLayout,
    SplitSpec,
)
from tokenbounds.config.calibrations import CalibrationSpec
from tokenbounds.config.certificates import (
    BoundsSpec,
    CertificateSpec,
    EvaluationSpec,
)
from tokenbounds.config.corpora import (
    ByteTokenizer,
    CorpusSpec,
    HuggingFaceSource,
    JsonLinesSource,
    ParquetSource,
    PythonStdlibSource,
    PythonTopicsSource,
    ReferenceSource,
    Source,
    TextSource,
    TokenizerSpec,
    TransformersTokenizer,
)
from tokenbounds.config.messages import MessageSpec, SmoothingHeadSpec
from tokenbounds.config.models import (
    Architecture,
    FinetunedModel,
    MarkovModel,
    ModelSpec,
    OnlineModel,
    PretrainedModel,
    TrainedModel,
    Training,
)
from tokenbounds.config.parameterizations import (
    Dense,
    Kronecker,
    KroneckerSubspace,
    Lora,
    Monarch,
    Parameterization,
    SubLora,
    Subspace,
)
from tokenbounds.config.quantizers import Quantizer, QuantizerRow, StraightThrough, Target, Tuning
from tokenbounds.config.rows import parse_row, row_json
from tokenbounds.config.study import (
    About,
    Study,
    check_row,
    load_study,
    parse_study,
    study_schema,
)
from tokenbounds.config.tasks import AffinityTask, RecoveryTask, TaskSpec

__all__ = [
    "About",
    "AffinityTask",
    "AirrSource",
    "AntibodySource",
    "AntibodyTokenizer",
    "Architecture",
    "BoundsSpec",
    "ByteTokenizer",
    "CalibrationSpec",
    "CertificateSpec",
    "CorpusSpec",
    "CsvSource",
    "Dense",
    "EvaluationSpec",
    "FamilyLayout",
    "FastaSource",
    "FinetunedModel",
    "HuggingFaceSource",
    "IglmTokenizer",
    "JsonLinesSource",
    "KeepSpec",
    "Kronecker",
    "KroneckerSubspace",
    "Lora",
    "MarkovModel",
    "MessageSpec",
    "ModelSpec",
    "Monarch",
    "OasSource",
    "OnlineModel",
    "Parameterization",
    "ParquetSource",
    "PretrainedModel",
    "PythonStdlibSource",
    "PythonTopicsSource",
    "Quantizer",
    "QuantizerRow",
    "RecoveryTask",
    "ReferenceSource",
    "SingleLayout",
    "SmoothingHeadSpec",
    "Source",
    "SplitSpec",
    "StraightThrough",
    "Study",
    "SubLora",
    "Subspace",
    "Target",
    "TaskSpec",
    "TextSource",
    "TokenizerSpec",
    "TrainedModel",
    "Training",
    "TransformersTokenizer",
    "Tuning",
    "check_row",
    "load_study",
    "parse_row",
    "parse_study",
    "row_json",
    "study_schema",
]
