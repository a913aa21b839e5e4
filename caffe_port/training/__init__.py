"""Training as Caffe does it, on PyTorch: `caffe-port train`, and its parts, each of which can be used by itself.

- `settings`: a solver prototxt, read and checked
- `optimizers`: Caffe's six update rules, as torch.optim.Optimizer
- `schedules`: Caffe's seven rate policies, as functions and as a torch scheduler
- `trainable`: a net as a module with its loss, and its learned blobs in Caffe's order
- `data`: batches for a net's data layers, made in worker processes
- `snapshots`: .caffemodel and .solverstate, binary and HDF5
- `log`: what Caffe logs, in its form; reading that; the loss curve
- `solver`: the loop
- `distributed`: the same with several workers; `spark` starts them; `parquet` is data they share

Importing this package imports no torch; importing one of these does, but for `settings`, `schedules` and `log`.
"""
