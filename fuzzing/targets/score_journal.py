"""The journal that an interrupted scoring run left: continued, and made into its file."""

from __future__ import annotations

from caffe_port.scoring.columns import Columns
from caffe_port.scoring.sinks import FileSink
from fuzzing.inputs import as_file, folder, refused

READS = ("caffe_port.scoring.journal", "caffe_port.scoring.sinks")

COLUMNS = Columns("model", ("no", "yes"), 1)


def once(data: bytes) -> None:
    output = folder() / "scores.csv"
    as_file(data, FileSink.journal_of(output).name)
    with refused, FileSink(output, "csv", COLUMNS, rank=True, resume=True, retry_errors=True) as sink:
        sink.wanted("a.jpg")
        sink.finish()
