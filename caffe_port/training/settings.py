"""A solver prototxt, read and checked: what is to be trained, on what, and how.

Every field that is set is used, named in a note because it changes nothing here, or an error.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffe_port.errors import CaffePortError, GraphError, Problems, PrototxtError, UnsupportedParameter
from caffe_port.proto import dialects, text, upgrade
from caffe_port.proto.source_map import SourceMap
from caffe_port.training.errors import TrainingError
from caffe_port.training.schedules import POLICIES, Policy

__all__ = ["SOLVER_TYPES", "NetFile", "Settings", "TestNet", "read_settings"]

SOLVER_TYPES: dict[str, tuple[str, ...]] = {
    "SGD": ("momentum",),
    "Nesterov": ("momentum",),
    "AdaGrad": ("delta",),
    "RMSProp": ("rms_decay", "delta"),
    "AdaDelta": ("momentum", "delta"),
    "Adam": ("momentum", "momentum2", "delta"),
}
"""The types, and the solver's fields that each looks at."""

_HYPERPARAMETERS = ("momentum", "momentum2", "delta", "rms_decay")
_OF_POLICIES = ("gamma", "power", "stepsize", "stepvalue")
_INERT = {
    "debug_info": "nothing is printed beside the log",
    "layer_wise_reduce": "it orders the work of several GPUs in one Caffe process",
    "device_id": "it counts on a GPU alone",
}
"""Fields that change no number, and why they may be passed over."""
_USED = {
    "net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param", "train_state", "test_state",
    "test_iter", "test_interval", "test_compute_loss", "test_initialization", "base_lr", "lr_policy", "display",
    "average_loss", "max_iter", "iter_size", "weight_decay", "regularization_type", "clip_gradients", "snapshot",
    "snapshot_prefix", "snapshot_format", "snapshot_after_train", "random_seed", "type", "weights", "solver_mode",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NetFile:
    """A net of a solver: where its definition is, and the state that its rules are held against."""

    name: str
    """What the solver calls it: `net`, `test_net[1]`."""
    path: Path | None
    phase: str
    level: int = 0
    stages: tuple[str, ...] = ()
    message: Any = field(default=None, repr=False, compare=False)
    """The definition, where it stands in the solver itself."""

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """The definition as a file; one that stands in the solver is one for as long as the block lasts."""
        if self.path is not None:
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="caffe_port_") as folder:
            path = Path(folder, f"{self.name}.prototxt")
            text.write(path, self.message)
            yield path


