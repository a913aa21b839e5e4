"""The message types that record.py reads."""

from caffe_port.proto import schema

NetParameter = schema.message_class("NetParameter")
BlobProto = schema.message_class("BlobProto")
