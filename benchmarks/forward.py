"""One forward pass of open_nsfw on one thread: NumPy, onnxruntime, OpenCV.

    python benchmarks/forward.py [--rounds 30]

All three are in one process, have the model loaded, and get the same input in turns. What comes out is compared first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
from collections.abc import Callable

from models import open_nsfw
from processes import ratio, row, run, seconds

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def serve(rounds: int) -> None:
    """Prints the seconds of each pass by name, as JSON."""
    import numpy as np
    import onnxruntime

    import caffe_port

    model = open_nsfw()
    net = caffe_port.load(model.prototxt, model.caffemodel)
    (blob,), (output,) = net.inputs, net.outputs
    x = np.random.default_rng(0).normal(0, 50, net.input_shapes[blob]).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        caffe_port.to_onnx(net).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    passes: dict[str, Callable[[], object]] = {
        "NumPy": lambda: caffe_port.run(net, {blob: x}, outputs=[output])[output],
        "onnxruntime": lambda: session.run([output], {blob: x})[0],
    }
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
        opened = cv2.dnn.readNetFromCaffe(str(model.prototxt), str(model.caffemodel))

        def opencv() -> object:
            opened.setInput(x)
            return opened.forward(output)

        passes["OpenCV"] = opencv
    exact = caffe_port.run(net, {blob: x}, dtype="float64", outputs=[output])[output]
    for name, once in passes.items():
        error = float(np.abs(np.asarray(once()) - exact).max())
        if not error < 1e-5:
            raise SystemExit(f"{name} computes something else: the output is {error:.2g} off")
    times: dict[str, list[float]] = {name: [] for name in passes}
    chance = random.Random(0)
    for _ in range(rounds):
        for name in chance.sample(list(passes), len(passes)):
            start = time.perf_counter()
            passes[name]()
            times[name].append(time.perf_counter() - start)
    print(json.dumps(times))


def rows(rounds: int) -> list[str]:
    times = json.loads(run([sys.executable, __file__, "--serve", str(rounds)], **ONE_THREAD).output)
    ours = times.pop("NumPy")
    return [
        row(
            "one forward pass of open_nsfw, one thread: NumPy",
            seconds(ours),
            f"{name}: {seconds(theirs)}",
            f"{ratio(ours, theirs):.1f}",
            "at most 8 (Caffe itself: 10.7)" if name == "onnxruntime" else "",
        )
        for name, theirs in times.items()
    ]


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    print("\n".join(rows(parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
