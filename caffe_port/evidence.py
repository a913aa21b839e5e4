"""What a conversion is verified with: recordings, inputs, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from caffe_port.arrays import read_npz
from caffe_port.artifacts.form import Form
from caffe_port.budget import Case, expected_of
from caffe_port.errors import GraphError, ImageError
from caffe_port.layers.base import Array
from caffe_port.net import Net
from caffe_port.preprocessing import Preprocessing
from caffe_port.recording import Recording
from caffe_port.verification import seeded_inputs

__all__ = ["Evidence", "gather", "generated_pictures"]

SEEDS = 4
"""How many seeded inputs, where there are no others."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a conversion is verified with.

    `recordings` of Caffe; `inputs`, arrays by blob under a name of their own, held against the float64 run; `pictures`,
    uint8 (height, width, 3) RGB by name, and the `preprocessing` that makes them inputs; `calibration`, inputs for
    int8.
    """

    recordings: Sequence[Path] = ()
    inputs: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    pictures: Mapping[str, Array] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    calibration: Sequence[Mapping[str, Array]] = ()
    passed_over: tuple[str, ...] = ()
    """Files among the pictures that are none, and why."""

    def cases(self, net: Net, form: Form, recordings: Sequence[Recording]) -> list[Case]:
        """What a file of reduced precision is run on: the recordings and inputs, and the pictures; without any,
        generated pictures where it is known how they become inputs, else seeded inputs.

        A file with preprocessing inside takes the pictures as they are.
        """
        pictured = self.pictures
        if not pictured and not recordings and not self.inputs and self.preprocessing is not None:
            pictured = generated_pictures()
        pictures = [self._picture(net, name, image, form) for name, image in pictured.items()]
        if form.preprocessing:
            return pictures
        if form.detection == "boxes":
            # Caffe recorded rows; the inputs are as good.
            recorded = [expected_of(net, Path(one.source).name, self.repeated(one, net)) for one in recordings]
        else:
            recorded = [
                case
                for one in recordings
                if (case := Case.recorded(one, Path(one.source).name)) is not None
                and (not isinstance(form.batch, int) or one.input_shapes == net.input_shapes)
            ]
        given = [expected_of(net, name, arrays) for name, arrays in self.inputs.items()]
        return [*recorded, *given, *pictures] or [
            expected_of(net, f"seeded inputs {seed}", seeded_inputs(net, seed)) for seed in range(SEEDS)
        ]

    def typical(self, batch: int = 1) -> Sequence[Mapping[str, Array]]:
        """Inputs like the real ones, each the same item `batch` times: those to calibrate with, else generated
        pictures; none where nothing is known.
        """
        found = self.calibration
        if not found and self.preprocessing is not None:
            found = _inputs_of(generated_pictures().values(), self.preprocessing)
        return [{name: np.repeat(array, batch, axis=0) for name, array in feeds.items()} for feeds in found]

    def repeated(self, recording: Recording, net: Net) -> dict[str, Array]:
        """Recorded inputs, item after item again and again until the net's batch is full."""
        repeated = seeded_inputs(net)
        for blob, shape in net.input_shapes.items():
            if blob in recording.inputs and recording.inputs[blob].shape[1:] == shape[1:]:
                repeated[blob] = np.resize(recording.inputs[blob], shape)
        return repeated

    def _picture(self, net: Net, name: str, image: Array, form: Form) -> Case:
        """A picture as the file takes it, and the outputs for it when it is preprocessed outside, bit for bit."""
        from PIL import Image

        from caffe_port.scoring.preprocess import tensor

        preprocessing = form.preprocessing or self.preprocessing
        assert preprocessing is not None
        values = tensor(Image.fromarray(image), preprocessing)
        blob = preprocessing.input_blob
        batch = form.batch if isinstance(form.batch, int) and not form.preprocessing else 1
        case = expected_of(net, name, {blob: np.repeat(values[np.newaxis], batch, axis=0)})
        return Case(name, {"image": image}, case.outputs) if form.preprocessing else case


