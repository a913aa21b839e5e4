"""A net → files in other formats, each verified before it gets its name."""

from __future__ import annotations

import contextlib
import io
import secrets
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_port import recording
from caffe_port.backends import Backend, NumpyBackend, OnnxBackend, TorchBackend, make_session
from caffe_port.certificate import Artifact, Certificate
from caffe_port.errors import ArtifactError, CaffePortError, GraphError, MissingDependency, ParityError
from caffe_port.layers.base import Array
from caffe_port.net import Blob, Layer, Net
from caffe_port.proto.files import replacing
from caffe_port.verification import Reference, computed_outputs

__all__ = ["TARGETS", "Conversion", "convert", "verification_backends"]

TARGETS = ("onnx", "pytorch")
"""The formats `convert` writes."""

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
    targets: Sequence[str] = TARGETS,
    *,
    recordings: Sequence[Path] = (),
    verify: bool = True,
    say: Say = lambda _: None,
) -> Conversion:
    """Writes `net` as `name` with the targets' suffixes into `folder`, and `name.certificate.json` beside them.

    Everything is made in a hidden folder beside, read back, compared layer by layer with the `recordings` (without
    any: with the float64 run), and moved to its place only if all of it agrees. `verify=False` leaves that out, and
    the certificate says so.
    Raises: ParityError, naming the first layer that diverges, and nothing is left behind; ArtifactError if a file
    cannot be written; UnsupportedLayer, MissingDependency.
    """
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets:
        raise GraphError(f"unknown target {', '.join(unknown) or 'none'}; known: {', '.join(TARGETS)}")
    if not name or Path(name).name != name or name in (".", ".."):
        raise ArtifactError(f"{name!r} is no file name")
    with _interrupted_later():
        _require(targets, verify)
    with _workshop(folder) as workshop:
        artifacts: list[Artifact] = []
        backends: list[Backend] = [NumpyBackend("float64"), NumpyBackend("float32")]
        for target in dict.fromkeys(targets):
            say(f"writing {name} as {target}")
            made, checks = _WRITERS[target](net, workshop, name)
            artifacts += made
            backends += checks
        reports = []
        if verify:
            read: list[recording.Recording | None] = [recording.read(path) for path in recordings]
            for reference_recording in read or [None]:
                reference = Reference.make(net, reference_recording)
                for backend in backends:
                    report = reference.compare(backend)
                    say(report.explanation())
                    reports.append(report)
        certificate = Certificate(net, tuple(artifacts), tuple(recordings) if verify else (), tuple(reports))
        if verify and not certificate.ok:
            raise ParityError("\n".join(report.explanation() for report in reports if not report.ok))
        certificate.write(workshop / f"{name}.certificate.json")
        files = [*(artifact.name for artifact in artifacts), f"{name}.certificate.json"]
        try:
            for file in files:
                (workshop / file).replace(folder / file)
        except OSError as error:
            raise ArtifactError(f"{folder / file}: cannot be written: {error.strerror or error}") from None
    return Conversion(folder, tuple(folder / file for file in files), certificate)


def verification_backends(net: Net) -> list[Backend]:
    """Every way to compute the net that is installed here."""
    backends: list[Backend] = [NumpyBackend("float64"), NumpyBackend("float32")]
    with contextlib.suppress(MissingDependency):
        from caffe_port.converters.to_pytorch.export import require_torch

        require_torch()
        backends.append(TorchBackend())
    with contextlib.suppress(MissingDependency):
        _require_onnxruntime()
        backends.append(OnnxBackend())
    return backends


def _require_onnxruntime() -> None:
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "onnxruntime is needed to verify: pip install 'caffe_port[runtime]', or leave it out with --no-verify "
            f"({error})"
        ) from None


def _require(targets: Sequence[str], verify: bool) -> None:
    """Imports what a conversion needs, before any of the work is done. Raises MissingDependency for what is absent."""
    if "onnx" in targets:
        import onnx  # noqa: F401
    if "pytorch" in targets:
        from caffe_port.converters.to_pytorch.export import require_torch

        require_torch()
    if "onnx" in targets and verify:
        _require_onnxruntime()


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Ctrl-C waits until the block ends, where the system can do that: it would abort C++ libraries being loaded."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """A hidden folder in `folder`, gone when the block ends, however it ends."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    workshop = folder / f".caffe_port-{secrets.token_hex(6)}.tmp"
    finished = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        workshop.mkdir()
        yield workshop
        finished = True
    except ArtifactError as error:
        # The user knows the folder, not the hidden one.
        raise ArtifactError(str(error).replace(str(workshop), str(folder))) from error
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written into: {error.strerror or error}") from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
        if not finished:
            with contextlib.suppress(OSError):
                for parent in made:
                    parent.rmdir()


def _write_onnx(net: Net, folder: Path, name: str) -> tuple[list[Artifact], list[Backend]]:
    import onnx

    from caffe_port.converters.to_onnx import OPSET, to_onnx

    model = to_onnx(net)
    path = folder / f"{name}.onnx"
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ArtifactError(f"{path.name}: the model is larger than the 2 GiB an ONNX file holds")
    with replacing(path) as stream:
        stream.write(model.SerializeToString(deterministic=True))
    symbolic = any(dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim)
    artifact = Artifact.of("onnx", path, opset=OPSET, batch="symbolic" if symbolic else "fixed")
    return [artifact], [_ReadBack(path), _DeployedOnnx(path)]


