"""The meaning of every key of a configuration, in one sentence each; `docs.py` joins them with the types."""

INTRODUCTION = """
# Configuration

A configuration file is one study: named rows that refer to each other by name. Give yours to Snakemake with
`snakemake --cores all --configfile my-study.yaml`; it replaces the default study, `config/config.yaml`. The smallest
useful one has a corpus, a model, a message and a certificate:

```yaml
study: my-study
corpora:
  notes: {source: {kind: text, paths: [notes/]}}
models:
  markov: {kind: markov, corpus: notes, order: 1}
messages:
  markov: {model: markov, quantizer: {kind: counts}}
certificates:
  markov: {message: markov, corpus: notes}
```

Names may hold letters, digits, `.`, `_` and `-`; they become file names. Unknown keys are errors. Editing a row makes
the next run repeat only what depends on that row; comments and the order of keys mean nothing. Editors that know JSON
schemas can complete keys from `workflow/schemas/study.schema.json`. Memory, run time and GPUs are not part of a study:
they are the business of Snakemake's profile (`slurm/config.yaml`).
"""

_POST_TRAINING_KEYS = {
    "RtnQuantizer": ("target", "steps", "embedding_bits_per_weight"),
    "GptqQuantizer": ("calibration", "target", "steps", "damping", "embedding_bits_per_weight"),
    "QuipQuantizer": ("calibration", "target", "seed", "damping", "embedding_bits_per_weight"),
    "WatersicQuantizer": ("calibration", "target", "damping", "rate_weight", "trellis", "embedding_bits_per_weight"),
    "QuipSharpQuantizer": ("calibration", "damping"),
}

