"""Which entry of a recording is which top of a net."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from caffe_port.errors import RecordingError
from caffe_port.net import Layer, Net
from caffe_port.recording import RecordedLayer, Recording

__all__ = ["match_recorded"]


def match_recorded(
    net: Net, recording: Recording
) -> tuple[dict[tuple[int, int], RecordedLayer], tuple[str, ...], tuple[str, ...]]:
    """The recorded entry of each top, by layer index and top; what is recorded and not in the net; and the reverse.

    By names, types and order, not by Caffe's indices: those of old Caffes do not count inputs. A layer that is known
    here by its Python class may be recorded under that name or as `Python`, the type it has in Caffe.
    Raises: RecordingError where the layers were recorded in another order than the net has them.
    """
    entries: dict[tuple[str, str, str, int], RecordedLayer] = {}
    times: Counter[tuple[str, str, str]] = Counter()
    for entry in recording.layers:
        name = (entry.layer, entry.type, entry.top)
        key = (*name, times[name])
        entries[key] = entry
        times[name] += 1
    times.clear()
    matched: dict[tuple[int, int], RecordedLayer] = {}
    extra: list[str] = []
    order: list[int] = []
    positions = {id(entry): i for i, entry in enumerate(recording.layers)}
    for layer in net.layers:
        if layer.definition.is_input or layer.type == "Split":
            continue
        for j, top in enumerate(layer.tops):
            found = None
            for kind in _recorded_types(layer):
                name = (layer.name, kind, top.name)
                found = found or entries.pop((*name, times[name]), None)
                times[name] += 1
            if found is None:
                extra.append(f"{layer.name} ({layer.type}):{top.name}")
                continue
            final = recording.finals.get(top.name)
            if final is not None and net.blobs[top.name] is top and final.shape == found.shape:
                # Outputs are recorded whole, not only as a sample.
                matched[layer.index, j] = replace(found, sample=final.reshape(-1))
            else:
                matched[layer.index, j] = found
            order.append(positions[id(found)])
    missing = [f"{entry.layer} ({entry.type}):{entry.top}" for entry in entries.values()]
    if order != sorted(order):
        raise RecordingError(f"{recording.source}: the layers were recorded in another order than the net has them")
    return matched, tuple(missing), tuple(extra)


def _recorded_types(layer: Layer) -> tuple[str, ...]:
    """The types a recording may call a layer: its own, and the prototxt's where that is another."""
    written = layer.type if layer.message is None else layer.message.type
    return (layer.type,) if written == layer.type else (layer.type, written)
