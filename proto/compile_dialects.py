"""Makes dialects.json anew: `python -m caffe_port.proto.compile_dialects FACTS.json` (for developers).

FACTS.json lists, for upstream and for each fork, the names, numbers, types and defaults in its caffe.proto. Of these
this keeps what the forks have beyond upstream, merged into one overlay: text has no field numbers, so one schema can
read all forks. Numbers are kept as facts about binary files alone.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["main", "make_overlay"]

DATA = Path(__file__).with_name("dialects.json")

Facts = dict[str, Any]
_Fields = dict[str, Facts]

_WHOLE = ("int32", "uint32", "int64", "uint64")

# Tools that read the models of many forks: their schemas are collections, so they tell least about where a net is from.
_TOOLS = ("mini-caffe", "ncnn merged", "MNN merged", "TensorRT trtcaffe", "X2Paddle", "Tengine", "mace")


def _fork_messages(upstream: Facts, diff: Facts) -> dict[str, _Fields]:
    """All messages of a fork, by name, as its difference from upstream has them."""
    gone = set(diff.get("messages_missing", ()))
    whole = copy.deepcopy(upstream["messages"])
    messages = {name: {f["name"]: f for f in one["fields"]} for name, one in whole.items() if name not in gone}
    for name, missing in diff.get("fields_missing", {}).items():
        for entry in missing:
            messages[name].pop(entry.partition("=")[0], None)
    changed: list[tuple[str, Facts]] = []
    for name, changes in diff.get("fields_changed", {}).items():
        for change in changes:
            field = next(f for f in upstream["messages"][name]["fields"] if f["number"] == change["number"])
            messages[name].pop(field["name"], None)
            changed.append((name, {**field, **{k: new for k, (_, new) in change["diff_upstream_vs_fork"].items()}}))
    for name, field in changed:
        messages[name][field["name"]] = field
    for part in ("fields_added", "messages_only"):
        for name, fields in diff.get(part, {}).items():
            messages.setdefault(name, {}).update({f["name"]: f for f in fields})
    return messages


def _fork_enums(upstream: Facts, diff: Facts) -> dict[str, list[str]]:
    """The value names of a fork's enums that upstream does not have."""
    enums = {name: [value["name"] for value in values] for name, values in diff.get("enums_only", {}).items()}
    for name, values in diff.get("enum_values_added", {}).items():
        enums.setdefault(name, []).extend(value["name"] for value in values)
    for name, values in diff.get("enum_values_changed", {}).items():
        enums.setdefault(name, []).extend(value["fork"] for value in values)
    return enums


def _as_v1(messages: dict[str, _Fields], enums: dict[str, list[str]]) -> None:
    """Renames LayerParameter in a fork of before V2: it is what upstream keeps as V1LayerParameter."""
    if messages["NetParameter"]["layers"]["type_name"] != "LayerParameter":
        return
    messages["V1LayerParameter"] = messages.pop("LayerParameter")
    enums["V1LayerParameter.LayerType"] = enums.pop("LayerParameter.LayerType", [])
    for fields in messages.values():
        for field in fields.values():
            for old in ("LayerParameter", "LayerParameter.LayerType"):
                if field.get("type_name") == old:
                    field["type_name"] = f"V1{old}"


def _merged(where: str, kinds: list[Facts], messages: dict[str, set[str]], conflicts: list[str]) -> list[Any]:
    """[label, type, default] that reads what any fork writes into the field."""
    labels = {field["label"] for field in kinds}
    types = {field.get("type_name") or field["type"] for field in kinds}
    # What is no default but protobuf's own, zero, need not be said. An enum's is its first value, wherever that stands.
    told = [None if field["type"] == "message" else field.get("default") or None for field in kinds]
    defaults = {json.dumps(default) for default in told}
    label = "repeated" if "repeated" in labels else "optional"
    chosen = kinds[0].get("type_name") or kinds[0]["type"]
    if len(labels) > 1:
        conflicts.append(f"{where}: {' and '.join(sorted(labels))}; read as repeated")
    if len(types) > 1:
        if types <= {*_WHOLE, "float"}:
            chosen = "float" if "float" in types else "int64"
        else:
            # Of several messages the one that has all fields of the others.
            everything = set().union(*(messages[name] for name in types))
            chosen = next(name for name in sorted(types) if messages[name] >= everything)
        conflicts.append(f"{where}: {', '.join(sorted(types))}; read as {chosen}")
    if len(defaults) > 1:
        conflicts.append(f"{where}: defaults {', '.join(sorted(defaults))}; none is taken")
    default = json.loads(defaults.pop()) if len(defaults) == 1 and label == "optional" else None
    return [label, chosen, default]


