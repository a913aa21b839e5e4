"""From labels and scores to a threshold that can be defended. `threshold` needs Python alone, `report` has it all.

The statistics are scikit-learn's and SciPy's (`pip install 'caffe_port[calibration]'`).
"""
