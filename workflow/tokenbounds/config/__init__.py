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
    KeepSpec,
    OasSource,
    SingleLayout,
    SplitSpec,
)
from tokenbounds.config.calibrations import CalibrationSpec
from tokenbounds.config.certificates import (
    BoundName,
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
    Source,
    TextSource,
    TokenizerSpec,
    TransformersTokenizer,
)
from tokenbounds.config.messages import (
    CodebookQuantizer,
    CountsQuantizer,
    Finetuning,
    MessageSpec,
    Quantizer,
    SmoothingHeadSpec,
    UniformQuantizer,
)
from tokenbounds.config.models import (
    Architecture,
    MarkovModel,
    ModelSpec,
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
from tokenbounds.config.quantizers import GptqQuantizer, RtnQuantizer, Target, WatersicQuantizer
from tokenbounds.config.study import (
    Study,
    load_study,
    parse_row,
    parse_study,
    row_json,
    study_schema,
)
from tokenbounds.config.tasks import AffinityTask, RecoveryTask, TaskSpec

__all__ = [
    "AffinityTask",
    "AirrSource",
    "AntibodySource",
    "AntibodyTokenizer",
    "Architecture",
    "BoundName",
    "BoundsSpec",
    "ByteTokenizer",
    "CalibrationSpec",
    "CertificateSpec",
    "CodebookQuantizer",
    "CorpusSpec",
    "CountsQuantizer",
    "CsvSource",
    "Dense",
    "EvaluationSpec",
    "FamilyLayout",
    "FastaSource",
    "Finetuning",
    "GptqQuantizer",
    "HuggingFaceSource",
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
    "Parameterization",
    "ParquetSource",
    "PretrainedModel",
    "PythonStdlibSource",
    "PythonTopicsSource",
    "Quantizer",
    "RecoveryTask",
    "RtnQuantizer",
    "SingleLayout",
    "SmoothingHeadSpec",
    "Source",
    "SplitSpec",
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
    "UniformQuantizer",
    "WatersicQuantizer",
    "load_study",
    "parse_row",
    "parse_study",
    "row_json",
    "study_schema",
]