@dataclass(frozen=True, slots=True)
class TestNet:
    """A net to test with, and how many batches a test has."""

    __test__ = False
    """To pytest: this is no test."""
    net: NetFile
    iterations: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What a solver prototxt says; docs/training.md has the fields. `notes`: what of it changes nothing here, and why.

    root: what its relative paths are relative to. hyperparameters: of the optimizer, by their names in the solver.
    """

    path: Path
    root: Path
    type: str
    policy: Policy
    train: NetFile
    tests: tuple[TestNet, ...]
    max_iter: int
    hyperparameters: dict[str, float]
    weight_decay: float = 0.0
    regularization: str = "L2"
    clip_gradients: float = -1.0
    iter_size: int = 1
    display: int = 0
    average_loss: int = 1
    test_interval: int = 0
    test_initialization: bool = True
    test_compute_loss: bool = False
    snapshot: int = 0
    snapshot_prefix: str = ""
    """As it stands in a solverstate: relative to `root`, or absolute."""
    snapshot_hdf5: bool = False
    snapshot_after_train: bool = True
    random_seed: int | None = None
    weights: tuple[Path, ...] = ()
    gpu: int | None = None
    """The GPU it asks for; None for the CPU."""
    notes: tuple[str, ...] = ()


def read_settings(
    path: str | os.PathLike[str], root: str | os.PathLike[str] = ".", *, kind: str | None = None
) -> Settings:
    """Reads a solver prototxt, old ones (`solver_type`) too.

    root: what its relative paths are relative to; Caffe takes the working directory. kind: instead of its `type`.
    Raises: PrototxtError; and all at once: UnsupportedParameter for fields that nothing here looks at, TrainingError
    for what Caffe refuses, or cannot work.
    """
    message, where = text.read(path, "SolverParameter")
    upgraded: Any = upgrade.upgrade_solver(message, where)
    if kind is not None:
        upgraded.type = kind
    return _Reader(Path(path), Path(root), upgraded, where).settings()


class _Reader:
    def __init__(self, path: Path, root: Path, message: Any, where: SourceMap) -> None:
        self.path, self.root, self.message, self.where = path, root, message, where
        self.problems = Problems()
        self.notes: list[str] = []

    def wrong(self, name: str, text: str, hint: str = "", kind: type[CaffePortError] = TrainingError) -> None:
        self.problems.add(kind, text, location=self.where.location((name,)), hint=hint)

    def settings(self) -> Settings:
        message = self.message
        self.check_fields()
        train, tests = self.train_net(), self.test_nets()
        policy = self.policy()
        for name, least in (("iter_size", 1), ("average_loss", 1), ("max_iter", 0), ("display", 0), ("snapshot", 0)):
            if getattr(message, name) < least:
                self.wrong(name, f"{name} must be at least {least}, it is {getattr(message, name)}")
        for name in ("base_lr", "lr_policy", "max_iter"):
            if not message.HasField(name):
                self.wrong(name, f"{name} is not set")
        if message.regularization_type not in ("L1", "L2"):
            self.wrong("regularization_type", f"unknown regularization_type {message.regularization_type!r}")
        if tests and message.test_interval <= 0:
            self.wrong("test_interval", "there are test nets, and test_interval is not set")
        self.problems.raise_if_any()
        assert train is not None and policy is not None
        return Settings(
            path=self.path,
            root=self.root,
            type=message.type,
            policy=policy,
            train=train,
            tests=tests,
            max_iter=message.max_iter,
            hyperparameters={name: getattr(message, name) for name in SOLVER_TYPES[message.type]},
            weight_decay=message.weight_decay,
            regularization=message.regularization_type,
            clip_gradients=message.clip_gradients,
            iter_size=message.iter_size,
            display=message.display,
            average_loss=message.average_loss,
            test_interval=message.test_interval,
            test_initialization=message.test_initialization,
            test_compute_loss=message.test_compute_loss,
            snapshot=message.snapshot,
            snapshot_prefix=self.snapshot_prefix(),
            snapshot_hdf5=message.snapshot_format == 0,
            snapshot_after_train=message.snapshot_after_train,
            random_seed=message.random_seed if message.random_seed >= 0 else None,
            weights=tuple(
                self.root / name.strip() for entry in message.weights for name in entry.split(",") if name.strip()
            ),
            gpu=message.device_id if message.solver_mode == 1 else None,
            notes=tuple(self.notes),
        )

    def check_fields(self) -> None:
        message, kind, policy = self.message, self.message.type, self.message.lr_policy
        if kind not in SOLVER_TYPES:
            self.wrong("type", f"unknown solver type {kind!r}; known: {', '.join(SOLVER_TYPES)}")
        forks = dialects.fork_paths(message)
        used = {*SOLVER_TYPES.get(kind, _HYPERPARAMETERS), *POLICIES.get(policy, _OF_POLICIES)}
        for spec, _ in message.ListFields():
            name = spec.name
            if name in _USED or name in used:
                continue
            if name in _INERT:
                if name != "device_id" or message.solver_mode != 1:
                    self.notes.append(f"{name} is set, and changes nothing: {_INERT[name]}")
            elif name == "momentum" and message.momentum:
                self.wrong(name, f"momentum cannot be used with {kind}", "remove it")
            elif name in _HYPERPARAMETERS:
                self.notes.append(f"{name} is set, and {kind} does not look at it")
            elif name in _OF_POLICIES:
                self.notes.append(f"{name} is set, and lr_policy {policy} does not look at it")
            else:
                whose = f", which is of {forks[name]}," if name in forks else ""
                hint = "remove it; only Caffe saves the last updates" if name == "snapshot_diff" else "remove it"
                self.wrong(name, f"{name} is set{whose} and nothing here looks at it", hint, UnsupportedParameter)
        if not message.weight_decay and message.HasField("regularization_type"):
            self.notes.append("regularization_type is set, and without weight_decay it changes nothing")
        if kind == "RMSProp" and not 0 <= message.rms_decay < 1:
            self.wrong("rms_decay", f"rms_decay must be at least 0 and less than 1, it is {message.rms_decay:g}")
        if not message.test_iter and not message.test_net and not message.test_net_param:
            for name in ("test_interval", "test_compute_loss", "test_initialization"):
                if message.HasField(name):
                    self.notes.append(f"{name} is set, and there is no test_iter, so nothing is tested")

    def policy(self) -> Policy | None:
        message = self.message
        if not message.HasField("lr_policy"):
            return None
        try:
            return Policy(
                name=message.lr_policy,
                base_lr=message.base_lr,
                gamma=message.gamma,
                power=message.power,
                stepsize=message.stepsize,
                stepvalue=tuple(message.stepvalue),
                max_iter=message.max_iter,
            )
        except GraphError as error:
            self.wrong("lr_policy", str(error))
            return None

    def net_file(self, name: str, source: str | None, message: Any, phase: str, state: Any) -> NetFile:
        path = None if source is None else self.root / source
        if path is not None and not path.is_file():
            beside = self.path.parent / path.name
            hint = f"{beside} is there: give --root {self.path.parent}" if beside.is_file() else ""
            self.wrong(name.partition("[")[0], f"{name}: {path}: no such file", hint, PrototxtError)
        if state is not None and state.HasField("phase"):
            phase = "TEST" if state.phase else "TRAIN"
        level, stages = (0, ()) if state is None else (state.level, tuple(state.stage))
        return NetFile(name, path, phase, level, stages, message)

    def train_net(self) -> NetFile | None:
        message = self.message
        given = [name for name in ("net", "net_param", "train_net", "train_net_param") if message.HasField(name)]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            self.wrong("net", f"one of net, net_param, train_net and train_net_param must be set; {found} is")
            return None
        (name,) = given
        value = getattr(message, name)
        state = message.train_state if message.HasField("train_state") else None
        inline = name.endswith("_param")
        return self.net_file(name, None if inline else value, value if inline else None, "TRAIN", state)

    def test_nets(self) -> tuple[TestNet, ...]:
        """In Caffe's order: test_net_param, test_net, then net_param or net once for each test_iter that is left."""
        message = self.message
        sources: list[tuple[str, str | None, Any]] = [
            *((f"test_net_param[{i}]", None, net) for i, net in enumerate(message.test_net_param)),
            *((f"test_net[{i}]", name, None) for i, name in enumerate(message.test_net)),
        ]
        left = len(message.test_iter) - len(sources)
        has_net = message.HasField("net") or message.HasField("net_param")
        if left < 0 or (left and not has_net):
            self.wrong("test_iter", f"{len(message.test_iter)} test_iter for {len(sources)} test nets", "give one each")
            return ()
        inline = message.HasField("net_param")
        generic = ("net_param", None, message.net_param) if inline else ("net", message.net, None)
        sources += [generic] * left
        states = list(message.test_state)
        if states and len(states) != len(sources):
            self.wrong("test_state", f"{len(states)} test_state for {len(sources)} test nets", "give one each, or none")
            return ()
        nets = []
        for i, ((name, source, inner), iterations) in enumerate(zip(sources, message.test_iter, strict=True)):
            if iterations <= 0:
                self.wrong("test_iter", f"test_iter must be positive, it is {iterations}")
            net = self.net_file(name, source, inner, "TEST", states[i] if states else None)
            nets.append(TestNet(net, iterations))
        return tuple(nets)

    def snapshot_prefix(self) -> str:
        """Without one it is the solver's path without its ending; of a folder, the solver's name in it."""
        given = str(self.message.snapshot_prefix)
        if given:
            return os.fspath(Path(given, self.path.stem)) if (self.root / given).is_dir() else given
        own = self.path.with_suffix("")
        return os.fspath(own if self.root == Path() else own.absolute())
