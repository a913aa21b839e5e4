"""What each worker of test_distributed.py does: the cases of a folder, one after the other, in one group.

    torchrun --nproc-per-node 2 workers.py FOLDER

A case is a folder with a solver.prototxt; `start.solverstate` beside it is resumed from. Each worker leaves the learned
blobs as `worker<n>.npz`, or what went wrong as `worker<n>.txt`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from caffe_port.errors import CaffePortError
from caffe_port.training.distributed import DistributedSolver, Group, joined
from caffe_port.training.settings import read_settings


def train(case: Path, group: Group) -> None:
    start = case / "start.solverstate"
    with group.agreeing():
        settings = read_settings(case / "solver.prototxt", case)
        solver = DistributedSolver(settings, group, workers=0, snapshot=start if start.exists() else None)
        outcome = solver.solve()
    blobs = {blob.weight.label: blob.tensor.detach().numpy() for blob in solver.train.blobs}
    np.savez(case / f"worker{group.rank}.npz", loss=outcome.loss, **blobs)


def main() -> None:
    torch.set_num_threads(1)
    with joined(timeout=60) as group:
        for case in sorted(path.parent for path in Path(sys.argv[1]).glob("*/solver.prototxt")):
            try:
                train(case, group)
            except CaffePortError as error:
                (case / f"worker{group.rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main()
