"""What real Caffe computed: the recordings that ship with the project (format: docs/recordings.md)."""
