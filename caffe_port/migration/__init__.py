"""From scripts that load Caffe models with other libraries to scripts that load what caffe_port makes of the models."""
