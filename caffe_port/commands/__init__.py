"""The verbs of the command, a module each.

A module has `add_arguments(command)` and `run(args)`, which reads the arguments, calls the library, prints, and returns
the exit code. It imports what it needs inside these, so that `caffe-port --help` is instant.
"""

from __future__ import annotations

__all__ = ["VERBS"]

VERBS = {
    "fetch": "get a released model into the cache and say where it is",
    "convert": "convert a model to ONNX, PyTorch, or back to Caffe, and verify the files",
    "verify": "compare a model, layer by layer, with what Caffe computed",
    "inspect": "list the layers of a model, or what a solver or its state says",
    "run": "run a model on arrays: npz in, npz out",
    "score": "score images: the probability that they are not safe for work",
    "calibrate": "from labels and scores to a threshold: curves, confidence, bins, comparisons",
    "build": "write a known architecture at any number of classes, as prototxts to deploy and to train",
    "compare": "nets side by side: parameters, computation, memory, time, published accuracy, and the figure",
    "train": "train a net as Caffe does, from its solver prototxt",
    "finetune": "fine-tune a model on images of one's own, and measure what it gained",
    "migrate": "what changes in a script that reads Caffe models with OpenCV, for ONNX",
    "record": "record what a Caffe computes: the script for its machine, and a check",
    "layers": "list the layer types that are known, and what each can be converted to",
    "upgrade": "write an old net (text or binary) or solver in today's form, as Caffe's tools do",
}
"""Each verb and what it does, in the order of `caffe-port --help`."""