def make_overlay(facts: Facts) -> Facts:
    """The overlay: dialects; enums and messages with what they have beyond upstream; numbers; conflicts."""
    upstream = facts["upstream"]
    known = {name: {f["name"]: f for f in one["fields"]} for name, one in upstream["messages"].items()}
    known_values = {name: {v["name"] for v in one["values"]} for name, one in upstream["enums"].items()}
    names: dict[str, list[str]] = {}
    for name, fork in facts["forks"].items():
        names.setdefault(fork["blob_sha"], []).append(name)
    order = sorted(names.values(), key=lambda own: own[0] in _TOOLS)
    dialects = []
    found: dict[str, dict[str, list[tuple[int, Facts]]]] = {}
    values: dict[str, dict[str, list[int]]] = {}
    renumbered: dict[str, dict[str, dict[int, list[int]]]] = {}
    for own in order:
        fork = facts["forks"][own[0]]
        messages = _fork_messages(upstream, fork["diff_vs_upstream"])
        enums = _fork_enums(upstream, fork["diff_vs_upstream"])
        _as_v1(messages, enums)
        index = len(dialects)
        different = False
        for name, fields in messages.items():
            for field in fields.values():
                original = known.get(name, {}).get(field["name"])
                if original is None:
                    found.setdefault(name, {}).setdefault(field["name"], []).append((index, field))
                    different = True
                elif original["number"] != field["number"]:
                    numbers = renumbered.setdefault(name, {}).setdefault(field["name"], {})
                    numbers.setdefault(field["number"], []).append(index)
            if name not in known:
                found.setdefault(name, {})
        for name, own_values in enums.items():
            for value in own_values:
                if value not in known_values.get(name, ()):
                    values.setdefault(name, {}).setdefault(value, []).append(index)
                    different = True
        if different:
            dialects.append({"name": ", ".join(own), "repository": fork["repo"], "commit": fork["commit_date"]})
            if own[0] in _TOOLS:
                dialects[-1]["tool"] = True
    # What a V1 layer has beyond upstream, the upgrade carries over to V2 under the same name.
    for name, entries in found["V1LayerParameter"].items():
        beside = found["LayerParameter"].setdefault(name, [])
        if name not in known["LayerParameter"]:
            beside += [entry for entry in entries if entry[0] not in [index for index, _ in beside]]
    fields_of = {name: set(found.get(name, {})) | set(known.get(name, {})) for name in {*found, *known}}
    conflicts: list[str] = []
    merged: Facts = {}
    for name, fields in sorted(found.items()):
        merged[name] = {}
        for field_name, entries in sorted(fields.items()):
            if not entries:
                continue
            kinds = [field for _, field in entries]
            numbers = {}
            for index, field in entries:
                numbers.setdefault(field["number"], []).append(index)
            merged[name][field_name] = [
                *_merged(f"{name}.{field_name}", kinds, fields_of, conflicts),
                dict(sorted(numbers.items())),
            ]
    return {
        "dialects": dialects,
        "enums": {name: dict(sorted(own.items())) for name, own in sorted(values.items())},
        "messages": merged,
        "renumbered": {name: dict(sorted(own.items())) for name, own in sorted(renumbered.items())},
        "conflicts": sorted(conflicts),
    }


def dumps(overlay: Facts) -> str:
    """JSON with one field a line, so that a change can be read."""
    parts = []
    for part, content in overlay.items():
        if isinstance(content, list):
            lines = ",\n".join(f"  {json.dumps(one)}" for one in content)
            parts.append(f' "{part}": [\n{lines}\n ]')
            continue
        blocks = []
        for name, fields in content.items():
            lines = ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items())
            blocks.append(f"  {json.dumps(name)}: {{\n{lines}\n  }}" if lines else f"  {json.dumps(name)}: {{}}")
        body = ",\n".join(blocks)
        parts.append(f' "{part}": {{\n{body}\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Overwrites dialects.json."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m caffe_port.proto.compile_dialects FACTS.json")
    overlay = make_overlay(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    DATA.write_text(dumps(overlay), encoding="utf-8")
    print(f"{DATA}: {len(overlay['dialects'])} dialects, {sum(map(len, overlay['messages'].values()))} fields")


if __name__ == "__main__":
    main()
