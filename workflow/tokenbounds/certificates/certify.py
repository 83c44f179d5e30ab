"""Certification: from a message, a corpus, a plan and scores to a certificate that anyone can recompute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from tokenbounds.bounds.smoothing import TokenAlphas
from tokenbounds.certificates.assumptions import (
    state_assumptions,
    state_base_assumptions,
    state_centre_assumptions,
    state_chain_assumptions,
    state_faithfulness_assumptions,
    state_head_assumptions,
    state_reference_assumptions,
    state_subset_assumptions,
    state_unit_assumptions,
)
from tokenbounds.certificates.averages.drawn import CorpusSize, DrawnDocuments
from tokenbounds.certificates.averages.passes import Sample
from tokenbounds.certificates.document_hashes import count_repeats
from tokenbounds.certificates.evidence import CertificateInputs, Evidence, gather_evidence
from tokenbounds.certificates.faithfulness import Faithfulness, spent_delta, state_faithfulness
from tokenbounds.certificates.file_records import BaseRecord, EvidenceRecord
from tokenbounds.certificates.records import record_base, record_evidence
from tokenbounds.certificates.rows.chains import ChainModel
from tokenbounds.certificates.rows.labels import LabelledScores
from tokenbounds.certificates.rows.setting import Setting
from tokenbounds.certificates.rows.subsets import find_subsets, share_delta, state_subsets
from tokenbounds.certificates.rows.tokens import Statement, state_bounds
from tokenbounds.certificates.rows.units import Units
from tokenbounds.certificates.schema import SCHEMA_VERSION, Certificate, ReferenceRecord, Subset
from tokenbounds.certificates.sealing import seal, write_certificate
from tokenbounds.certificates.stated_tolerances import find_tolerance, include_tolerance
from tokenbounds.config import BoundsSpec
from tokenbounds.corpus.reference import ReferenceEntry, check_drawn, drawn_lengths
from tokenbounds.errors import CertificateError, TokenboundsError
from tokenbounds.models.online.card import is_online
from tokenbounds.scores.seeds import derive_seed
from tokenbounds.software import software_versions

__all__ = ["CertificateInputs", "certify_bound", "compute_certificate"]


def certify_bound(
    name: str, study: str, inputs: CertificateInputs, spec: BoundsSpec, out: Path | str, *, model: str
) -> Certificate:
    """Certify how well the model that a message decodes to predicts a corpus, and write the certificate.

    Parameters
    ----------
    name, study, model
        Labels: rows of the study.
    inputs
        Corpus, plan, messages and score files.
    spec
        Failure probability, metrics, bounds and grids.
    out
        The certificate's file; paths inside are relative to its folder.

    Returns
    -------
    Certificate
        As written.

    Raises
    ------
    CertificateError
        If a file is missing, damaged, or was made from something else (the message names it), or a bound's
        assumption does not hold for the data. Nothing is written then.
    """
    out = Path(out)
    names = {"name": name, "study": study, "model": model}
    certificate = compute_certificate(names, gather_evidence(inputs), spec, out.parent)
    write_certificate(out, certificate)
    return replace(certificate, path=out)


def compute_certificate(
    names: dict[str, str],
    evidence: Evidence,
    spec: BoundsSpec,
    folder: Path,
    bases: Mapping[str, BaseRecord] | None = None,
) -> Certificate:
    """Compute a certificate from evidence; the same evidence gives the same certificate.

    Parameters
    ----------
    names
        The labels `name`, `study` and `model`.
    evidence
        Files that are known to belong together.
    spec
        Failure probability, metrics, bounds and grids.
    folder, bases
        The certificate's folder, and how it calls bases; see `record_evidence`.

    Raises
    ------
    CertificateError
        If the scores break their contract or a bound's assumption does not hold.
    """
    manifest, own = evidence.corpus.manifest, evidence.certified
    learning = [link.path for link in evidence.links if is_online(link.message.header)]
    if learning and any(bound.unit for bound in spec.bounds):
        raise CertificateError(
            f"{learning[0]} learns along the corpus, so its losses on documents or sequences are not independent. "
            "State bounds over tokens alone."
        )
    try:
        statement, subsets = state_rows(evidence, spec)
        faithfulness = compare_with_original(evidence, spec, folder, bases or {})
    except CertificateError:
        raise
    except TokenboundsError as error:
        raise CertificateError(str(error)) from error
    records = record_evidence(evidence, folder, bases)
    tokens, reference = _record_reference(evidence, spec)
    return seal(
        Certificate(
            name=names["name"],
            study=names["study"],
            model=names["model"],
            message=records.message,
            dtype=records.dtype,
            batch_tokens=records.batch_tokens,
            scores=records.scores,
            blocks=records.blocks,
            chain=records.chain,
            manifest=records.manifest,
            plan=records.plan,
            prior=records.prior,
            schema_version=SCHEMA_VERSION,
            corpus=manifest.corpus,
            tokens=tokens,
            reference=reference,
            scored_tokens=own.scores.rows,
            vocabulary_size=own.vocabulary_size,
            delta=spec.delta,
            ledger=statement.ledger,
            settings=spec,
            rows=statement.rows,
            subsets=subsets,
            faithfulness=faithfulness,
            notes=(*statement.notes, *_note_evidence(evidence)),
            assumptions=(*_assume(evidence, records, spec), *state_faithfulness_assumptions(faithfulness)),
            software=software_versions("numpy", "scipy", "pyarrow"),
            certificate_sha256="",
        )
    )


def _note_evidence(evidence: Evidence) -> Iterator[str]:
    """What a reader should know of the evidence beyond its assumptions."""
    manifest = evidence.corpus.manifest
    if (repeats := count_repeats(evidence.corpus.folder, manifest)).documents:
        yield (
            f"{repeats.documents:,} of {manifest.documents:,} documents, with {repeats.tokens:,} of "
            f"{manifest.tokens:,} tokens, repeat an earlier one, token for token. What a model knows about the first "
            "it knows about all, so the average over tokens says less about other text."
        )
    start = manifest.tokenizer.start_id
    for link in evidence.links:
        own = None if link.side_information.base else link.message.header["model"].get("start_id", 0)
        if own not in (None, start):
            yield (
                f"Documents were scored behind token {start}, which their tokenizer names as the first; the model of "
                f"{link.path.stem} names {own}. Its losses at the beginning of documents may be higher for it."
            )
        if unsealed := [part.path.name for part in link.scores.parts if not part.sealed]:
            yield (
                f"Scores of {link.path.stem} carry no digest of their own ({', '.join(unsealed)}), as in earlier "
                "releases: damage before this certificate would not have been noticed."
            )


def _assume(evidence: Evidence, records: EvidenceRecord, spec: BoundsSpec) -> list[str]:
    own = evidence.certified
    links = [(link.message.header, link.path.stem, link.dtype) for link in evidence.chain]
    header, tokenizer = own.message.header, records.manifest.tokenizer
    return [
        *state_assumptions(
            *(header, tokenizer, records.plan, own.dtype, spec, records.prior),
            derived_seed=records.plan.seed == derive_seed(shard.sha256 for shard in records.manifest.shards),
        ),
        *state_base_assumptions(records.bases, records.prior),
        *state_chain_assumptions(links, spec.bounds, evidence.prior.held_out),
        *state_unit_assumptions(spec.bounds),
        *state_reference_assumptions(
            evidence.corpus.manifest.reference, evidence.corpus.manifest.documents, records.plan
        ),
        *state_centre_assumptions(spec.centre_order),
        *state_subset_assumptions(spec.subsets, spec.bounds),
        *state_head_assumptions(own.scores.provenance.alphas),
    ]


def _check_drawn(evidence: Evidence, spec: BoundsSpec) -> None:
    """Refuse what is not stated for a corpus by reference, and a draw that is not its seed's."""
    manifest, own = evidence.corpus.manifest, evidence.certified
    other = [bound for bound in spec.bounds if not bound.is_single]
    if other or spec.subsets or evidence.plan.mode == "sampled":
        what = f"bound '{other[0]}'" if other else "subsets" if spec.subsets else "a sample of the draw"
        raise CertificateError(
            f"{what} cannot be stated for {manifest.corpus}, a corpus by reference. State azuma, freedman or betting, "
            "and score all that was drawn, or some blocks of each document (blocks_per_document)."
        )
    if spec.centre_order:
        raise CertificateError(
            f"centre_order is for n-grams that read a corpus in its order, and of {manifest.corpus}, a corpus by "
            "reference, only a draw was read. Leave it out."
        )
    if is_online(own.message.header):
        raise CertificateError(f"{own.path} learns along a corpus in its order, and a draw of documents has none.")
    assert manifest.reference is not None
    check_drawn(manifest.reference, evidence.corpus.folder, evidence.corpus.folder / manifest.documents_file.file)


