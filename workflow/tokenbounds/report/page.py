"""The report: one self-contained HTML page that says what the certificates say, and leads every number to its source.

Texts of certificates are escaped by the template; the only markup that passes is that of figures and sections, which
this library makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

import tokenbounds
from tokenbounds.bounds.kinds import BPD
from tokenbounds.certificates.schema import Certificate
from tokenbounds.errors import TokenboundsError
from tokenbounds.files import write_bytes
from tokenbounds.report import page_content as content
from tokenbounds.report import templates
from tokenbounds.report.formats import format_value
from tokenbounds.report.inline_svg import inline_svg
from tokenbounds.report.records import read_certificates
from tokenbounds.report.table_boxes import box_tables

_CAPTIONS = {
    "bound_by_size": (
        "The price of a message",
        "Each certificate is drawn at the size of its message. Its lower end is the loss measured on the corpus; the "
        "dot is the certified bound, higher by what the message costs. Larger messages fit better and cost more: the "
        "best certificate is where the two balance. Above the dashed line a bound is vacuous; a triangle is a bound "
        "beyond the frame.",
    ),
    "bound_by_method": (
        "Bound against size, by method",
        "Every method of compression at several sizes: certified (solid) and measured (dashed). A line that is lower "
        "buys a better certificate for the same bits. Where numbers of trained parameters differ, a second panel has "
        "them in place of sizes; hollow there: losses that others published, of other tokens, as the comments of the "
        "file that the study names under ‘published_losses’ say.",
    ),
    "bound_by_context": (
        "What context buys",
        "The best bound of every certificate (solid) and what was measured (dashed), against the number of tokens that "
        "the model sees before each one that it predicts: a Markov chain’s order, or what the evaluation shows a "
        "network. Where a line does not fall, more context is not worth its bits.",
    ),
    "beside_published": (
        "Beside published numbers",
        "The best bound of each certificate (filled) and published ones (hollow), over what was measured (dashes). "
        "They are about different corpora, samples and tokenizers, so compare how they fall and rise with size, and "
        "the distance of a dot from its dash, more than heights. Where published numbers are from: the comments of the "
        "file that the study names under ‘published_numbers’.",
    ),
    "bound_by_alpha": (
        "The price of surprise",
        "Mixing a share α of the uniform distribution into every prediction caps the loss of a token that comes as a "
        "surprise, and so lowers the gap; too much of it dulls the model. Certificates pay for choosing the best α of "
        "the grid, shown as a dot. Solid: the bound at each α, with the best centre there. Dashed: measured.",
    ),
    "alpha_by_token": (
        "A weight for each token",
        "What smoothing each token by itself would bring. Left: the share of tokens with each weight, as a message’s "
        "head chose it, or, without a head, if tokens were grouped by the entropy of their prediction and each group "
        "had the weight that is best for Azuma’s bound. Right: this bound with the best single weight and with those. "
        "Bounds by entropy pay for their choices, but are no certificates.",
    ),
    "loss_by_position": (
        "Loss by position",
        "What the decoded model loses, before smoothing, by a token’s position in its document and in the window that "
        "the model saw. Dotted, where it is known: the entropy of its predictions, which is what it expects to lose; a "
        "loss above it says that the model is too sure. Positions are grouped logarithmically; groups of fewer than 30 "
        "tokens are left out.",
    ),
    "message_anatomy": (
        "What the bits are spent on",
        "Each message by part, and its size. Every bit the decoder needs is inside and is paid for.",
    ),
    "training": ("Training", "Training loss of the models before compression: every record, and a running mean."),
}


@dataclass(frozen=True)
class Section:
    """A further part of the page, between the figures and the certificates in full.

    Attributes
    ----------
    anchor
        Its id in the page, unique.
    title
        Its heading, plain text.
    body
        Its HTML. Only `Markup` passes unchanged; a plain string is escaped.
    """

    anchor: str
    title: str
    body: Markup | str


def write_report(
    certificate_paths: Iterable[Path | str],
    out: Path | str,
    *,
    figures: Sequence[Path | str] = (),
    sections: Sequence[Section] = (),
) -> None:
    """Write the page.

    Parameters
    ----------
    certificate_paths
        Certificates; the page links to them relative to `out`.
    out
        The HTML file.
    figures
        SVG files of `draw_figures`, in order; files next to them with the same stem are linked as data.
    sections
        Further parts of the page.

    Raises
    ------
    TokenboundsError
        If a certificate or a figure cannot be read, or two parts of the page have the same id.
    """
    out = Path(out)
    write_bytes(out, render_report(certificate_paths, out, figures=figures, sections=sections).encode())


def render_report(
    certificate_paths: Iterable[Path | str],
    out: Path,
    *,
    figures: Sequence[Path | str] = (),
    sections: Sequence[Section] = (),
) -> str:
    """The page's HTML; parameters and errors are those of `write_report`."""
    return _render(read_certificates(certificate_paths), out, figures, sections, single=False)


def write_certificate_page(certificate_path: Path | str, out: Path | str) -> None:
    """Write one certificate as a page: its sentence, numbers, assumptions, bits, ledger, hashes, and how to verify it.

    Parameters
    ----------
    certificate_path
        The certificate; the page links to it relative to `out`.
    out
        The HTML file.

    Raises
    ------
    CertificateError
        If the certificate cannot be read.
    """
    out = Path(out)
    write_bytes(out, _render(read_certificates([certificate_path]), out, (), (), single=True).encode())


def _render(
    certificates: Sequence[Certificate],
    out: Path,
    figures: Sequence[Path | str],
    sections: Sequence[Section],
    *,
    single: bool,
) -> str:
    anchors = content.anchors(certificates)
    _check_anchors([*anchors.values(), *(section.anchor for section in sections)])
    headline = content.headline(certificates, anchors)
    html = templates.render(
        "tokenbounds.report",
        "page.html.jinja",
        {
            "shown": format_value,
            "bpd": BPD,
            "exact": repr,
            "is_one_of": lambda row, rows: any(row is one for one in rows),
        },
        css=Markup(templates.read_text("tokenbounds.report", "page.css")),
        single=single,
        study=", ".join(dict.fromkeys(one.study for one in certificates)),
        several=len(certificates) > 1,
        count=f"{len(certificates)} certificate{'s' if len(certificates) != 1 else ''}",
        headline=headline,
        cards=content.cards(headline["certificate"]),
        tables=content.tables(certificates, anchors),
        figures=[_figure(Path(path), out) for path in figures],
        sections=sections,
        details=[content.detail(one, anchors[one.name], out) for one in certificates],
        assumptions=content.assumptions(certificates),
        citation=content.citation(headline["certificate"]),
        verify_all=content.verify_all(certificates),
        version=tokenbounds.__version__,
    )
    return box_tables(html)


def _check_anchors(anchors: Sequence[str]) -> None:
    own = {"certificates", "figures", "details", "assumptions", "citing", "glossary"}
    for index, anchor in enumerate(anchors):
        if anchor in own or anchor in anchors[:index]:
            raise TokenboundsError(f"two parts of the report have the id '{anchor}'. Rename one.")


def _figure(path: Path, out: Path) -> dict[str, Any]:
    title, caption = _CAPTIONS.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
    formats = {"SVG": ".svg", "PNG": ".png", "Parquet": ".parquet", "CSV": ".csv"}
    siblings = {text: path.with_suffix(suffix) for text, suffix in formats.items()}
    links = [
        {"href": content.relative_href(file, out), "text": text} for text, file in siblings.items() if file.is_file()
    ]
    return {"name": path.stem, "svg": inline_svg(path, title), "title": title, "caption": caption, "links": links}
