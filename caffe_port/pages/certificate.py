"""A certificate as one HTML page: what became of what, and how exactly each layer agrees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from caffe_port.certificate import Certificate
from caffe_port.pages.certificate_checks import checks
from caffe_port.pages.certificate_layers import LayerResults
from caffe_port.pages.document import Child, document, size, tag
from caffe_port.pages.elements import bullets, counted, definitions, in_words, sentence
from caffe_port.proto.files import replacing
from caffe_port.shapes import format_shape
from caffe_port.summary import summarize

__all__ = ["page", "write_page"]

STYLES = ("page.css", "figures.css")
SCRIPTS = ("page.js", "certificate.js")


def page(certificate: Certificate) -> str:
    """The page, to be written as UTF-8. The same for the same certificate: nothing of the time is in it.

    Raises what `Certificate.as_json` raises: the files it names are read for their hashes.
    """
    return _Page(certificate).text()


def write_page(certificate: Certificate, path: Path) -> None:
    """Writes the page, which needs nothing else; the file appears complete or not at all. Raises ArtifactError."""
    with replacing(path) as stream:
        stream.write(page(certificate).encode())


@dataclass(slots=True)
class _Page:
    certificate: Certificate
    document: dict[str, Any] = field(init=False)
    results: LayerResults = field(init=False)

    def __post_init__(self) -> None:
        self.document = self.certificate.as_json()
        self.results = LayerResults(self.certificate.net, self.certificate.reports)

    @property
    def mood(self) -> str:
        """The class of the page: `failed`, `unverified`, `caffe` or `float64`."""
        certificate = self.certificate
        if not all([*(report.ok for report in certificate.reports), *(one.ok for one in certificate.budgets)]):
            return "failed"
        if not certificate.ok:
            return "unverified"
        return "caffe" if certificate.verdict.startswith("verified against Caffe") else "float64"

    def text(self) -> str:
        name = self.certificate.net.name or "net without a name"
        sections = [
            ("files", "Files", self._files()),
            ("made", "How it was made", self._made()),
            ("checks", "Checks", checks(self.certificate, self.document)),
            ("errors", "Errors by layer", self.results.plots()),
            ("layers", "Layers", self.results.layers()),
            ("graph", "Graph", self.results.graph()),
        ]
        shown = [(key, heading, body) for key, heading, body in sections if body]
        body = [
            tag(
                "header",
                tag(
                    "p",
                    f"Certificate of {'conversion' if self.certificate.artifacts else 'verification'}",
                    class_="kind",
                ),
                tag("h1", name),
                self._banner(),
                tag("nav", [tag("a", heading, href=f"#{key}") for key, heading, _ in shown], aria_label="On this page"),
            ),
            tag("main", [tag("section", tag("h2", heading), body, id=key) for key, heading, body in shown]),
            tag(
                "footer",
                tag("p", f"Made by caffe_port {self.document['tool']['caffe_port']} as {self.document['format']}."),
            ),
        ]
        title = f"{self.certificate.verdict}: {name}"
        data = self.results.data() if self.certificate.reports else None
        return document(title, body, styles=STYLES, scripts=SCRIPTS, data=data, mood=self.mood)

    # The verdict

    def _banner(self) -> Element:
        mood = self.mood
        return tag(
            "div",
            _icon(mood),
            tag(
                "div",
                tag("p", sentence(self.certificate.verdict), class_="verdict"),
                [tag("p", text) for text in self._in_words(mood)],
            ),
            class_="banner",
            role="status" if mood in ("caffe", "float64") else "alert",
        )

    def _in_words(self, mood: str) -> Iterator[str]:
        comparisons = [comparison for report in self.certificate.reports for comparison in report.comparisons]
        failed = sum(not comparison.agrees for comparison in comparisons)
        if mood == "unverified":
            yield (
                "Nothing was compared. Nothing here says that these files compute what the Caffe model computes."
                if not self.certificate.reports
                else "What was compared agrees, and still this is no verification."
            )
        elif mood == "failed":
            passed = [
                *(report.ok for report in self.certificate.reports),
                *(budget.ok for budget in self.certificate.budgets),
            ]
            yield f"{passed.count(False)} of {counted(len(passed), 'check')} failed. Do not use what was made."
            if failed:
                first = min((one for one in comparisons if not one.agrees), key=lambda one: one.index)
                yield (
                    f"{failed:,} of {counted(len(comparisons), 'comparison')} are out of bounds, the first at layer "
                    f"{first.layer!r} ({first.type})."
                )
        else:
            against = (
                f"what Caffe computed on {counted(len(self.certificate.recordings), 'recorded input')}"
                if mood == "caffe"
                else "this package's own run in float64"
            )
            largest = max(comparison.of_bound for comparison in comparisons)
            yield (
                f"{counted(len(comparisons), 'comparison')} of {counted(len(self.results.backends), 'backend')} with "
                f"{against}: all agree. The nearest to its bound used {largest:.0%} of it."
            )
            if mood == "float64" and self.certificate.recordings:
                yield "The files could not be run on the recordings of Caffe; that run was, and agrees with them."
            elif mood == "float64":
                yield "There was no recording of Caffe, so this does not show that Caffe computes the same."

    # Files

    def _files(self) -> Child:
        net = self.certificate.net
        totals = summarize(net)
        facts = [
            ("Phase", net.phase),
            ("Layers", f"{len(net.layers):,}"),
            ("Parameters", f"{totals.parameters:,}"),
            ("Multiply-accumulates", f"{totals.macs:,}"),
            ("Inputs", bullets(f"{name}  {format_shape(shape)}" for name, shape in totals.inputs.items())),
            ("Outputs", bullets(f"{name}  {format_shape(shape)}" for name, shape in totals.outputs.items())),
            ("Dialects", bullets(map(str, net.dialects))),
            ("Upgrades", bullets(net.upgrades)),
            ("Notes", bullets(map(str, net.notes))),
        ]
        sources = [_file(s["role"], s["name"], s["bytes"], s["sha256"], {}) for s in self.document["sources"]]
        made = [
            _file(artifact.kind, artifact.name, artifact.size, artifact.sha256, artifact.details)
            for artifact in self.certificate.artifacts
        ]
        return tag(
            "div",
            tag(
                "article",
                tag("h3", "From"),
                sources or tag("p", "No file: the net was built in memory.", class_="muted"),
                definitions(facts),
            ),
            tag(
                "article",
                tag("h3", "To"),
                made or tag("p", "No file was made: this is a verification of the net itself.", class_="muted"),
            ),
            class_="pair",
        )

    def _made(self) -> Child:
        command = self.certificate.command
        return [
            tag(
                "div",
                tag(
                    "article",
                    tag("h3", "Form and changes"),
                    definitions([(sentence(key), in_words(value)) for key, value in self.certificate.form.items()])
                    if self.certificate.form
                    else tag("p", "In Caffe's own form."),
                    bullets(self.certificate.changes)
                    if self.certificate.changes
                    else tag("p", "The net was not changed.", class_="muted"),
                ),
                tag(
                    "article",
                    tag("h3", "Versions"),
                    definitions(list(self.document["tool"].items())),
                ),
                class_="pair",
            ),
            (
                tag(
                    "article",
                    tag("h3", "The command that repeats it"),
                    tag(
                        "div",
                        tag("pre", tag("code", command), id="command", tabindex=0),
                        tag("button", "Copy", type="button", data_copies="command", hidden=True),
                        class_="copyable",
                    ),
                )
                if command
                else None
            ),
        ]


# Pieces


def _file(kind: str, name: str, bytes_: int, sha256: str, details: Mapping[str, Any]) -> Element:
    return tag(
        "div",
        tag("p", tag("b", name), " ", tag("span", kind, class_="chip")),
        tag("p", size(bytes_), class_="muted"),
        tag("p", tag("span", "SHA-256 ", class_="muted"), tag("code", sha256), class_="hash"),
        definitions([(sentence(key), in_words(value)) for key, value in details.items()]),
        class_="file",
    )


_ICONS = {
    "caffe": "M20 33l8 8 16-18",
    "float64": "M20 33l8 8 16-18",
    "failed": "M22 22l20 20m0-20L22 42",
    "unverified": "M32 25v15m0 9v.5",
}


def _icon(mood: str) -> Element:
    outline = {"failed": "M21 5h22l16 16v22L43 59H21L5 43V21z", "unverified": "M32 5l29 52H3z"}
    round_ = "M32 4a28 28 0 1 1 0 56a28 28 0 1 1 0-56z"
    return tag(
        "svg",
        tag("path", d=outline.get(mood, round_)),
        tag("path", d=_ICONS[mood]),
        viewBox="0 0 64 64",
        class_="icon",
        aria_hidden="true",
    )