def _bound_size(evidence: Evidence, reference: ReferenceEntry, spec: BoundsSpec) -> tuple[DrawnDocuments, CorpusSize]:
    """The drawn documents, and how large the whole corpus is at least."""
    lengths = drawn_lengths(evidence.corpus.folder / evidence.corpus.manifest.documents_file.file)
    drawn = DrawnDocuments.of_plan(evidence.plan, lengths, reference)
    return drawn, CorpusSize.at_least(reference, lengths, Fraction(str(spec.delta)))


def _record_reference(evidence: Evidence, spec: BoundsSpec) -> tuple[int, ReferenceRecord | None]:
    """The corpus's tokens, or a lower bound on those of a corpus by reference; and what that rests on."""
    manifest = evidence.corpus.manifest
    reference = manifest.reference
    if reference is None:
        return manifest.tokens, None
    _, size = _bound_size(evidence, reference, spec)
    record = ReferenceRecord(
        documents=reference.rows,
        max_tokens=reference.max_tokens,
        drawn=manifest.documents,
        seed=reference.seed,
        delta=str(size.delta),
    )
    return size.tokens, record


def state_rows(evidence: Evidence, spec: BoundsSpec) -> tuple[Statement, tuple[Subset, ...]]:
    """Every row, over all tokens and over subsets, with what messages cost under the certificate's prior."""
    certified = evidence.certified
    setting, _ = _settle(evidence, spec)
    models = []
    for link in evidence.links:
        # A model that never saw the corpus costs nothing; otherwise every file that it is decoded from is paid for
        # once.
        bits, messages = (0, None) if evidence.prior.held_out else (link.paid_bits, link.paid_messages)
        known = link.scores.provenance.entropies
        models.append(ChainModel(link.path.stem, bits, link.vocabulary_size, link.scores, messages, known))
    # Its centres may be multiples of another column than that of its entropies.
    centred = certified.scores.with_centres(spec.centre_order) if spec.centre_order else certified.scores
    own = models[-1] = replace(models[-1], scores=centred)
    tolerance = find_tolerance(evidence) if spec.include_tolerance else None
    scores, columns, subsets = own.scores, {}, []
    if spec.subsets:
        scores = LabelledScores.of(centred, evidence.corpus.folder, spec.subsets)
        columns = {name: column.categories for name, column in scores.columns.items()}
        subsets = find_subsets(scores, columns)
    setting, inner = share_delta(setting, subsets, columns)
    statement = state_bounds(
        own.scores, setting, own.message_bits, name=own.name, chain=models[:-1], messages=own.messages
    )
    statement = replace(statement, rows=include_tolerance(statement.rows, tolerance, certified.scores.rows))
    stated = state_subsets(scores, subsets, inner, own.message_bits, name=own.name)
    return statement, tuple(replace(each, rows=include_tolerance(each.rows, tolerance, each.tokens)) for each in stated)


