"""A module a reader.

Each has a docstring, `READS` (the modules of caffe_port whose reading it covers), `once(data: bytes) -> None`, and
where wanted `MAX_LENGTH`, the most bytes an input has. `once` gives the reader the bytes as its untrusted input and
returns where it reads them or raises a CaffePortError; whatever else comes out of it is a finding.
"""