def _write_pytorch(net: Net, folder: Path, name: str) -> tuple[list[Artifact], list[Backend]]:
    from caffe_port.converters.to_pytorch import to_pytorch

    module = to_pytorch(net)
    import torch
    from safetensors.torch import save

    weights = folder / f"{name}.safetensors"
    # Tensors shared by name are stored once a name: safetensors refuses shared memory.
    state = {key: value.detach().clone().contiguous() for key, value in module.state_dict().items()}
    with replacing(weights) as stream:
        stream.write(save(state, metadata={"format": "pt"}))
    program, symbolic = _export(net, module)
    path = folder / f"{name}.pt2"
    # Not straight to the file: where that cannot be written, PyTorch raises its C++ stack instead of an OSError.
    archive = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, archive)
    with replacing(path) as stream:
        stream.write(archive.getbuffer())
    artifacts = [
        Artifact.of("pytorch program (torch.export)", path, batch="symbolic" if symbolic else "fixed"),
        Artifact.of("pytorch state dict (safetensors)", weights),
    ]
    return artifacts, [_Reloaded(weights), _DeployedProgram(path)]


_WRITERS: Mapping[str, Callable[[Net, Path, str], tuple[list[Artifact], list[Backend]]]] = {
    "onnx": _write_onnx,
    "pytorch": _write_pytorch,
}


def _export(net: Net, module: Any) -> tuple[Any, bool]:
    """The exported program, of any batch where the net allows it."""
    import torch

    def program(batch: int | None) -> Any:
        shapes = [shape if batch is None else (batch, *shape[1:]) for shape in net.input_shapes.values()]
        example = tuple(torch.zeros(shape) for shape in shapes)
        dims = None if batch is None else (tuple({0: torch.export.Dim("N")} for _ in shapes),)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(module, example, dynamic_shapes=dims)

    sizes = {shape[0] if shape else 0 for shape in net.input_shapes.values()}
    if len(sizes) == 1 and 0 not in sizes and _takes_any_batch(net):
        try:
            return program(2), True
        except (RuntimeError, ValueError, torch._dynamo.exc.UserError):
            # Some nets fix their batch (a Reshape with all dims given); torch says so in several ways.
            return program(None), False
    return program(None), False


def _takes_any_batch(net: Net) -> bool:
    try:
        net.with_input_shapes({name: (2 * shape[0] + 1, *shape[1:]) for name, shape in net.input_shapes.items()})
    except CaffePortError:
        return False
    return True


def _outputs_of(net: Net, values: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array | None, ...]]]:
    """The layers that make the net's outputs, with the values of these; None for their other tops."""
    names = computed_outputs(net)
    for layer in net.layers:
        if any(top in names for top in layer.tops):
            yield layer, tuple(_as_top(net, top, names.get(top), values) for top in layer.tops)


def _as_top(net: Net, top: Blob, output: str | None, values: Mapping[str, Array]) -> Array | None:
    """The value of an output in the shape of the top that made it; left to be found out if its own shape is wrong."""
    if output is None:
        return None
    value = values[output]
    return value.reshape(top.shape) if value.shape == net.blobs[output].shape else value


@dataclass(slots=True)
class _ReadBack:
    """The ONNX file, opened so that every value can be seen."""

    path: Path
    name: str = "onnxruntime"
    outputs_only: bool = False
    _backend: OnnxBackend | None = None

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
        if self._backend is None:
            import onnx

            self._backend = OnnxBackend(onnx.load(self.path))
        return self._backend.trace(net, inputs)


@dataclass(slots=True)
class _DeployedOnnx:
    """The ONNX file as users run it, with onnxruntime's own optimizations: only its outputs can be seen."""

    path: Path
    name: str = "onnxruntime, the file as it is"
    outputs_only: bool = True
    _session: Any = None

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array | None, ...]]]:
        from caffe_port.converters.to_onnx import value_names

        if self._session is None:
            self._session = make_session(str(self.path))
        names = value_names(net)
        # A blob that shares overwritten memory has no name of its own but as an output.
        wanted = [names.get(blob, blob.name) for blob in net.output_blobs]
        values = self._session.run(wanted, dict(inputs))
        return _outputs_of(net, dict(zip(net.outputs, values, strict=True)))


@dataclass(slots=True)
class _Reloaded:
    """The module with its weights read back from the safetensors file."""

    path: Path
    name: str = "torch (without oneDNN)"
    outputs_only: bool = False
    _backend: TorchBackend | None = None

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array, ...]]]:
        if self._backend is None:
            from safetensors.torch import load_file

            from caffe_port.converters.to_pytorch import to_pytorch

            module = to_pytorch(net)
            for parameter in module.state_dict().values():
                parameter.zero_()
            module.load_state_dict(load_file(self.path))
            self._backend = TorchBackend(module)
        return self._backend.trace(net, inputs)


@dataclass(slots=True)
class _DeployedProgram:
    """The exported PyTorch program, loaded from its file."""

    path: Path
    name: str = "torch, the exported program"
    outputs_only: bool = True
    _module: Any = None

    def trace(self, net: Net, inputs: Mapping[str, Array]) -> Iterator[tuple[Layer, tuple[Array | None, ...]]]:
        import torch

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if self._module is None:
                self._module = torch.export.load(self.path).module()
            result = self._module(*[torch.from_numpy(np.array(inputs[name])) for name in net.inputs])
        outputs = result if isinstance(result, dict) else {net.outputs[0]: result}
        return _outputs_of(net, {name: value.numpy() for name, value in outputs.items()})
