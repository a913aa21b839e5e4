"""`python -m caffe_port.pycaffe SCRIPT`: old scripts run as they are, Python 2 sources are translated."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_port import recording
from caffe_port.errors import CaffePortError, FetchError
from caffe_port.models.fetch import FetchedModel, fetch
from caffe_port.pycaffe.errors import SourceError
from caffe_port.pycaffe.python2 import namespace, translate

RECORDINGS = Path(recording.__file__).parents[1] / "reference_outputs" / "open_nsfw"
SCORES = json.loads((RECORDINGS / "scores.json").read_text())
GOOD = sorted(name for name, entry in SCORES.items() if "prob" in entry)
SCRIPT = Path(__file__).with_name("classify_open_nsfw.py")

PYTHON2 = """\
import argparse
import sys
from StringIO import StringIO

import caffe
import numpy as np
from PIL import Image


def resized(data, size=(256, 256)):
    text = str(data)
    image = Image.open(StringIO(text))
    if image.mode != "RGB":
        image = image.convert('RGB')
    encoded = StringIO()
    image.resize(size, resample=Image.BILINEAR).save(encoded, format='JPEG')
    encoded.seek(0)
    return bytearray(encoded.read())


def compute(data, transformer=None, net=None, layers=None):
    if net is None:
        return []
    image = caffe.io.load_image(StringIO(resized(data)))
    H, W, _ = image.shape
    _, _, h, w = net.blobs['data'].data.shape
    top, left = max((H - h) / 2, 0), max((W - w) / 2, 0)
    blob = transformer.preprocess('data', image[top:top + h, left:left + w, :])
    blob.shape = (1,) + blob.shape
    return net.forward_all(blobs=layers, **{net.inputs[0]: blob})[layers[0]][0].astype(float)


def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("input_file")
    parser.add_argument("--model_def")
    parser.add_argument("--pretrained_model")
    args = parser.parse_args()
    data = open(args.input_file).read()
    net = caffe.Net(args.model_def, args.pretrained_model, caffe.TEST)
    transformer = caffe.io.Transformer({'data': net.blobs['data'].data.shape})
    transformer.set_transpose('data', (2, 0, 1))
    transformer.set_mean('data', np.array([104, 117, 123]))
    transformer.set_raw_scale('data', 255)
    transformer.set_channel_swap('data', (2, 1, 0))
    scores = compute(data, transformer=transformer, net=net, layers=['prob'])
    print "NSFW score:  " , scores[1]


if __name__ == '__main__':
    main(sys.argv)
