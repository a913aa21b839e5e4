"""Makes the files beside this one from a folder of recordings of real Caffe, given as the only argument.

    python reference_outputs/pack.py RECORDINGS [--into FOLDER]

RECORDINGS has open_nsfw/ (scores.json, SOURCES.txt, images/, *.npz), nets/ (*.npz, ms_ctc.prototxt), layers/,
fork_layers/ and solver/ (a folder for each case). No number is changed: images and texts are copied, the arrays of a
recording are packed again at the highest level, in their order, and the layer cases of a folder go into one zip file
with their files as they are. The same recordings give the same files, byte for byte, with the same zlib.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

from caffe_port.recording import zip_bytes

__all__ = ["main", "pack"]


def pack(recordings: Path, into: Path) -> list[Path]:
    """Writes all packed files below `into` and returns their paths, sorted. Raises OSError, zipfile.BadZipFile."""
    packed: dict[str, bytes] = {}
    model = recordings / "open_nsfw"
    plain = [model / "scores.json", model / "SOURCES.txt", *(model / "images").iterdir()]
    plain.append(recordings / "nets" / "ms_ctc.prototxt")
    for file in plain:
        packed[file.relative_to(recordings).as_posix()] = file.read_bytes()
    for source in ("open_nsfw", "nets"):
        for file in (recordings / source).glob("*.npz"):
            packed[file.relative_to(recordings).as_posix()] = _repacked(file)
    for name in ("layers", "fork_layers", "solver"):
        folder = recordings / name
        cases = sorted((file.relative_to(folder).as_posix(), file) for file in folder.glob("*/*") if file.is_file())
        packed[f"{name}.zip"] = zip_bytes((case, file.read_bytes()) for case, file in cases)
    for name, content in packed.items():
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return sorted(into / name for name in packed)


def _repacked(file: Path) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return zip_bytes([(name, archive.read(name)) for name in archive.namelist()])


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--into", type=Path, default=Path(__file__).resolve().parent)
    options = parser.parse_args(arguments)
    try:
        files = pack(options.recordings, options.into)
    except (OSError, zipfile.BadZipFile) as err:
        print(f"pack.py: {err}", file=sys.stderr)
        return 2
    print(f"{len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
