"""The nn.Modules that PyTorch does not have as Caffe computes them. Importing these imports torch."""