def compare_with_original(
    evidence: Evidence, spec: BoundsSpec, folder: Path, bases: Mapping[str, BaseRecord]
) -> Faithfulness | None:
    """How far the certified model strays from the original, if that is asked for; see `compute_certificate`."""
    if not spec.faithfulness:
        return None
    certified, (setting, delta) = evidence.certified, _settle(evidence, spec)
    sha256 = certified.scores.provenance.original_sha256
    if evidence.original is None:
        raise CertificateError(
            f"the model that {certified.path} was made from is not named. Name it, and score with it."
        )
    return state_faithfulness(
        certified.scores,
        bases.get(sha256) or record_base(evidence.original, sha256, folder),
        delta=delta,
        sample=setting.sample,
        documents=_new_documents(evidence, spec),
        vocabulary_size=setting.vocabulary_size,
        certificates=spec.certificates_per_sample,
        lambdas=spec.lambdas,
    )


def _new_documents(evidence: Evidence, spec: BoundsSpec) -> int | None:
    """How many documents bound the faithfulness on a new one; None if none do.

    The original, for which nothing is paid, must not depend on them either.
    """
    fits = evidence.prior.held_out and evidence.plan.mode == "exhaustive" and evidence.corpus.manifest.reference is None
    asked = any(bound.unit == "documents" for bound in spec.bounds)
    return evidence.corpus.manifest.documents if fits and asked else None


def _settle(evidence: Evidence, spec: BoundsSpec) -> tuple[Setting, Fraction]:
    """What rows share, and how much of delta is left for statements about faithfulness."""
    manifest, plan, certified = evidence.corpus.manifest, evidence.plan, evidence.certified
    overlap = plan.stride < plan.context or plan.visible_tokens is not None
    units = Units(manifest.documents, plan.blocks, overlap) if plan.mode == "exhaustive" else None
    own_alphas = certified.scores.provenance.alphas
    setting = Setting(
        spec,
        manifest.tokens,
        certified.vocabulary_size,
        Sample.of(plan),
        units,
        token_alphas=TokenAlphas(own_alphas) if own_alphas else None,
        entropies=certified.scores.provenance.entropies,
        known_tokens=min(certified.vocabulary_size, manifest.tokenizer.vocabulary_size),
    )
    if manifest.reference is not None:
        _check_drawn(evidence, spec)
        drawn, size = _bound_size(evidence, manifest.reference, spec)
        rest = Fraction(str(spec.delta)) - size.delta
        setting = replace(setting, tokens=size.tokens, sample=drawn, units=None, delta=rest)
    elif plan.mode == "partial":
        raise CertificateError(
            f"{evidence.plan_path} scores some blocks of each document, which is for corpora by reference. Score every "
            "token of this one, or a sample (sample_tokens)."
        )
    if not spec.faithfulness:
        return setting, Fraction(0)
    whole = Fraction(str(spec.delta)) if setting.delta is None else setting.delta
    own = spent_delta(whole, setting.sample, _new_documents(evidence, spec))
    return replace(setting, delta=whole - own), own
