"""A net → files in other formats, each verified before it gets its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_port import recording
from caffe_port.artifacts.draft import Draft
from caffe_port.artifacts.form import BUDGETS, DEFAULT_TARGETS, ONNX_TARGETS, Form
from caffe_port.backends import Backend, NumpyBackend
from caffe_port.budget import BudgetReport, held_to
from caffe_port.certificate import Certificate
from caffe_port.compare import ParityReport
from caffe_port.errors import ArtifactError, GraphError, ParityError
from caffe_port.evidence import Evidence
from caffe_port.net import Net
from caffe_port.optional import require_onnxruntime, require_torch
from caffe_port.pages.certificate import write_page
from caffe_port.passes.detection_boxes import detection_boxes, stopped_layers
from caffe_port.preprocessing import Manifest
from caffe_port.proto.files import move_together, uninterrupted, workshop
from caffe_port.recording import Recording
from caffe_port.verification import Reference

__all__ = ["Conversion", "convert"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What `convert` made: the files, in `folder`, and the certificate that stands beside them."""

    folder: Path
    files: tuple[Path, ...]
    certificate: Certificate


def convert(
    net: Net,
    folder: Path,
    name: str,
    targets: Sequence[str] = DEFAULT_TARGETS,
    *,
    form: Form | None = None,
    evidence: Evidence | None = None,
    manifest: Manifest | None = None,
    budget: float | None = None,
    verify: bool = True,
    command: str = "",
    say: Say = lambda _: None,
) -> Conversion:
    """Writes `net` as `name` with the targets' suffixes into `folder`, and its certificate beside them.

    Everything is made in a hidden folder beside, read back, compared with the recordings (without any: with the float64
    run on seeded inputs) and with the float64 run on the evidence's inputs, and moved to its place only if all of it
    agrees: float files to the noise floor, layer by layer, those of reduced precision within `budget` on the outputs
    (None: `form.BUDGETS`). `verify=False` leaves that out, and the certificate says so. `manifest`: the model's
    preprocessing and labels, for the source and ONNX's metadata; `command`: what repeats this, for the certificate.
    Raises: ParityError, naming the first layer that diverges, and nothing is left behind; ArtifactError if a file
    cannot be written; GraphError for a form that a target or the net cannot have; UnsupportedLayer, MissingDependency.
    """
    form, evidence = form or Form(), evidence or Evidence()
    targets = tuple(dict.fromkeys(targets))
    form.check(targets)
    if not name or Path(name).name != name or name in (".", ".."):
        raise ArtifactError(f"{name!r} is no file name")
    if form.preprocessing and verify and not evidence.pictures:
        raise GraphError("preprocessing inside is verified with pictures: give some, or leave it out with --no-verify")
    if budget is None:
        budget = max((BUDGETS[what] for what in form.changes_numbers), default=0.0)
    with uninterrupted():  # Ctrl-C would abort C++ libraries that are being loaded
        _require(targets, form, verify)
    name += form.suffix
    shaped = net
    if isinstance(form.batch, int):
        shaped = net.with_input_shapes({blob: (form.batch, *shape[1:]) for blob, shape in net.input_shapes.items()})
    if form.detection == "boxes":
        shaped = detection_boxes(shaped)
    with workshop(folder) as made:
        draft = _written(shaped, made, name, targets, form, evidence, manifest, budget, say)
        if form.detection == "boxes":
            draft.changes[:0] = stopped_layers(shaped)
        reports: list[ParityReport] = []
        budgets: list[BudgetReport] = []
        if verify:
            for check in draft.checks:
                check()
            recordings = [recording.read(path) for path in evidence.recordings]
            reports = _exact_reports(net, shaped, draft.exact, evidence, recordings, say)
            if draft.budgeted:
                cases = evidence.cases(shaped, form, recordings)
                for artifact, run in draft.budgeted:
                    budgets.append(held_to(budget, artifact, run, cases))
                    say(budgets[-1].explanation())
            draft.changes += [measure(evidence.pictures) for measure in draft.measured]
        certificate = Certificate(
            net,
            tuple(draft.artifacts),
            tuple(evidence.recordings) if verify else (),
            tuple(reports),
            tuple(budgets),
            form.as_json(),
            tuple(draft.changes),
            command,
        )
        if verify and not certificate.ok:
            lines = [report.explanation() for report in reports if not report.ok]
            raise ParityError("\n".join(lines + [report.explanation() for report in budgets if not report.ok]))
        certificate.write(made / f"{name}.certificate.json")
        write_page(certificate, made / f"{name}.certificate.html")
        files = [artifact.name for artifact in draft.artifacts]
        certificates = [f"{name}.certificate.json", f"{name}.certificate.html"]
        move_together(made, folder, files, certificates)
    return Conversion(folder, tuple(folder / file for file in [*files, *certificates]), certificate)