KEYS: dict[str, str] = {
    "Study.study": "Name of the study; it stands in certificates, tables and the report.",
    "Study.corpora": "The texts that models are trained on and certified for.",
    "Study.models": "What is to be compressed.",
    "Study.messages": "How models become bits.",
    "Study.certificates": "What is to be certified. Only what a certificate needs is computed.",
    "Study.calibrations": "What quantizers of pretrained models know of them beyond their values.",
    "Study.evaluations": "How tokens are scored. Without this key there is one row, `default`, all defaults.",
    "Study.tasks": "What antibody models are tried at, beside being certified: docs/antibody.md.",
    "Study.results": "Folder of all results, relative to where Snakemake runs.",
    "CorpusSpec.source": "Where the documents come from.",
    "CorpusSpec.tokenizer": "How documents become tokens.",
    "CorpusSpec.shards": "Number of files that the tokens are spread over. It changes no result.",
    "PythonTopicsSource.part": "All topics, or every second one by name, from the first or the second on.",
    "TextSource.paths": "Files, folders (searched for `*.txt`) or glob patterns.",
    "TextSource.licence": "The documents' licence, for the manifest.",
    "JsonLinesSource.paths": "Files, folders (searched for `*.jsonl` and `*.jsonl.gz`) or glob patterns.",
    "JsonLinesSource.field": "Key of each line's object that holds the text.",
    "JsonLinesSource.licence": "The documents' licence, for the manifest.",
    "ParquetSource.paths": "Files, folders (searched for `*.parquet`) or glob patterns.",
    "ParquetSource.field": "Column that holds the text.",
    "ParquetSource.licence": "The documents' licence, for the manifest.",
    "HuggingFaceSource.name": "Name on the hub, or a folder written by `save_to_disk`.",
    "HuggingFaceSource.subset": "Configuration of the dataset, if it has several.",
    "HuggingFaceSource.split": "Split to read.",
    "HuggingFaceSource.field": "Column that holds the text.",
    "HuggingFaceSource.revision": "Branch, tag or commit on the hub; pin it for results that can be repeated.",
    "HuggingFaceSource.documents": "Take only this many documents, from the first on.",
    "HuggingFaceSource.licence": "The documents' licence, for the manifest.",
    "SequenceSource.paths": "Files, folders (searched for the format's usual endings) or glob patterns.",
    "SequenceSource.package": "Installed Python package in whose folder `paths` lie; it is found, never imported.",
    "SequenceSource.licence": "The sequences' licence, for the manifest.",
    "SequenceSource.clone": "Where a sequence's clone stands: a column (FASTA: a field of the header), or `@file`, "
    "which makes each file a clone.",
    "SequenceSource.donor": "Where a sequence's donor stands: a column (FASTA: a field of the header; OAS: also a key "
    "of the metadata), or `@file`. Clones of different donors are different clones.",
    "SequenceSource.keep": "What is read although it is left out by default.",
    "SequenceSource.layout": "What a document is.",
    "SequenceSource.split": "Take one part of the source only; `null` takes all.",
    "SequenceSource.regions": "How regions are found, in this order: `columns` of the file, IMGT-gapped `alignment`, "
    "or `immunum`, which must be installed once a sequence needs it. What none of them labels is `none`.",
    "AirrSource.chains": "Which chains to read; `paired` joins the two chains of each cell.",
    "AirrSource.residues": "Column of amino acids. `null` takes `sequence_alignment_aa`, else translates "
    "`sequence_alignment`, else takes `sequence_aa`, else translates `sequence`.",
    "AirrSource.germline": "Column of the germline alignment (nucleotides), e.g. `germline_alignment_d_mask`.",
    "AirrSource.cell": "Column by which `paired` chains are joined.",
    "AirrSource.check_schema": "Check each file against the AIRR schema; the package `airr` must be installed.",
    "OasSource.chains": "Which chains to read; `paired` reads paired units.",
    "FastaSource.chain": "Which chain the sequences are; `null` leaves it to IMGT numbering.",
    "FastaSource.molecule": "What the letters are; nucleotides are translated from the first base on.",
    "CsvSource.heavy": "Column of heavy chains.",
    "CsvSource.light": "Column of light chains; with `heavy`, rows are pairs.",
    "CsvSource.name": "Column of names; `null` takes file and row.",
    "CsvSource.molecule": "What the letters are; nucleotides are translated from the first base on.",
    "KeepSpec.unproductive": "Rearrangements that the source calls unproductive.",
    "KeepSpec.duplicates": "Sequences that were read before, letter for letter.",
    "KeepSpec.ambiguous": "Sequences with `X`, `*` or another letter that is no amino acid; it becomes `[UNK]`.",
    "KeepSpec.gaps": "Alignment gaps, as tokens; otherwise they are removed and the sequence stays.",
    "FamilyLayout.max_tokens": "Longest document, `[CLS]` included; further members begin another one.",
    "FamilyLayout.documents_per_clone": "Most documents of a clone; members beyond are left out. `null`: no limit.",
    "FamilyLayout.seed": "Draws the order of a family's members.",
    "SplitSpec.by": "What is never cut in two: a `clone`, or a `donor` with all clones.",
    "SplitSpec.part": "The part to read.",
    "SplitSpec.test_fraction": "Expected share of clones (or donors) in the test part.",
    "SplitSpec.seed": "Draws the assignment, by hash: it does not depend on order or number of the sequences.",
    "TransformersTokenizer.name": "Hub name, folder, or folder of the GGUF file. Give exactly one of `name` and "
    "`package`.",
    "TransformersTokenizer.package": "Installed Python package whose folder holds the tokenizer.",
    "TransformersTokenizer.revision": "Branch, tag or commit on the hub.",
    "TransformersTokenizer.gguf_file": "Take the tokenizer from this GGUF file in the folder or package.",
    "TransformersTokenizer.trained_on": "`published` (fixed before and independently of the corpus), or the corpus row "
    "it was trained on, which must share no document with this one.",
    "TrainedModel.corpus": "Corpus row to train on.",
    "TrainedModel.architecture": "Shape of the transformer.",
    "TrainedModel.parameterization": "Which parameters are trained and coded.",
    "TrainedModel.training": "Budget and optimizer.",
    "TrainedModel.start": "Model row of the same architecture whose values training starts from, copied into a dense "
    "model or projected to the nearest Kronecker or Monarch factors; `null`: drawn values.",
    "TrainedModel.seed": "Draws the fixed part and the initial values of the trained part.",
    "PretrainedModel.name": "Hub name or folder. Give exactly one of `name` and `package`.",
    "PretrainedModel.package": "Installed Python package whose folder holds the checkpoint.",
    "PretrainedModel.subfolder": "Folder of the checkpoint inside `package`, e.g. `trained_models/IgLM-S` of `iglm`. A "
    "torch archive there is read as data; nothing in it is run.",
    "PretrainedModel.gguf_file": "GGUF file inside the folder or package.",
    "PretrainedModel.revision": "Branch, tag or commit on the hub; pin it for results that can be repeated.",
    "FinetunedModel.base": "Model row that stays as it is: pretrained, or trained densely on another corpus.",
    "FinetunedModel.corpus": "Corpus row to train the adapters on, in the base's own tokens.",
    "FinetunedModel.parameterization": "Shape of the adapters, of kind `lora`; default: rank 1 on attention and mlp.",
    "FinetunedModel.training": "Budget and optimizer.",
    "FinetunedModel.context": "Tokens in a training window.",
    "FinetunedModel.seed": "Draws the initial values of the factors A; the factors B start at zero.",
    "MarkovModel.corpus": "Corpus row to count.",
    "MarkovModel.order": "Number of preceding tokens that the next one depends on.",
    "Architecture.family": "Family of transformers models.",
    "Architecture.layers": "Number of transformer blocks.",
    "Architecture.hidden": "Width of the residual stream; a multiple of `heads`.",
    "Architecture.heads": "Attention heads.",
    "Architecture.key_value_heads": "Heads of keys and values, if fewer (llama, mistral).",
    "Architecture.feed_forward": "Width of the feed-forward layers; `null` leaves the family's usual ratio.",
    "Architecture.context": "Longest window of tokens the model can see.",
    "Architecture.tied_embedding": "Whether input and output embedding are one matrix, coded once.",
    "Training.steps": "Optimizer steps.",
    "Training.batch_tokens": "Tokens in one step.",
    "Training.learning_rate": "Highest learning rate.",
    "Training.warmup_fraction": "Share of the steps in which the learning rate rises; then it falls as a cosine.",
    "Training.weight_decay": "AdamW's weight decay.",
    "Training.seed": "Draws the batches.",
    "Training.dtype": "Precision of forward and backward passes; values are kept in float32.",
    "Training.gradient_checkpointing": "Compute activations twice to save memory.",
    "Training.save_steps": "Steps between the checkpoints from which a killed job goes on.",
    **{f"{kind}.rank": "Rank of the trained factors." for kind in ("Lora", "SubLora")},
    **{f"{kind}.scale": "Factor of their product, divided by the rank." for kind in ("Lora", "SubLora")},
    **{
        f"{kind}.targets": "Layers that are parameterized so; all others are trained and coded whole."
        for kind in ("Kronecker", "Monarch")
    },
    "Lora.targets": "Layers that are parameterized so; all others are trained and coded whole, or left as a base has "
    "them.",
    "Lora.last_layers": "Only this many transformer blocks, counted from the last one; `null`: all.",
    **{
        f"{kind}.targets": "Layers that are parameterized so; the others stay whole below the subspace."
        for kind in ("SubLora", "KroneckerSubspace")
    },
    **{
        f"{kind}.terms": "Number of Kronecker products in a layer's sum." for kind in ("Kronecker", "KroneckerSubspace")
    },
    **{
        f"{kind}.left_shapes": "Rows (outputs) and columns (inputs) of the left factor A, for layers of a role."
        for kind in ("Kronecker", "KroneckerSubspace")
    },
    "Kronecker.initialization": "`random` draws the factors; `dense_projection` draws the dense layer and takes the "
    "nearest sum of Kronecker products.",
    "Monarch.blocks": "Number of blocks in each of the two block-diagonal matrices.",
    **{
        f"{kind}.dimension": "Numbers in z; rounded down to a product of two near-equal numbers where it has none."
        for kind in ("Subspace", "SubLora", "KroneckerSubspace")
    },
    "Subspace.over": "The parameterization whose trained numbers the subspace covers; `kind: dense` are the plain "
    "model's.",
    **{
        f"{kind}.covers": "Whose trained numbers z stands for: those of layers by role, biases with them, and `norms`; "
        "all others are trained and coded whole."
        for kind in ("Subspace", "SubLora", "KroneckerSubspace")
    },
    "MessageSpec.model": "Model row to compress.",
    "MessageSpec.quantizer": "How its values become few distinct symbols.",
    "MessageSpec.coder": "Entropy coder: `adaptive` learns symbol frequencies while it codes, `static` sends a table.",
    "MessageSpec.smoothing_head": "A smoothing weight for each token, for transformers; `null`: one for all tokens.",
    "SmoothingHeadSpec.bound": "The bound that the head is trained to lower; both may use it.",
    "SmoothingHeadSpec.tokens": "Tokens of the model's corpus to train it on, drawn at random.",
    "SmoothingHeadSpec.steps": "Optimizer steps, each on all of these tokens.",
    "SmoothingHeadSpec.learning_rate": "Highest learning rate.",
    "SmoothingHeadSpec.levels": "Number of smoothing weights that a token may have, at most; training drops small ones "
    "that do not pay.",
    "SmoothingHeadSpec.seed": "Draws the tokens.",
    "CodebookQuantizer.levels": "Number of values in each tensor's codebook.",
    "CodebookQuantizer.finetuning": "Further training of codes and codebooks.",
    "QuipSharpQuantizer.bits": "Bits of a weight before coding: E8P at 2, with the ball of E8 at 3, E8P twice at 4.",
    "QuipSharpQuantizer.seed": "Draws the signs of the rotations; the message holds it.",
    "QuipSharpQuantizer.embedding_bits_per_weight": "Bits that a value of embedding and head takes, coded.",
    "UniformQuantizer.step_ratio": "Step between values, as a share of the tensor's root mean square.",
    "UniformQuantizer.finetuning": "Further training of quantized values.",
    "RefinementQuantizer.of": "Message row, of kind `uniform` and of the same model, whose codes are refined.",
    "RefinementQuantizer.factor": "Fine steps in a coarse one. An odd factor codes no value in two ways, and so costs "
    "less.",
    "CountsQuantizer.levels": "Steps of the logarithmic scale of counts.",
    "CountsQuantizer.threshold": "Smallest count that is coded.",
    "Finetuning.steps": "Optimizer steps; 0 quantizes once and leaves it at that.",
    "Finetuning.batch_tokens": "Tokens in one step.",
    "Finetuning.learning_rate": "Highest learning rate.",
    "Finetuning.rate_weight": "Weight of the message's size in the training loss.",
    "Finetuning.seed": "Draws the batches.",
    "Finetuning.dtype": "Precision of forward and backward passes; values are kept in float32.",
    "EvaluationSpec.context": "Tokens in a window.",
    "EvaluationSpec.stride": "Tokens that a window moves on by; `null`: by its whole length. A shorter stride shows "
    "every token more context and costs more.",
    "EvaluationSpec.visible_tokens": "Show the model only this many tokens before each one that it predicts (the token "
    "before a document's first one counts), as a Markov chain of that order sees; `null`: all of its window. `context` "
    "then only says how many tokens form a block, and `stride` must be left out. It costs about this many times as "
    "much as scoring whole windows.",
    "EvaluationSpec.sample_tokens": "Approximate number of tokens to draw and score; `null` scores all.",
    "EvaluationSpec.seed": "Draws the sample.",
    "EvaluationSpec.shards": "Number of scoring jobs.",
    "EvaluationSpec.dtype": "Precision of the model's matrix products; losses are computed in float32.",
    "EvaluationSpec.batch_tokens": "Tokens in one forward pass. It changes speed and memory only.",
    "Target.bits_per_weight": "Bits a weight of the linear layers, their steps included; any fraction.",
    "Target.message_megabits": "Size of the whole message, in 10^6 bits.",
    "Target.bound": "Search for the steps that give the best bound.",
    "Target.corpus": "With `bound`: the corpus row that the message is to be certified for.",
    "Target.pilot_tokens": "With `bound`: tokens that each trial is scored on.",
    "Target.seed": "With `bound`: draws these tokens; another seed than the evaluation's.",
    "Target.scale": "The common factor of all steps itself, taken from another message's report; no search is made.",
    **{
        f"{quantizer}.{key}": meaning
        for key, meaning in {
            "calibration": "Calibration row of the model.",
            "target": "How fine the steps are.",
            "damping": "Added to the diagonals of second moments, as a share of their mean.",
            "seed": "Draws the rotations.",
            "steps": "One step for each row of a matrix, or one for the whole of it.",
            "embedding_bits_per_weight": "Bits a value of embeddings and head; `null`: the layers' scale.",
            "trellis": "States of a trellis that chooses an input's codes together: fewer bits at equal loss, slower. "
            "`null`: each code on its own, which is better with the static coder below two bits.",
            "rate_weight": "What a bit is worth in squared steps when a code is chosen; 0 rounds to the nearest, "
            "without a trellis.",
        }.items()
        for quantizer, keys in _POST_TRAINING_KEYS.items()
        if key in keys
    },
    "CalibrationSpec.model": "Model row to calibrate: transformers, `dense` parameterization.",
    "CalibrationSpec.corpus": "Corpus row, tokenized with the model's own tokenizer.",
    "CalibrationSpec.tokens": "Number of tokens, from documents drawn without replacement; all if there are fewer.",
    "CalibrationSpec.context": "Tokens in a window, at most what the model can see. Documents are packed.",
    "CalibrationSpec.seed": "Draws the documents.",
    "CalibrationSpec.batch_tokens": "Tokens that pass through a block at once. It changes speed and memory only.",
    "CalibrationSpec.dtype": "Precision of computing; `bfloat16` is faster on GPUs and on CPUs with AMX.",
    "CertificateSpec.message": "Message row that is certified.",
    "CertificateSpec.corpus": "Corpus row it is certified for.",
    "CertificateSpec.evaluation": "Evaluation row that says how it is scored.",
    "CertificateSpec.chain": "Cheaper messages, cheapest first, scored by the same evaluation; the bounds `telescoped` "
    "and `mixture` smooth the certified model towards the best of them, and pay for their bits.",
    "CertificateSpec.prior": "`message`: the bits of every message are paid for. `held_out`: none are, because the "
    "models never saw this corpus; models of this study must share no document with it.",
    "CertificateSpec.bounds": "What the certificate states.",
    "BoundsSpec.delta": "Probability with which any of the certificate's bounds may fail.",
    "BoundsSpec.sampling_share": "Share of each bound's failure probability that pays for scoring a sample only.",
    "BoundsSpec.top_k": "Bound the error of the k likeliest tokens, for each k.",
    "BoundsSpec.bounds": "Which bounds to compute. `telescoped` and `mixture` (bits per token only) need a `chain`; "
    "those over `documents` and `sequences` (the plan's blocks) assume that these are i.i.d. and need every token "
    "scored.",
    "BoundsSpec.alphas": "Grid of smoothing weights; the choice among them is paid for.",
    "BoundsSpec.lambdas": "Size of the grid of the bounds' own parameter λ; the choice is paid for.",
    "BoundsSpec.link_alphas": "Grid of smoothing weights towards a cheaper model of the `chain`; the choice is paid.",
    "IglmTokenizer.chain": "The kind of chain that every sequence is; IgLM is told by a token.",
    "IglmTokenizer.species": "The species; IgLM is told by a token.",
    "RecoveryTask.corpus": "Corpus row, of the antibody tokenizer, to draw sequences from; one that no model was "
    "trained on tells most.",
    "RecoveryTask.messages": "Message rows whose models are tried.",
    "RecoveryTask.regions": "Regions to recover, by IMGT's definition.",
    "RecoveryTask.chain": "Kind of chain; `null` takes any.",
    "RecoveryTask.sequences": "Number of sequences drawn, one a document at most.",
    "RecoveryTask.seed": "Draws them.",
    "AffinityTask.paths": "Comma- or tab-separated tables with a header, plain or .gz: files, folders or patterns.",
    "AffinityTask.messages": "Message rows whose models are tried.",
    "AffinityTask.value": "Column of what was measured, e.g. a dissociation constant or a binding score.",
    "AffinityTask.higher_is_better": "Whether a larger value means better binding: `false` for dissociation constants.",
    "AffinityTask.antibody": "Column that says which antibody a row is a variant of; each has its own correlation.",
    "AffinityTask.sequence": "Column of sequences of one chain, of a kind that is not known. Either this, or `heavy` "
    "and `light` or one of them.",
    "AffinityTask.heavy": "Column of heavy chains.",
    "AffinityTask.light": "Column of light chains; the log-likelihoods of both chains are added.",
    "AffinityTask.resamples": "Bootstrap samples of each correlation's interval.",
    "AffinityTask.seed": "Draws them.",
    "BoundsSpec.subsets": "Columns of labels of antibody corpora (`residue`: amino acids and all others): all metrics "
    "are also bounded for the tokens of each label, under those of `bounds` that can be (`azuma`, `freedman`, "
    "`betting`, `documents`, `documents_betting`). Needs every token scored. What such rows say: docs/bounds.md, "
    "“Subsets of tokens”.",
    "BoundsSpec.link_betas": "Grid of coefficients: how much of the cheaper model's loss a link of a `telescoped` row "
    "subtracts before it is bounded (1: all of it); the choice is paid.",
}