def gather(
    net: Net,
    recordings: Sequence[Path] = (),
    *,
    inputs: Sequence[Path] = (),
    images: Path | None = None,
    calibration: Path | None = None,
    preprocessing: Preprocessing | None = None,
    pictures_needed: bool = False,
) -> Evidence:
    """Reads what a user names: npz files of inputs, a folder of pictures, a folder or npz to calibrate with.

    Without pictures, where some are needed, generated ones are taken.
    Raises: GraphError for arrays that are no inputs of the net, pictures for a model of unknown preprocessing;
    ImageError for a folder without pictures; ArtifactError for a file that cannot be read.
    """
    pictures: dict[str, Array] = {}
    passed_over: list[str] = []
    if images is not None:
        _require_preprocessing(preprocessing)
        pictures = _pictures(images, passed_over)
    elif pictures_needed:
        pictures = generated_pictures()
    calibrating: list[dict[str, Array]] = []
    if calibration is not None and calibration.is_dir():
        known = _require_preprocessing(preprocessing)
        calibrating = _inputs_of(_pictures(calibration, passed_over).values(), known)
    elif calibration is not None:
        calibrating = _items(net, calibration)
    named = {path.name: _arrays(net, path) for path in inputs}
    return Evidence(tuple(recordings), named, pictures, preprocessing, tuple(calibrating), tuple(passed_over))


def generated_pictures(seed: int = 0) -> dict[str, Array]:
    """Pictures for want of others: smooth colours with some grain, of several sizes and proportions."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pictures = {}
    for height, width in ((256, 256), (480, 640), (640, 480), (97, 301), (800, 1200), (1024, 768)):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float64)
        grain = rng.normal(0, 8, smooth.shape)
        pictures[f"generated {width}x{height}"] = np.clip(np.rint(smooth + grain), 0, 255).astype(np.uint8)
    return pictures


def _inputs_of(pictures: Iterable[Array], preprocessing: Preprocessing) -> list[dict[str, Array]]:
    """Each picture as input of a net, a batch of 1."""
    from PIL import Image

    from caffe_port.scoring.preprocess import tensor

    return [{preprocessing.input_blob: tensor(Image.fromarray(one), preprocessing)[np.newaxis]} for one in pictures]


def _require_preprocessing(preprocessing: Preprocessing | None) -> Preprocessing:
    if preprocessing is None:
        raise GraphError("nothing is known of this model's preprocessing: give a manifest, --manifest FILE")
    return preprocessing


def _pictures(folder: Path, passed_over: list[str]) -> dict[str, Array]:
    """Every file of a folder that is a picture, sorted by name; what the others are goes to `passed_over`.

    Raises: ImageError if there is no picture.
    """
    from caffe_port.image_files import opened_image

    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    found = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        try:
            with opened_image(path) as image:
                found[path.name] = np.asarray(image.convert("RGB"))
        except ImageError as error:
            passed_over.append(str(error))
    if not found:
        raise ImageError(f"{folder}: no picture in it that can be read")
    return found


def _arrays(net: Net, path: Path) -> dict[str, Array]:
    arrays = read_npz(path)
    wrong = sorted(set(net.inputs) ^ set(arrays))
    if wrong:
        raise GraphError(f"{path}: {', '.join(wrong)}: its arrays must be those of the inputs, {', '.join(net.inputs)}")
    return {name: np.asarray(arrays[name], np.float32) for name in net.inputs}


def _items(net: Net, path: Path) -> list[dict[str, Array]]:
    """Inputs one by one: arrays of an npz file with any number of items on axis 0."""
    arrays = _arrays(net, path)
    numbers = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(numbers) != 1 or 0 in numbers:
        raise GraphError(f"{path}: its arrays need the same number of items on axis 0")
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(numbers.pop())]
