"""Solver prototxts: what is read, what is refused, what is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_port.errors import CaffePortError
from caffe_port.training.settings import Settings, read_settings

BASE = 'base_lr: 0.1\nlr_policy: "fixed"\nmax_iter: 5\n'


def settings(folder: Path, content: str, base: str = BASE) -> Settings:
    for name in ("net.prototxt", "a.prototxt", "b.prototxt"):
        (folder / name).write_text("")
    (folder / "solver.prototxt").write_text(base + content)
    return read_settings(folder / "solver.prototxt", folder)


def test_defaults(tmp_path: Path) -> None:
    made = settings(tmp_path, 'net: "net.prototxt"')
    assert (made.type, made.train.phase, made.train.path, made.tests) == ("SGD", "TRAIN", tmp_path / "net.prototxt", ())
    assert (made.iter_size, made.average_loss, made.clip_gradients, made.gpu) == (1, 1, -1, 0)
    assert (
        made.random_seed is None and not made.snapshot_hdf5 and made.snapshot_after_train and made.test_initialization
    )
    assert made.snapshot_prefix == str(tmp_path / "solver") and made.hyperparameters == {"momentum": 0}
    assert made.notes == ()


def test_the_old_enum(tmp_path: Path) -> None:
    made = settings(tmp_path, 'net: "net.prototxt" solver_type: ADAGRAD delta: 0.5')
    assert (made.type, made.hyperparameters) == ("AdaGrad", {"delta": 0.5})


def test_nets_and_states(tmp_path: Path) -> None:
    made = settings(
        tmp_path,
        'net: "net.prototxt" test_net: "a.prototxt" test_net_param { name: "inner" } test_interval: 2 '
        'test_iter: 1 test_iter: 2 test_iter: 3 train_state { level: 2 stage: "s" } '
        'test_state { stage: "x" } test_state { } test_state { level: 1 stage: "y" stage: "z" }',
    )
    assert (made.train.level, made.train.stages) == (2, ("s",))
    assert [(test.net.name, test.iterations, test.net.level, test.net.stages) for test in made.tests] == [
        ("test_net_param[0]", 1, 0, ("x",)),
        ("test_net[0]", 2, 0, ()),
        ("net", 3, 1, ("y", "z")),
    ]
    with made.tests[0].net.opened() as path:
        assert 'name: "inner"' in path.read_text()
    assert not path.exists()


def test_the_prefix(tmp_path: Path) -> None:
    assert settings(tmp_path, 'net: "net.prototxt" snapshot_prefix: "a/b"').snapshot_prefix == "a/b"
    (tmp_path / "folder").mkdir()
    assert settings(tmp_path, 'net: "net.prototxt" snapshot_prefix: "folder/"').snapshot_prefix == "folder/solver"


def test_what_changes_nothing_is_told(tmp_path: Path) -> None:
    notes = settings(
        tmp_path,
        'net: "net.prototxt" momentum2: 0.9 gamma: 0.1 debug_info: true regularization_type: "L1" test_interval: 3 '
        "solver_mode: CPU device_id: 1",
    ).notes
    told = "\n".join(notes)
    assert len(notes) == 6
    for expected in (
        "momentum2 is set, and SGD does not look at it",
        "gamma is set, and lr_policy fixed does not look at it",
        "debug_info is set, and changes nothing",
        "regularization_type is set, and without weight_decay it changes nothing",
        "test_interval is set, and there is no test_iter",
        "device_id is set, and changes nothing",
    ):
        assert expected in told


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ("", "one of net, net_param, train_net and train_net_param must be set; none is"),
        ('net: "a.prototxt" train_net: "b.prototxt"', "net, train_net is"),
        ('net: "none.prototxt"', r"net: .*none\.prototxt: no such file"),
        ('net: "net.prototxt" type: "LARS"', "unknown solver type 'LARS'; known: SGD, Nesterov"),
        ('net: "net.prototxt" type: "AdaGrad" momentum: 0.9', "momentum cannot be used with AdaGrad"),
        ('net: "net.prototxt" type: "RMSProp" momentum: 0.9', "momentum cannot be used with RMSProp"),
        ('net: "net.prototxt" type: "RMSProp" rms_decay: 1', "rms_decay must be at least 0 and less than 1, it is 1"),
        ('net: "net.prototxt" regularization_type: "L3" weight_decay: 1', "unknown regularization_type 'L3'"),
        ('net: "net.prototxt" snapshot_diff: true', "snapshot_diff is set and nothing here looks at it"),
        ('net: "net.prototxt" test_iter: 1', "there are test nets, and test_interval is not set"),
        ('net: "net.prototxt" test_iter: 0 test_interval: 1', "test_iter must be positive, it is 0"),
        ('train_net: "a.prototxt" test_iter: 1 test_interval: 1', "1 test_iter for 0 test nets"),
        ('net: "a.prototxt" test_net: "b.prototxt" test_interval: 1', "0 test_iter for 1 test nets"),
        ('net: "a.prototxt" test_iter: 1 test_interval: 1 test_state {} test_state {}', "2 test_state for 1 test nets"),
        ('net: "net.prototxt" iter_size: 0', "iter_size must be at least 1, it is 0"),
        ('net: "net.prototxt" type: "SGD" solver_type: SGD', "both `type` and the old `solver_type`"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: str, want: str) -> None:
    with pytest.raises(CaffePortError, match=want) as caught:
        settings(tmp_path, content)
    assert "solver.prototxt" in str(caught.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(CaffePortError) as caught:
        settings(tmp_path, 'type: "LARS" snapshot_diff: true', base="")
    told = str(caught.value)
    for name in (
        "base_lr is not set",
        "lr_policy is not set",
        "max_iter is not set",
        "LARS",
        "snapshot_diff",
        "none is",
    ):
        assert name in told


def test_where_the_net_may_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text("")
    (tmp_path / "solver.prototxt").write_text(BASE + 'net: "net.prototxt"')
    with pytest.raises(CaffePortError, match=r"is there: give --root"):
        read_settings(tmp_path / "solver.prototxt", tmp_path / "elsewhere")
