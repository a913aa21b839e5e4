"""`python -m caffe_port.pycaffe SCRIPT …`: runs a script that was written for Caffe's Python interface."""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path

from caffe_port.errors import CaffePortError
from caffe_port.pycaffe import install
from caffe_port.pycaffe.errors import SourceError
from caffe_port.pycaffe.python2 import namespace, translate
from caffe_port.pycaffe.python2_imports import translating_imports

__all__ = ["main"]

USAGE = """usage: python -m caffe_port.pycaffe SCRIPT [ARGUMENT ...]

Runs SCRIPT with `import caffe` finding caffe_port.pycaffe. A Python 2 script is translated where that is safe; where it
is not, each place is told and nothing runs."""


def main(arguments: Sequence[str]) -> int:
    """Runs `arguments[0]` as `__main__` with the rest as its arguments, as Python itself runs a script.

    Returns 0, 1 after an error of the script, 2 if it cannot be run; its own SystemExit passes. Changes `sys.argv`,
    `sys.path`, `sys.modules`.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    script = arguments[0]
    try:
        translation = translate(Path(script).read_bytes(), script)
        install()
    except OSError as error:
        print(f"error: {script}: {error.strerror}", file=sys.stderr)
        return 2
    except CaffePortError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for note in translation.notes:
        print(note, file=sys.stderr)
    folder = Path(script).resolve().parent
    # `python -m` has put the working directory there, where Python puts a script's folder.
    if sys.path and sys.path[0] in ("", str(Path.cwd())):
        del sys.path[0]
    translating_imports(folder, python2=translation.python2)
    sys.path.insert(0, str(folder))
    sys.argv[:] = arguments
    module = types.ModuleType("__main__")
    vars(module).update(namespace(translation), __file__=script)
    sys.modules["__main__"] = module
    try:
        exec(translation.code, vars(module))
    except Exception as error:  # noqa: BLE001 - whatever the script raises
        _report(error, script)
        return 1
    return 0


def _report(error: Exception, script: str) -> None:
    """An error raised on purpose as one line with its place in the script, any other as Python shows it."""
    # The first frame is this module's.
    place = error.__traceback__.tb_next if error.__traceback__ is not None else None
    if isinstance(error, CaffePortError) and place is not None:
        where = "" if isinstance(error, SourceError) else f"{script}:{place.tb_lineno}: "
        print(f"error: {where}{error}", file=sys.stderr)
        return
    traceback.print_exception(type(error), error, place)
    if isinstance(error, UnicodeDecodeError):
        print("Bytes were read as text: open the file with mode 'rb', which Python 2 did not need.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
