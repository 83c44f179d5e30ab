"""The files a certificate rests on: opened, hashed, and checked to belong to one another.

Every link is by hash. Scores name the message, the manifest and the plan they were made with; the plan names the
manifest; the manifest names every shard. So a certificate of one corpus cannot be passed off as one of another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenbounds.certificates.prior import CorpusEvidence, Prior, compare_documents
from tokenbounds.config import BoundsSpec
from tokenbounds.config.certificates import reason_fault
from tokenbounds.corpus.reader import Corpus, check_known
from tokenbounds.errors import CertificateError, CorpusError, TokenboundsError
from tokenbounds.messages.container import Message, parse_message, read_message
from tokenbounds.messages.side_information import SideInformation, find_coarse, find_places, model_places
from tokenbounds.messages.smoothing_head import read_alphas
from tokenbounds.scores.plan_file import Plan, read_plan
from tokenbounds.scores.store import Scores, open_scores


@dataclass(frozen=True)
class LinkInputs:
    """A message and the score files of every shard of the plan, in any order."""

    message: Path
    scores: tuple[Path, ...]


@dataclass(frozen=True)
class CertificateInputs:
    """Where a certificate's evidence is.

    Attributes
    ----------
    corpus
        The folder of the corpus: manifest, shards, table of documents.
    plan
        The scoring plan.
    links
        The chain's messages with their scores by this plan, cheapest first, the certified one last; often there is only
        that one.
    held_out
        None if the messages' bits are paid for. Otherwise the models never saw the corpus: the folders of the corpora
        they were trained on; empty for models that were published before.
    held_out_because
        Why they cannot depend on the corpus, in a sentence with a date; needed if they are held out.
    side_information
        Where to look for what messages are decoded with: coarse messages, folders of bases. If none of a kind are
        named, those of the study around a message's file are searched.
    base_corpora
        Unless held out: folders of the corpora that bases were trained on; empty for published ones.
    original
        The model with whose predictions the certified message's were compared, if they were: a checkpoint folder, a
        Hugging Face folder or a GGUF file.
    """

    corpus: Path
    plan: Path
    links: tuple[LinkInputs, ...]
    held_out: tuple[Path, ...] | None = None
    side_information: tuple[Path, ...] = ()
    base_corpora: tuple[Path, ...] = ()
    held_out_because: str = ""
    original: Path | None = None

    @property
    def certified(self) -> LinkInputs:
        """The certified message and its scores."""
        return self.links[-1]


@dataclass(frozen=True)
class CertificateJob:
    """What a rule of the workflow hands over for one certificate, as JSON (`config.graph.certificate_spec`).

    Attributes
    ----------
    study, model
        Labels: rows of the study.
    inputs
        Where the evidence is.
    bounds
        What the certificate states.
    """

    study: str
    model: str
    inputs: CertificateInputs
    bounds: BoundsSpec


@dataclass(frozen=True)
class LinkEvidence:
    """A message with its scores and its side information, known to belong together.

    Attributes
    ----------
    path, message
        The message.
    scores
        Its scores.
    side_information
        What it is decoded with, by hash; `base` and `coarse` are where that was found.
    """

    path: Path
    message: Message
    scores: Scores
    side_information: SideInformation
    base: Path | None = None
    coarse: Path | None = None
    coarse_message: Message | None = None

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return self.scores.provenance.vocabulary_size

    @property
    def dtype(self) -> str:
        """Arithmetic of the scores."""
        return self.scores.provenance.dtype

    @property
    def paid_messages(self) -> dict[str, int]:
        """Bits of every file that is paid for, by SHA-256.

        Nothing decodes without a coarse message, so its bits count. A base is part of the decoder, which the
        certificate assumes was fixed before the corpus.
        """
        files = (self.message,) if self.coarse_message is None else (self.coarse_message, self.message)
        return {message.sha256: message.size_bits for message in files}

    @property
    def paid_bits(self) -> int:
        """C: bits of all files that the message is decoded from, the base aside."""
        return sum(self.paid_messages.values())

    @property
    def places(self) -> list[Path]:
        """Where its side information was found."""
        return [path for path in (self.coarse, self.base) if path is not None]


@dataclass(frozen=True)
class Evidence:
    """What a certificate rests on; its parts are known to belong together.

    Attributes
    ----------
    corpus
        The certified corpus.
    plan, plan_path
        Which of its tokens were scored.
    links
        Messages with their scores, cheapest first, the certified one last.
    prior
        Whether messages are paid for, and which corpora models were trained on.
    original
        Where the model is with whose predictions the certified message's were compared, if it was named.
    """

    corpus: CorpusEvidence
    plan: Plan
    plan_path: Path
    links: tuple[LinkEvidence, ...]
    prior: Prior
    original: Path | None = None

    @property
    def chain(self) -> tuple[LinkEvidence, ...]:
        """The links before the certified one."""
        return self.links[:-1]

    @property
    def certified(self) -> LinkEvidence:
        """The certified message and its scores."""
        return self.links[-1]


def gather_evidence(inputs: CertificateInputs) -> Evidence:
    """Open and hash every file, and check that each belongs to the others.

    Raises
    ------
    CertificateError
        If a file is missing, damaged or was made from something else; the message names it.
    """
    try:
        return _gather(inputs)
    except CertificateError:
        raise
    except TokenboundsError as error:
        raise CertificateError(str(error)) from error


def _gather(inputs: CertificateInputs) -> Evidence:
    corpus = CorpusEvidence.open(inputs.corpus)
    plan = read_plan(inputs.plan, corpus.manifest.tokens)
    if plan.manifest_sha256 != corpus.manifest_sha256:
        raise CertificateError(
            f"{inputs.plan} plans the corpus of manifest {plan.manifest_sha256[:12]}…, but {corpus.manifest_path} is "
            f"{corpus.manifest_sha256[:12]}…. Plan and score this corpus."
        )
    if (plan.tokens, plan.documents) != (corpus.manifest.tokens, corpus.manifest.documents):
        raise CertificateError(f"{inputs.plan} and {corpus.manifest_path} differ in tokens or documents. Plan again.")
    bases: dict[str, Path] = {}
    links = tuple(_gather_link(link, corpus, plan, inputs.side_information, bases) for link in inputs.links)
    _refuse_doubles(links)
    prior = compare_documents(corpus, inputs.held_out, inputs.base_corpora)
    if prior.held_out and (fault := reason_fault(inputs.held_out_because)):
        raise CertificateError(f"the reason why the models are held out (held_out_because) {fault}")
    prior = replace(prior, because=inputs.held_out_because if prior.held_out else "")
    return Evidence(corpus, plan, inputs.plan, links, prior, _find_original(links[-1], inputs.original, bases))


def _gather_link(
    inputs: LinkInputs, corpus: CorpusEvidence, plan: Plan, side_information: Iterable[Path], bases: dict[str, Path]
) -> LinkEvidence:
    """Open a message, its scores, which must name it and the plan, and its side information.

    `bases` holds the bases found so far, by hash, and is added to: what several links need is read and hashed once.
    """
    message = read_message(inputs.message)
    card = message.header.get("model")
    entries = [
        card,
        message.header.get("quantizer"),
        card.get("parameterization", {}) if isinstance(card, dict) else {},
    ]
    if not all(isinstance(entry, dict) for entry in entries):
        raise CertificateError(f"{inputs.message} has a header that describes no model. Encode it again.")
    scores = open_scores(inputs.scores, plan=plan, message_sha256=message.sha256, manifest_sha256=plan.manifest_sha256)
    _check_vocabulary(inputs.message, message, scores, corpus)
    _check_alphas(inputs.message, message, scores)
    named, places = SideInformation.of(message), find_places(inputs.message, side_information)
    if named.base is not None and named.base not in bases:
        from tokenbounds.models.base import locate_base

        size = message.header["model"].get("vocabulary_size")
        bases[named.base] = locate_base(named.base, model_places(places), size)
    coarse = None if named.coarse is None else find_coarse(named.coarse, places)
    return LinkEvidence(
        path=inputs.message,
        message=message,
        scores=scores,
        side_information=named,
        base=None if named.base is None else bases[named.base],
        coarse=coarse,
        coarse_message=None if coarse is None else parse_message(coarse.read_bytes()),
    )


def _find_original(link: LinkEvidence, place: Path | None, bases: dict[str, Path]) -> Path | None:
    """Where the model is that a message's scores name as its original; its hash is that of its card and values."""
    sha256 = link.scores.provenance.original_sha256
    if place is None:
        return None
    if not sha256:
        raise CertificateError(
            f"{link.scores.files[0]} compares no predictions with those of {place}. Score the message with it."
        )
    if sha256 not in bases:
        from tokenbounds.models.base import locate_base

        bases[sha256] = locate_base(sha256, [place], link.vocabulary_size)
    return bases[sha256]