"""


def started(script: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "caffe_port.pycaffe", str(script), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def model() -> list[str]:
    try:
        files: FetchedModel = fetch("open_nsfw")
    except FetchError as error:
        pytest.skip(f"the released model cannot be had: {error}")
    return ["--model_def", str(files.prototxt), "--pretrained_model", str(files.caffemodel)]


def test_the_script_of_open_nsfw_prints_caffe_s_score_of_every_image(model: list[str]) -> None:
    ran = started(SCRIPT, *model, *[str(RECORDINGS / "images" / name) for name in GOOD])
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert len(GOOD) == len(lines) == 25
    assert all(line.startswith("NSFW score:   ") for line in lines)
    scores = np.array([float(line.split()[-1]) for line in lines])
    expected = np.array([SCORES[name]["prob"][1] for name in GOOD])
    assert np.abs(scores - expected).max() <= 2e-7


@pytest.mark.parametrize("name", ["chelsea.png", "astronaut_cmyk.jpg"])
def test_such_a_script_in_python_2(model: list[str], tmp_path: Path, name: str) -> None:
    """It reads a picture in text mode, keeps bytes in str and StringIO, and halves integers with a single slash."""
    script = tmp_path / "classify.py"
    script.write_text(PYTHON2)
    ran = started(script, str(RECORDINGS / "images" / name), *model)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines() == [
        f"{script}: / on line 27 divides as in Python 2: integers give an integer, rounded down"
    ]
    assert ran.stdout.startswith("NSFW score:   ")
    assert abs(float(ran.stdout.split()[-1]) - SCORES[name]["prob"][1]) <= 2e-7


def test_a_picture_that_cannot_be_read_is_the_script_s_error(model: list[str]) -> None:
    ran = started(SCRIPT, *model, str(RECORDINGS / "images" / "not_an_image.jpg"))
    assert ran.returncode == 1
    assert "UnidentifiedImageError" in ran.stderr


def printed(source: str, capsys: pytest.CaptureFixture[str], file: str = "old.py") -> str:
    """What a Python 2 source prints."""
    translation = translate(textwrap.dedent(source).encode(), file)
    assert translation.python2
    exec(translation.code, {**namespace(translation), "__name__": "__main__"})
    return capsys.readouterr().out


SAME = {
    "print": ('print "a", 1\nprint\nprint (1, 2)\nprint("x")', "a 1\n\n(1, 2)\nx\n"),
    "print without newline": ('print "a",\nprint "b"\nprint "c\\n",\nprint "d",\nprint', "a b\nc\nd\n"),
    "print to a file": ("import sys\nprint >>sys.stdout, 1, 2\nprint >> sys.stdout", "1 2\n\n"),
    "print that parses": ('print (1), 2\nprint ("%d") % 3\nprint', "1 2\n3\n\n"),
    "print over lines": ('print "a", \\\n    "b", (1 +\n  2)  # c', "a b 3\n"),
    "print in a line": ("if 1: print 2; print 3\nelse: print 4", "2\n3\n"),
    "except": ("try: raise ValueError, 'v'\nexcept (ValueError, TypeError),e: print e", "v\n"),
    "raise a tuple": ("try: raise KeyError, ('a', 1)\nexcept KeyError, e: print e.args", "('a', 1)\n"),
    "raise with traceback": (
        "import sys\ntry:\n  try: 1 / 0\n  except ZeroDivisionError, e: raise ValueError, 'v', sys.exc_info()[2]\n"
        "except ValueError, e: print e, e.__traceback__.tb_next.tb_lineno",
        "v 3\n",
    ),
    "numbers": ("print 0777, 0, 00, 10L, 0xFFL, 0.5, 1e3, 09.5", "511 0 0 10 255 0.5 1000.0 9.5\n"),
    "operators": ("print 1 <> 2, `[1]` + `2`", "True [1]2\n"),
    "strings": (r"print 'C:\Users', ur'\d', u'\u0041', len('\N{x}'), '\x41'", "C:\\Users \\d A 5 A\n"),
    "strings that look like code": ("print 'print 1', \"\"\"\nprint `2`\n\"\"\"", "print 1 \nprint `2`\n\n"),
    "comments": ("# print `x`, <> \nprint 1 # `", "1\n"),
    "exec": ("d = {}\nexec 'x = 7 / 2; print x' in d\nexec 'x = 1' in d, d\nprint d['x']", "3\n1\n"),
    "eval": ("x = 7\nprint eval('x / 2'), eval('`x`', {'x': 8})", "3 8\n"),
    "division": ("print 7 / 2, -7 / 2, 7 / 2., 7 // 2\nx = 9\nx /= 2\nprint x, True / 2", "3 -4 3.5 3\n4 0\n"),
    "division of items": ("class A: v = 7\nA.v /= 2\nl = [9]\nl[0] /= 2\nprint A.v, l", "3 [4]\n"),
    "true division": ("from __future__ import division\nprint 7 / 2", "3.5\n"),
    "arrays": (
        "import numpy as np\na = np.arange(4); b = a; b /= 2\nf = np.arange(2.); g = f; g /= 2\n"
        "print a, f, np.arange(4) / 3, np.int64(7) / 2, np.float64(7) / 2",
        "[0 0 1 1] [0.  0.5] [0 0 0 1] 3 3.5\n",
    ),
    "dicts": (
        "d = {'a': 1}\nprint d.keys()[0], d.values(), d.items(), d.has_key('a'), d.has_key('b'), d.iteritems().next()",
        "a [1] [('a', 1)] True False ('a', 1)\n",
    ),
    "own methods": ("class A:\n  def has_key(self, k): return k * 2\n  def next(self): return 5\n"
                    "print A().has_key(4), A().next()", "8 5\n"),
    "iterators": (
        "class A:\n  n = 3\n  def __iter__(self): return self\n  def next(self):\n    self.n -= 1\n"
        "    if not self.n: raise StopIteration\n    return self.n\nprint list(A())",
        "[2, 1]\n",
    ),
    "truth": ("class A:\n  def __nonzero__(self): return False\nprint bool(A())", "False\n"),
    "lists": (
        "print map(lambda x: x * 2, range(3))[1:], map(None, [1, 2], [3]), filter(None, (0, 1)), zip('ab', 'cd')[0]",
        "[2, 4] [(1, 3), (2, None)] (1,) ('a', 'c')\n",
    ),
    "names": (
        "print isinstance(u'a', basestring), unicode('a'), long(3), unichr(65), xrange(3)[2], reduce(max, [1, 3]), "
        "cmp(2, 1), apply(max, (1, 2))",
        "True a 3 A 2 3 1 2\n",
    ),
    "round": ("print round(2.5), round(-0.5), round(0.125, 2), round(1234.5, -2), round(0.49999999999999994)",
              "3.0 -1.0 0.13 1200.0 0.0\n"),
    "sorting": (
        "print sorted([1, 3, 2], cmp=lambda a, b: b - a), sorted([1, 2], lambda a, b: b - a)",
        "[3, 2, 1] [2, 1]\n",
    ),
    "modules": (
        "import itertools, string, urllib, Queue, ConfigParser\nfrom itertools import izip\n"
        "from urlparse import urlparse\n"
        "print list(izip([1], [2])), list(itertools.imap(abs, [-1])), string.join(['a', 'b'], '-'), "
        "urllib.quote('a b'), urlparse('x://y').netloc, Queue.Queue().empty()",
        "[(1, 2)] [1] a-b a%20b y True\n",
    ),
    "memory files": (
        "from StringIO import StringIO\nimport cStringIO\ns = StringIO()\ns.write(b'\\x00b'); print len(s.getvalue())\n"
        "t = cStringIO.StringIO('x\\ny'); print [line for line in t], StringIO().read() == ''",
        "2\n['x\\n', 'y'] True\n",
    ),
    "bytes": ("s = str(b'a'); print s == b'a', str(bytearray(b'b')) == b'b', str(3) == '3'", "True True True\n"),
    "names of sys": ("import sys\nreload(sys)\nsys.setdefaultencoding('utf8')\nprint sys.maxint > 1", "True\n"),
    "tabs": ("if 1:\n\tprint 1\n        print 2", "1\n2\n"),
    "latin letters": ("# -*- coding: latin-1 -*-\nprint u'\\xe9'", "\xe9\n"),
    "pickles of Python 2": (
        # A dict with the str 'k' and an array, protocol 2, as cPickle wrote it: str is SHORT_BINSTRING.
        "import cPickle\nprint cPickle.loads(b'\\x80\\x02}q\\x01U\\x01kU\\x02\\xe9zs.')",
        "{'k': '\xe9z'}\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_python_2_means_what_it_meant(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Sources, and what Python 2.7 prints for them."""
    source, expected = SAME[what]
    assert printed(source, capsys) == expected


