"""`caffe-port verify`: a model against what Caffe computed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_port.commands.common import json_argument, loaded, located, model_arguments, print_json, say, tell
from caffe_port.errors import GraphError

if TYPE_CHECKING:
    from caffe_port.net import Net

__all__ = ["add_arguments", "run"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    model_arguments(command)
    command.add_argument(
        "--recording", action="append", type=Path, default=[], metavar="NPZ", help="of Caffe's outputs"
    )
    command.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="numpy, numpy64, torch or onnxruntime (default: all installed)",
    )
    command.add_argument("--input", type=Path, metavar="NPZ", help="inputs, where the recording does not hold them")
    command.add_argument(
        "--isolated", action="store_true", help="run each layer from its recorded inputs, where they are complete"
    )
    command.add_argument(
        "--self",
        action="store_true",
        dest="among_themselves",
        help="without a recording: compare the backends with each other, which proves less",
    )
    command.add_argument("--certificate", type=Path, metavar="JSON", help="write the certificate there")
    command.add_argument("-v", "--verbose", action="store_true", help="a line for every blob")
    json_argument(command)


def run(args: argparse.Namespace) -> int:
    from caffe_port import recording
    from caffe_port.arrays import read_npz
    from caffe_port.backends import installed_backends, make_backend
    from caffe_port.certificate import Certificate
    from caffe_port.verification import Reference, verify_isolated

    files = located(args)
    net = loaded(args, files)
    paths = args.recording or files.recordings()
    backends = [make_backend(name) for name in args.backend] if args.backend else installed_backends()
    inputs = read_npz(args.input) if args.input else None
    if args.among_themselves:
        return _among_themselves(args, net, inputs)
    if args.isolated and not paths:
        raise GraphError("--isolated needs a recording")
    if not paths:
        say("note: there is no recording of Caffe for this model; it is compared with the NumPy float64 run")
    reports = []
    for path in paths or [None]:
        recorded = None if path is None else recording.read(path)
        reference = None if args.isolated else Reference.make(net, recorded, inputs)
        for backend in backends:
            if reference is not None:
                report = reference.compare(backend)
            else:
                assert recorded is not None
                report = verify_isolated(net, recorded, backend, inputs=inputs)
            reports.append(report)
            if not args.json:
                if args.verbose:
                    for line in report.table():
                        tell(line)
                tell(report.explanation())
    certificate = Certificate(net, (), tuple(paths), tuple(reports))
    if args.certificate:
        certificate.write(args.certificate)
    if args.json:
        print_json(json.loads(certificate.dumps()))
    return 0 if certificate.ok else 1


def _among_themselves(args: argparse.Namespace, net: Net, inputs: dict[str, Any] | None) -> int:
    from caffe_port.backends import make_backend
    from caffe_port.self_comparison import verify_self

    if args.recording or args.isolated or args.certificate:
        raise GraphError("--self uses no recording and makes no certificate")
    backends = [make_backend(name) for name in args.backend] if args.backend else None
    compared = verify_self(net, inputs, backends)
    if args.json:
        print_json(compared.as_json())
    else:
        for line in compared.lines():
            tell(line)
    return 0 if compared.ok else 1