def _refuse_doubles(links: Sequence[LinkEvidence]) -> None:
    """Refuse a link whose message is already part of those before it.

    A reader of a chain's messages, one after the other, must know for each link that a message follows (docs/bounds.md,
    "Other priors").
    """
    held: dict[str, LinkEvidence] = {}
    for link in links:
        before = held.get(link.message.sha256)
        if before is not None and before.message.sha256 == link.message.sha256:
            raise CertificateError(
                f"{link.path} and {before.path} are the same message twice in a chain. Name it once."
            )
        if before is not None:
            raise CertificateError(
                f"{link.path} is the coarse message of {before.path}, which stands before it in the chain. Name the "
                "coarse one first."
            )
        for sha256 in link.paid_messages:
            held.setdefault(sha256, link)


def _check_vocabulary(path: Path, message: Message, scores: Scores, corpus: CorpusEvidence) -> None:
    """The model's V must be what the scores share, and every token of the corpus below it, scored or not."""
    size, needed = scores.provenance.vocabulary_size, corpus.manifest.tokenizer.vocabulary_size
    card = message.header.get("model")
    declared = card.get("vocabulary_size") if isinstance(card, dict) else None
    if declared != size:
        raise CertificateError(
            f"{scores.files[0]} was scored over {size} tokens, but {path} declares a vocabulary of {declared}. Score "
            "with this message."
        )
    if needed <= size:
        return
    try:
        check_known(Corpus.open(corpus.folder), size)
    except CorpusError as error:
        raise CertificateError(f"{corpus.folder} was not written in the tokens of {path}: {error}") from error


def _check_alphas(path: Path, message: Message, scores: Scores) -> None:
    """The scores' smoothing weights must be those that the message's head names."""
    named, found = read_alphas(message), scores.provenance.alphas
    if named != found:
        raise CertificateError(
            f"{scores.files[0]} has smoothing weights {list(found)}, but {path} names {list(named)}. Score with this "
            "message."
        )
