"""From a Net to other frameworks. Installed as `caffe_port.converters`; the bare name belongs to another project."""

if __name__ != "caffe_port.converters":
    raise ImportError(f"import this package as 'caffe_port.converters', not as {__name__!r}")
