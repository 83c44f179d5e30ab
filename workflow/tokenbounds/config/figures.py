"""Which figures a study has: decided by its rows, before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenbounds.bounds.kinds import BoundKind

if TYPE_CHECKING:
    from tokenbounds.config.study import Study


def drawn_figures(study: Study) -> list[str]:
    """Names of the figures in results/figures."""
    certified = sorted({row.message for row in study.certificates.values()})
    trained = any(study.models[study.messages[name].model].kind in ("trained", "finetuned") for name in certified)
    methods = [method for name in certified if (method := _compression_method(study, name)) is not None]
    return [
        *("bound_by_size", "bound_by_alpha"),
        *(["alpha_by_token"] if _weighs_tokens(study) else []),
        *("loss_by_position", "message_anatomy"),
        *(["training"] if trained else []),
        # Several methods of compression, one of them at several sizes.
        *(["bound_by_method"] if 1 < len(set(methods)) < len(methods) else []),
        *(["bound_by_context"] if _sees_different_contexts(study) else []),
        *(["beside_published"] if study.published_numbers else []),
    ]


def _sees_different_contexts(study: Study) -> bool:
    """Whether networks are certified on one corpus with different numbers of tokens that they see."""
    seen: dict[str, set[int]] = {}
    for row in study.certificates.values():
        visible = study.evaluations[row.evaluation].visible_tokens
        is_network = study.models[study.messages[row.message].model].kind not in ("markov", "online")
        by_token = any(bound.by_token for bound in row.bounds.bounds)
        if is_network and visible is not None and row.prior == "message" and by_token:
            seen.setdefault(row.corpus, set()).add(visible)
    return any(len(each) > 1 for each in seen.values())


def _weighs_tokens(study: Study) -> bool:
    """Whether there are bounds of Azuma's whose scores hold entropies, of networks or chains, block by block."""
    return any(
        BoundKind.AZUMA in row.bounds.bounds
        and study.models[study.messages[row.message].model].kind != "online"
        and study.evaluations[row.evaluation].blocks_per_document is None
        for row in study.certificates.values()
    )


def _compression_method(study: Study, message: str) -> tuple[str, str] | None:
    """Parameterization and quantizer of a message of a transformer; none if nothing is compressed."""
    row = study.messages[message]
    model = study.models[row.model]
    if model.kind == "markov" or model.kind == "online" or row.quantizer.models == "fixed":
        return None
    parameterization = "dense" if model.kind == "pretrained" else model.parameterization.kind
    return parameterization, row.quantizer.kind
