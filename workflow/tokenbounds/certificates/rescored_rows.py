"""Every row of a certificate computed again from losses that were made again, where all tokens were scored again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from tokenbounds.certificates.certify import compare_with_original, state_rows
from tokenbounds.certificates.evidence import Evidence, LinkEvidence
from tokenbounds.certificates.faithfulness import Faithfulness
from tokenbounds.certificates.functionals import Difference, name_functionals, subset_prefix
from tokenbounds.certificates.rescoring import Rescored
from tokenbounds.certificates.schema import Certificate, Row, Stated
from tokenbounds.certificates.tolerances import Tolerance, more_errors
from tokenbounds.errors import CertificateError
from tokenbounds.scores.plan_file import Plan
from tokenbounds.scores.store import Scores, open_scores, score_writer

_SAMPLED = 2.0  # how much more a row may differ if a sample's average is bounded too
_ROUNDING = 1e-9  # of logarithms, relative


def compare_rows(
    certificate: Certificate, evidence: Evidence, rescored: Sequence[Rescored], differences: Mapping[str, Difference]
) -> str:
    """Compute every row again from the new losses, with the best of the grids, and compare its value with the stated.

    A row that is computed from the message's own losses holds; one that states more holds too. So no row may state less
    than that: not at all if it contains its tolerance (`bounds.include_tolerance`), and otherwise by no more than
    follows from the tolerance of its average (docs/certificates.md, "Tolerances").

    Parameters
    ----------
    certificate, evidence
        What is verified.
    rescored
        All tokens of the plan, for each message of the chain.
    differences
        From `compare_functionals`.

    Returns
    -------
    str
        What was found, in words.

    Raises
    ------
    CertificateError
        If a row states less than it may.
    """
    with tempfile.TemporaryDirectory(prefix="tokenbounds-") as folder:
        links = tuple(
            replace(link, scores=_write_scores(link, one, evidence.plan, Path(folder) / str(number)))
            for number, (link, one) in enumerate(zip(evidence.links, rescored, strict=True))
        )
        made_again = replace(evidence, links=links)
        statement, subsets = state_rows(made_again, certificate.settings)
        models = {each.sha256: each for each in certificate.models}
        faithfulness = compare_with_original(made_again, certificate.settings, Path(folder), models)
    if certificate.faithfulness is not None and faithfulness is not None:
        _compare_faithfulness(certificate, certificate.faithfulness, faithfulness, rescored[-1].tolerance)
    found = {(subset.column, subset.label): subset for subset in subsets}
    compared: list[tuple[Row, Row, float]] = []
    names = [link.path.stem for link in evidence.links]
    parts: list[tuple[Stated, Stated, str, int]] = [(certificate, statement, "", certificate.scored_tokens)]
    for subset in certificate.subsets:
        prefix = subset_prefix(subset.column, subset.label)
        parts.append((subset, found[subset.column, subset.label], prefix, subset.tokens))
    for stated, again, prefix, tokens in parts:
        for row in stated.rows:
            other = again.row(row.metric, row.bound)
            assert other is not None, "the same settings give the same rows"
            functionals = [differences[each.name] for each in name_functionals(row, rescored, names, prefix)]
            if certificate.settings.include_tolerance:
                allowed, other = 0.0, replace(other, value=other.value - other.tolerance)
            else:
                allowed = _allow(other, row, functionals, rescored[-1].tolerance, tokens)
                allowed *= 1.0 if evidence.plan.mode == "exhaustive" else _SAMPLED
            if other.value - row.value > allowed + _ROUNDING * abs(other.value):
                raise CertificateError(
                    f"{certificate.path}: row {prefix}{row.metric}/{row.bound} states {row.value:.6f}, but computed "
                    f"from the losses that the decoded message gives it is {other.value:.6f}; {allowed:.2g} of the "
                    "difference may be rounding. Score and certify again."
                )
            compared.append((other, row, allowed))
    worst = max(other.value - row.value for other, row, _ in compared)
    of_all = compared[: len(certificate.rows)]
    own, least, _ = min((each for each in of_all if not each[1].metric.is_error), key=lambda each: each[1].value)
    return (
        f"{len(compared)} rows from the new losses: understated by at most {max(0.0, worst):.2g} "
        f"(tolerances up to {max(allowed for *_, allowed in compared):.2g}); "
        f"{least.metric}/{least.bound} states {least.value:.6f} and is {own.value:.6f} by them"
    )


def _compare_faithfulness(
    certificate: Certificate, stated: Faithfulness, again: Faithfulness, tolerance: Tolerance
) -> None:
    """Refuse rows about faithfulness that state less than the new comparison gives, by more than its tolerance."""
    for row, other in zip(stated.rows, again.rows, strict=True):
        errors = (1 + int(tolerance.error_share * certificate.scored_tokens)) / certificate.scored_tokens
        allowed = tolerance.mean_bits if row.metric == "kl_bits" else errors
        if row.delta != "0":  # a bound on an average moves by more than the average
            allowed *= max(_SAMPLED, other.value / other.empirical if other.empirical else _SAMPLED)
        if other.value - row.value > allowed + _ROUNDING:
            raise CertificateError(
                f"{certificate.path}: its row on {row.metric} over {row.over} states {row.value:.6f}, but computed "
                f"from the decoded message and the original it is {other.value:.6f}; {allowed:.2g} of the difference "
                "may be rounding. Score and certify again."
            )


def _write_scores(link: LinkEvidence, rescored: Rescored, plan: Plan, folder: Path) -> Scores:
    """Score files of the new losses, to be read like the stored ones; labels come from the corpus."""
    folder.mkdir()
    first, paths = 0, []
    for part in link.scores.parts:
        provenance = replace(part.provenance, labels=())
        if "kl_bits" not in rescored.again:  # compared for another certificate of this message
            provenance = replace(provenance, original_sha256="")
        rows = slice(first, first + part.rows)
        arrays = [pa.array(rescored.again[field.name][rows]).cast(field.type) for field in provenance.schema]
        paths.append(folder / part.path.name)
        with score_writer(paths[-1], provenance) as writer:
            writer.write(pa.RecordBatch.from_arrays(arrays, schema=provenance.schema))
        first += part.rows
    return open_scores(paths, plan=plan, message_sha256=link.message.sha256)


def _allow(again: Row, row: Row, functionals: Sequence[Difference], tolerance: Tolerance, tokens: int) -> float:
    """How much too little a row may state, in its own unit.

    The price L/m only shrinks the effect of a bet's average on its bound, and so does a link's weight. Entropies move
    one with a centre, too.
    """
    if row.metric.is_error:
        hidden = more_errors(again.value, again.empirical, tolerance.error_share, tokens)
        return hidden + sum(each.allowed for each in functionals)
    if row.links:
        return sum(link.weight * each.allowed for link, each in zip(row.links, functionals, strict=True))
    allowed = functionals[0].allowed
    return allowed if row.bound.by_token else allowed * max(1.0, again.value / again.empirical)