def test_files_without_b_are_bytes_where_they_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("caf\xe9\n", encoding="utf-8")
    (tmp_path / "bytes").write_bytes(b"\xff\xd8\x00")
    source = f"""
        print [line.strip() for line in open({str(tmp_path / "text")!r}, "rU")]
        print len(open({str(tmp_path / "bytes")!r}).read())
        f = open({str(tmp_path / "new")!r}, "w"); print >>f, "written"; f.close()
    """
    assert printed(source, capsys) == "['caf\xe9']\n3\n"
    assert (tmp_path / "new").read_text() == "written\n"


REFUSED = {
    "exec that binds names": ("exec code", "write exec(code, globals)"),
    "exec as a call that binds names": ("print 1\nexec('x = 1')", "write exec(code, globals)"),
    "except into a tuple": ("try: pass\nexcept E, (a, b): pass", "something else than a name"),
    "bytes in a string": (r"print 1; x = '\xff\xd8'", "write b''"),
    "octal bytes in a string": (r"print 1; x = '\377'", "write b''"),
    "escapes in a raw unicode string": (r"x = ur'\u0041'", "ur''"),
    "input": ("print input()", "evaluated what was typed"),
    "execfile": ("print 1\nexecfile('x')", "execfile"),
    "comparing": ("class A:\n  def __cmp__(self, o): print 1", "__cmp__"),
    "metaclass": ("class A:\n  __metaclass__ = type\nprint 1", "__metaclass__"),
    "slices": ("class A:\n  def __getslice__(self, a, b): print 1", "__getitem__"),
    "a module that is gone": ("import commands\nprint 1", "use subprocess"),
    "names from a module that is gone": ("from sets import Set\nprint 1", "use set"),
    "leaking names": ("i = 9\nx = [i for i in range(3)]\nprint i", "list comprehension of line 2"),
    "tuple parameters": ("def f(a, (b, c)): print a", "neither Python 3, nor Python 2"),
    "neither": ("def f(:\n  pass", "neither Python 3, nor Python 2"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_safe_is_refused(what: str) -> None:
    source, message = REFUSED[what]
    with pytest.raises(SourceError, match=r"old\.py:\d") as raised:
        translate(source.encode(), "old.py")
    assert message in str(raised.value)


def test_all_that_is_refused_is_told_with_its_line() -> None:
    source = (
        "print 1\nimport commands\ntry: pass\nexcept E, x[0]: pass\nx = '\\xff'\nif x: exec 'y = 1'\nprint input()\n"
    )
    with pytest.raises(SourceError) as raised:
        translate(source.encode(), "old.py")
    lines = [problem.location.line for problem in raised.value.problems if problem.location]
    assert lines == [4, 5]  # the text; the tree is looked at once the text is right
    source = "print 1\nimport commands\nexec('y = 1')\nprint input()\n"
    with pytest.raises(SourceError) as raised:
        translate(source.encode(), "old.py")
    assert [problem.location.line for problem in raised.value.problems if problem.location] == [2, 3, 4]


@pytest.mark.parametrize(
    "source",
    [
        "print('x', 1 / 2)\nf'{1}'",
        "try:\n    import cPickle as pickle\nexcept ImportError:\n    import pickle",
        "import sys\nif sys.version_info[0] == 2:\n    text = unicode\nelse:\n    text = str",
        "try:\n    xrange\nexcept NameError:\n    xrange = range\nfor i in xrange(3): pass",
        "def f(file, input): return file\nx = {}.keys()",
    ],
)
def test_python_3_is_left_alone(source: str) -> None:
    translation = translate(source.encode(), "new.py")
    assert (translation.python2, translation.notes) == (False, ())
    assert translation.code.co_code == compile(source, "new.py", "exec").co_code


@pytest.mark.parametrize(
    "source", ["import cPickle", "for i in xrange(3): pass", "from urlparse import urljoin", "reduce(max, [])", "print"]
)
def test_names_that_only_python_2_has_are_python_2(source: str) -> None:
    assert translate(source.encode(), "old.py").python2


@pytest.mark.parametrize("count", [1, 7, 40])
def test_lines_stay_where_they_are(count: int) -> None:
    source = 'print """a\nb""", \\\n  1\n' * count + "raise ValueError, 'here'\n"
    translation = translate(source.encode(), "old.py")
    with pytest.raises(ValueError, match="here") as raised:
        exec(translation.code, {**namespace(translation), "print": lambda *args: None})
    assert raised.traceback[-1].lineno + 1 == 3 * count + 1


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def test_a_script_finds_caffe_its_arguments_and_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "scripts" / "beside.py", "def half(x): return x / 2\n")
    write(tmp_path / "lib" / "added.py", "def shout(x): print x, '!'\n")
    script = write(
        tmp_path / "scripts" / "run.py",
        """
        import os, sys
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
        import caffe
        from caffe.proto import caffe_pb2
        import beside
        from added import shout
        print __name__, sys.argv[1:], caffe.TEST, len(caffe_pb2.NetParameter().layer), beside.half(5)
        shout(os.getcwd() in sys.path)
        import __main__
        print __main__.beside is beside
        sys.exit(7)
        """,
    )
    ran = started(script, "a", "--b", cwd=tmp_path)
    assert ran.stdout.splitlines() == ["__main__ ['a', '--b'] 1 0 2", "False !", "True"]
    assert ran.returncode == 7
    assert "beside.py: / on line 1" in ran.stderr
    # Compiled files would be taken for Python's own.
    assert not list(tmp_path.rglob("__pycache__"))


def test_python_3_scripts_divide_as_python_3_does(tmp_path: Path) -> None:
    write(tmp_path / "beside.py", "def half(x): return x / 2\n")
    ran = started(write(tmp_path / "run.py", "import beside, caffe\nprint(beside.half(5), caffe.io.np.pi > 3)\n"))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "2.5 True\n", "")


