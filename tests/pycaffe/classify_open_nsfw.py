"""Scores an image with open_nsfw, as the script of the model's repository does: a script for Caffe's Python interface.

It knows nothing of caffe_port. Its steps are those that the model's repository documents.
"""

import argparse
from io import BytesIO
from pathlib import Path

import caffe
import numpy as np
from PIL import Image


def resized(data: bytes) -> BytesIO:
    image = Image.open(BytesIO(data))
    if image.mode != "RGB":
        image = image.convert("RGB")
    encoded = BytesIO()
    image.resize((256, 256), resample=Image.BILINEAR).save(encoded, format="JPEG")
    encoded.seek(0)
    return encoded


def score(data: bytes, transformer: caffe.io.Transformer, net: caffe.Net, layers: list[str]) -> np.ndarray:
    image = caffe.io.load_image(resized(data))
    rows, columns, _ = image.shape
    _, _, height, width = net.blobs["data"].data.shape
    top, left = max((rows - height) // 2, 0), max((columns - width) // 2, 0)
    crop = image[top : top + height, left : left + width, :]
    blob = transformer.preprocess("data", crop)
    blob.shape = (1, *blob.shape)
    return net.forward_all(blobs=layers, **{net.inputs[0]: blob})[layers[0]][0].astype(float)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input_files", nargs="+")
    parser.add_argument("--model_def")
    parser.add_argument("--pretrained_model")
    args = parser.parse_args()
    net = caffe.Net(args.model_def, args.pretrained_model, caffe.TEST)
    transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_mean("data", np.array([104, 117, 123]))
    transformer.set_raw_scale("data", 255)
    transformer.set_channel_swap("data", (2, 1, 0))
    for name in args.input_files:
        print("NSFW score:  ", score(Path(name).read_bytes(), transformer, net, ["prob"])[1])


if __name__ == "__main__":
    main()
