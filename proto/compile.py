"""Makes caffe.desc anew from caffe.proto: `python -m caffe_port.proto.compile` (needs grpcio-tools, for developers)."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from caffe_port.errors import MissingDependency

__all__ = ["compile_schema", "main"]

PROTO = Path(__file__).with_name("caffe.proto")
DESC = Path(__file__).with_name("caffe.desc")


def compile_schema(proto: Path = PROTO) -> bytes:
    """Runs protoc over a .proto file and returns the serialized FileDescriptorSet.

    Raises: MissingDependency without grpcio-tools; ValueError where protoc refuses the file.
    """
    try:
        protoc = importlib.import_module("grpc_tools.protoc")
    except ImportError as error:
        raise MissingDependency("compiling caffe.proto needs grpcio-tools: pip install grpcio-tools") from error
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out.desc")
        if protoc.main(["protoc", f"--proto_path={proto.parent}", f"--descriptor_set_out={out}", proto.name]):
            raise ValueError(f"protoc refuses {proto}; its reasons are on standard error")
        return out.read_bytes()


def main() -> None:
    """Overwrites caffe.desc."""
    data = compile_schema()
    DESC.write_bytes(data)
    print(f"{DESC}: {len(data)} bytes")


if __name__ == "__main__":
    main()