def test_an_error_of_the_script_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    script = write(tmp_path / "run.py", "def f():\n    print 'x'\n    raise KeyError, 'k'\nf()\n")
    ran = started(script)
    assert ran.returncode == 1
    assert ran.stdout == "x\n"
    assert f'File "{script}", line 3, in f\n    raise KeyError' in ran.stderr
    assert "__main__.py" not in ran.stderr


def test_an_error_raised_on_purpose_is_a_line_with_its_place(tmp_path: Path) -> None:
    script = write(tmp_path / "run.py", "import caffe\n\ncaffe.Net('absent.prototxt', caffe.TEST)\n")
    ran = started(script)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {script}:3: ")
    assert "absent.prototxt" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_bytes_read_as_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    script = write(tmp_path / "run.py", f"print open({str(tmp_path / 'latin')!r}).read()\n")
    ran = started(script)
    assert ran.returncode == 1
    assert "mode 'rb'" in ran.stderr


def test_what_cannot_be_run(tmp_path: Path) -> None:
    ran = started(tmp_path / "absent.py")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"error: {tmp_path / 'absent.py'}: No such file or directory\n"
    script = write(tmp_path / "run.py", "print 'before'\nimport commands\nprint input()\n")
    ran = started(script)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.splitlines() == [
        "error: 2 problems:",
        f"  {script}:2: module commands: use subprocess",
        f"  {script}:3: input: input() evaluated what was typed: use raw_input()",
    ]


def test_a_module_that_cannot_be_translated_stops_the_script(tmp_path: Path) -> None:
    module = write(tmp_path / "beside.py", "print input()\n")
    ran = started(write(tmp_path / "run.py", "print 1\nimport beside\n"))
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {module}:1: input")


def test_errors_are_of_the_package() -> None:
    assert issubclass(SourceError, CaffePortError)
    with pytest.raises(CaffePortError, match="save it as UTF-8"):
        translate(b"# -*- coding: nonsense -*-\n", "old.py")
    with pytest.raises(CaffePortError, match="save it as UTF-8"):
        translate(b"x = '\xe9'\n", "old.py")


def test_softspace_belongs_to_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    stream: Any = io.StringIO()
    translation = translate(b'print >>f, "a",\nprint "b"\nprint >>f, "c"\n', "old.py")
    exec(translation.code, {**namespace(translation), "f": stream})
    assert (stream.getvalue(), capsys.readouterr().out) == ("a c\n", "b\n")
