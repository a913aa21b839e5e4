"""Small nets and solvers, of all generations and of forks, that the corpora are made of."""

from __future__ import annotations

__all__ = ["CONV_NET", "FORK_NET", "SOLVERS", "TEXTS", "V0_NET", "V1_NET"]

CONV_NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 7 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool1" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""

V1_NET = """name: "one"
input: "data" input_dim: 1 input_dim: 1 input_dim: 6 input_dim: 6
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
         convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "gaussian" std: 0.01 } } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1" pooling_param { pool: AVE global_pooling: true } }
layers { name: "loss" type: SOFTMAX bottom: "pool1" top: "prob" include { phase: TEST not_stage: "x" } }
"""

V0_NET = """name: "zero"
input: "data" input_dim: 1 input_dim: 1 input_dim: 6 input_dim: 6
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 2 kernelsize: 3 stride: 1 biasterm: true
                 blobs_lr: 1. blobs_lr: 2. weight_decay: 1. } bottom: "pad1" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: MAX kernelsize: 2 stride: 2 } bottom: "conv1" top: "pool1" }
"""

FORK_NET = """name: "fork"
input: "data" input_shape { dim: 1 dim: 4 dim: 6 dim: 6 }
layer { name: "dw" type: "DepthwiseConvolution" bottom: "data" top: "dw"
        convolution_param { num_output: 4 group: 4 kernel_size: 3 engine: CAFFE } }
layer { name: "relu6" type: "ReLU6" bottom: "dw" top: "dw" }
layer { name: "interp" type: "Interp" bottom: "dw" top: "interp" interp_param { zoom_factor: 2 } }
layer { name: "norm" type: "Normalize" bottom: "dw" top: "norm"
        norm_param { across_spatial: false scale_filler { type: "constant" value: 20 } channel_shared: false } }
layer { name: "perm" type: "Permute" bottom: "norm" top: "perm"
        permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "prior" type: "PriorBox" bottom: "dw" bottom: "data" top: "prior"
        prior_box_param { min_size: 2 max_size: 4 aspect_ratio: 2 flip: true clip: false variance: 0.1 } }
"""

_SHARED = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" lr_mult: 1 } param { name: "b" }
        inner_product_param { num_output: 3 } }
layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" param { name: "w" share_mode: PERMISSIVE }
        param { name: "b" } inner_product_param { num_output: 3 axis: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum"
        eltwise_param { operation: SUM coeff: 1 coeff: -1 } }
layer { name: "slice" type: "Slice" bottom: "sum" top: "s1" top: "s2" slice_param { axis: 1 slice_point: 1 } }
layer { name: "re" type: "Reshape" bottom: "data" top: "re" reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "cat" type: "Concat" bottom: "s1" bottom: "s2" top: "cat" concat_param { axis: -1 } }
"""

_TRAINED = """name: 'train' state { level: 1 stage: "x" }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        transform_param { crop_size: 4 mirror: true mean_value: 104 scale: .5 }
        data_param { source: "db" batch_size: 2 } }
layer { name: "data" type: "Input" top: "data" top: "label" exclude { phase: TRAIN stage: "deploy" }
        input_param { shape: { dim: 2 dim: 3 dim: 4 dim: 4 } shape < dim: [2] > } }
layer { name: "up" type: "Deconvolution" bottom: "data" top: "up"
        convolution_param { num_output: 3 kernel_h: 4 kernel_w: 2 stride: 2 dilation: 1 group: 3 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "up" top: "up" batch_norm_param { use_global_stats: true eps: 1e-3 } }
layer { name: "scale" type: "Scale" bottom: "up" top: "up" scale_param { bias_term: true } }
layer { name: "lrn" type: "LRN" bottom: "up" top: "lrn" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layer { name: "crop" type: "Crop" bottom: "lrn" bottom: "data" top: "crop" crop_param { axis: 2 offset: 1 } }
layer { name: "drop" type: "Dropout" bottom: "crop" top: "crop" dropout_param { dropout_ratio: 0.5 } }
layer { name: "ip" type: "InnerProduct" bottom: "crop" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 1
        loss_param { ignore_label: 255 normalization: VALID } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" accuracy_param { top_k: 1 } }
"""

_WORDS = r"""# every kind of token
name: "a\n\x41\101\u00e9" 'b' # two strings are one
force_backward: true; debug_info: f
layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 1 dim: 0x10 dim: 010 } } }
layer { name: "pw" type: "Power" bottom: "p" top: "pw" power_param { power: -1.5e-3f shift: inf scale: nan } },
layer: < name: "r" type: "Reduction" bottom: "pw" top: "r" reduction_param < operation: SUMSQ axis: -1 coeff: .5 > >
"""

TEXTS = {
    "conv": CONV_NET,
    "v1": V1_NET,
    "v0": V0_NET,
    "fork": FORK_NET,
    "shared": _SHARED,
    "trained": _TRAINED,
    "words": _WORDS,
}

SOLVERS = {
    "sgd": 'net: "train.prototxt" base_lr: 0.01 lr_policy: "step" gamma: 0.1 stepsize: 100 momentum: 0.9\n'
    'test_iter: 1 test_interval: 10 max_iter: 20 snapshot: 5 snapshot_prefix: "out" snapshot_format: HDF5\n'
    "solver_mode: CPU random_seed: 1 iter_size: 2 clip_gradients: 35 regularization_type: 'L1'\n",
    "old": 'train_net: "a" test_net: "b" test_net: "c" test_iter: 1 test_iter: 2 test_interval: 1\n'
    "solver_type: ADAM base_lr: 1e-3 momentum2: 0.999 delta: 1e-8 lr_policy: 'multistep' stepvalue: 1 stepvalue: 2\n",
    "inline": 'base_lr: 1 train_state { stage: "x" } test_state < level: 2 > net_param {\n' + CONV_NET + "}\n",
}