def _written(
    net: Net,
    made: Path,
    name: str,
    targets: Sequence[str],
    form: Form,
    evidence: Evidence,
    manifest: Manifest | None,
    budget: float,
    say: Say,
) -> Draft:
    """The files of all targets, in the folder `made`."""
    drafts = []
    of_onnx = [target for target in targets if target in ONNX_TARGETS]
    if of_onnx:
        from caffe_port.artifacts.onnx_files import write_onnx_files

        say(f"writing {name} as {', '.join(of_onnx)}")
        drafts.append(
            write_onnx_files(
                net,
                made,
                name,
                of_onnx,
                form,
                manifest=manifest,
                calibration=evidence.typical(form.batch if isinstance(form.batch, int) else 1)
                if form.changes_numbers
                else (),
                budget=budget or None,
            )
        )
    for target in targets:
        if target in ONNX_TARGETS:
            continue
        say(f"writing {name} as {target}")
        if target == "pytorch":
            from caffe_port.artifacts.pytorch_files import write_pytorch

            drafts.append(write_pytorch(net, made, name, form))
        elif target == "pytorch-source":
            from caffe_port.artifacts.pytorch_files import write_pytorch_source

            known = None if manifest is None else manifest.preprocessing
            drafts.append(write_pytorch_source(net, made, name, form, known))
        else:
            from caffe_port.artifacts.caffe_files import write_caffe_weights

            drafts.append(write_caffe_weights(net, made, name, hdf5=target.endswith("h5")))
    return Draft(
        artifacts=[artifact for draft in drafts for artifact in draft.artifacts],
        exact=[backend for draft in drafts for backend in draft.exact],
        budgeted=[pair for draft in drafts for pair in draft.budgeted],
        checks=[check for draft in drafts for check in draft.checks],
        measured=[measure for draft in drafts for measure in draft.measured],
        changes=list(dict.fromkeys(change for draft in drafts for change in draft.changes)),
    )


def _exact_reports(
    net: Net, shaped: Net, files: Sequence[Backend], evidence: Evidence, recordings: Sequence[Recording], say: Say
) -> list[ParityReport]:
    """NumPy and the files against every reference. Files of another batch or of other outputs than were recorded are
    held against the float64 run, which NumPy's reports hold against Caffe.
    """
    numpy: list[Backend] = [NumpyBackend("float64"), NumpyBackend("float32")]
    wanted: list[tuple[Reference, Sequence[Backend]]] = []
    unseen = list(files)
    for recorded in recordings:
        fits = shaped is net or (recorded.input_shapes == shaped.input_shapes and shaped.outputs == net.outputs)
        wanted.append((Reference.make(net, recorded), [*numpy, *files] if fits else numpy))
        unseen = [] if fits else unseen
    if not recordings:
        wanted.append((Reference.make(shaped), [*numpy, *files]))
    elif unseen:
        wanted.append((Reference.make(shaped, None, evidence.repeated(recordings[0], shaped)), files))
    for name, arrays in evidence.inputs.items():
        wanted.append((replace(Reference.make(shaped, None, arrays), name=name), [*numpy, *files]))
    reports = []
    for reference, backends in wanted:
        for backend in backends:
            reports.append(reference.compare(backend))
            say(reports[-1].explanation())
    return reports


def _require(targets: Sequence[str], form: Form, verify: bool) -> None:
    """Imports what a conversion needs, before any of the work is done. Raises MissingDependency for what is absent."""
    if any(target in ONNX_TARGETS for target in targets):
        import onnx  # noqa: F401

        needed = form.int8 or "ort" in targets
        if verify or needed:
            require_onnxruntime("" if needed else "leave verification out with --no-verify")
    if any(target.startswith("pytorch") for target in targets):
        require_torch()
