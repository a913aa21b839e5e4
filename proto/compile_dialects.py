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

# Fields in public nets whose fork's schema is not among the facts, named as the nets use them, typed as their values.
# Defaults and numbers are not known.
_SEEN: dict[str, dict[str, dict[str, str]]] = {
    "soeaver/caffe-model": {
        "PoolingParameter": {"ceil_mode": "bool"},
        "InterpParameter": {"use_blob_size": "bool"},
    },
    "TimoSaemann/ENet": {"DenseImageDataParameter": {"label_divide_factor": "int32"}},
    "ZheC/Realtime_Multi-Person_Pose_Estimation": {
        "LayerParameter": {"cpm_transform_param": "CPMTransformationParameter"},
        "CPMTransformationParameter": {
            **dict.fromkeys(("stride", "crop_size_x", "crop_size_y", "num_parts", "np_in_lmdb"), "int32"),
            **dict.fromkeys(("max_rotate_degree", "scale_prob", "scale_min", "scale_max"), "float"),
            **dict.fromkeys(("target_dist", "center_perterb_max"), "float"),
            **dict.fromkeys(("visualize", "do_clahe"), "bool"),
        },
    },
    "shihenw/caffe (CPM)": {
        "LayerParameter": {"cpmdata_param": "DataParameter"},
        "TransformationParameter": {
            **dict.fromkeys(("crop_size_x", "crop_size_y"), "int32"),
            **dict.fromkeys(("max_rotate_degree", "scale_prob", "target_dist", "center_perterb_max"), "float"),
            "do_clahe": "bool",
        },
    },
    "opencv/open_model_zoo": {
        "LayerParameter": {"ctc_decoder_param": "CTCDecoderParameter"},
        "CTCDecoderParameter": {"ctc_merge_repeated": "bool"},
        "PriorBoxParameter": {"width": "repeated float", "height": "repeated float"},
        "DetectionOutputParameter": {"input_width": "int32", "input_height": "int32", "normalized": "bool"},
    },
    "richzhang/colorization": {
        "LayerParameter": {"batch_normalize_bbox_param": "BatchNormalizeBBoxParameter"},
        "BatchNormalizeBBoxParameter": {},
    },
    "torrvision/crfasrnn (V1)": {
        "LayerParameter": {"multi_stage_meanfield_param": "MultiStageMeanfieldParameter"},
        "V1LayerParameter": {"multi_stage_meanfield_param": "MultiStageMeanfieldParameter"},
        "V1LayerParameter.LayerType": {"MULTI_STAGE_MEANFIELD": ""},
    },
    "yihui-he/channel-pruning": {
        "ImageDataParameter": {"new_dim": "int32", "bicubic": "bool"},
        "LayerParameter": {"filter_param": "FilterParameter"},
        "FilterParameter": {"num_output": "int32"},
    },
    "cwlacewe/netscope": {
        "LayerParameter": {"evaluation_method": "EvaluationMethod"},
        "EvaluationMethod": dict.fromkeys(("QCONV", "QWINOGRAD", "REDUCED_LOWERING"), ""),
        "ConvolutionParameter": {
            **dict.fromkeys(("is_relu", "is_int8_output", "reorg_input", "reorg_output", "is_eltwise_sum"), "bool"),
            **dict.fromkeys(("eltwise_both_ints", "sparse_output"), "bool"),
            "out_pad": "int32",
        },
        "PoolingParameter": {"fused_eltwise": "bool", "is_int8": "bool"},
        "QuantizationParameter": {
            **dict.fromkeys(("bottom_signed", "is_cast_quantization"), "bool"),
            **dict.fromkeys(("bottom_bits", "weight_bits"), "int32"),
            **dict.fromkeys(("bottom_range", "weight_range", "next_bottom_range"), "float"),
        },
    },
}
_SEEN_ENUMS = ("V1LayerParameter.LayerType", "EvaluationMethod")

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


def _fork_enums(diff: Facts) -> dict[str, dict[str, int]]:
    """The values of a fork's enums that upstream does not have, and their numbers."""
    enums = {
        name: {value["name"]: value["number"] for value in own} for name, own in diff.get("enums_only", {}).items()
    }
    for name, own in diff.get("enum_values_added", {}).items():
        enums.setdefault(name, {}).update({value["name"]: value["number"] for value in own})
    for name, own in diff.get("enum_values_changed", {}).items():
        enums.setdefault(name, {}).update({value["fork"]: value["number"] for value in own})
    return enums


def _as_v1(messages: dict[str, _Fields], enums: dict[str, dict[str, int]]) -> None:
    """Renames LayerParameter in a fork of before V2: it is what upstream keeps as V1LayerParameter."""
    if messages["NetParameter"]["layers"]["type_name"] != "LayerParameter":
        return
    messages["V1LayerParameter"] = messages.pop("LayerParameter")
    enums["V1LayerParameter.LayerType"] = enums.pop("LayerParameter.LayerType", {})
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


def _numbered(values: dict[str, tuple[set[int], list[int]]], extends: bool) -> Facts:
    """The values of an enum as [number, forks]; the number only where all forks agree on it and upstream has no say."""
    users: dict[int, set[str]] = {}
    for name, (numbers, _) in values.items():
        for number in numbers:
            users.setdefault(number, set()).add(name)
    told = {}
    for name, (numbers, forks) in sorted(values.items(), key=lambda entry: (min(entry[1][0], default=0), entry[0])):
        agreed = not extends and len(numbers) == 1 and len(users[min(numbers)]) == 1
        told[name] = [min(numbers) if agreed else None, forks]
    return told


def make_overlay(facts: Facts) -> Facts:
    """The overlay: dialects; enums and messages with what they have beyond upstream; numbers; conflicts."""
    upstream = facts["upstream"]
    known = {name: {f["name"]: f for f in one["fields"]} for name, one in upstream["messages"].items()}
    known_values = {name: {v["name"] for v in one["values"]} for name, one in upstream["enums"].items()}
    names: dict[str, list[str]] = {}
    for name, fork in facts["forks"].items():
        names.setdefault(fork["blob_sha"], []).append(name)

    def rank(own: list[str]) -> tuple[bool, int]:
        messages = _fork_messages(upstream, facts["forks"][own[0]]["diff_vs_upstream"])
        more = sum(field not in known.get(name, {}) for name, fields in messages.items() for field in fields)
        return own[0] in _TOOLS, more

    # Those that add least come first: of several that have a field, that is the likeliest origin.
    order = sorted(names.values(), key=rank)
    dialects: list[Facts] = []
    found: dict[str, dict[str, list[tuple[int, Facts]]]] = {}
    values: dict[str, dict[str, tuple[set[int], list[int]]]] = {}
    renumbered: dict[str, dict[str, dict[int, list[int]]]] = {}
    for own in order:
        fork = facts["forks"][own[0]]
        messages = _fork_messages(upstream, fork["diff_vs_upstream"])
        enums = _fork_enums(fork["diff_vs_upstream"])
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
                    own_numbers = renumbered.setdefault(name, {}).setdefault(field["name"], {})
                    own_numbers.setdefault(field["number"], []).append(index)
            if name not in known:
                found.setdefault(name, {})
        for name, own_values in enums.items():
            for value, number in own_values.items():
                if value not in known_values.get(name, ()):
                    numbers_of, forks = values.setdefault(name, {}).setdefault(value, (set(), []))
                    numbers_of.add(number)
                    forks.append(index)
                    different = True
        if different:
            dialects.append({"name": ", ".join(own), "repository": fork["repo"], "commit": fork["commit_date"]})
            if own[0] in _TOOLS:
                dialects[-1]["tool"] = True
    for repository, parts in _SEEN.items():
        for name, kinds in parts.items():
            for field_name, kind in kinds.items():
                if name in _SEEN_ENUMS:
                    values.setdefault(name, {}).setdefault(field_name, (set(), []))[1].append(len(dialects))
                    continue
                label, _, type_name = kind.rpartition(" ")
                field = {"label": label or "optional", "type": type_name, "number": None}
                found.setdefault(name, {}).setdefault(field_name, []).append((len(dialects), field))
            if name not in known and name not in _SEEN_ENUMS:
                found.setdefault(name, {})
        dialects.append({"name": repository, "repository": repository.partition(" ")[0], "seen": True})
    # What a V1 layer has beyond upstream, the upgrade carries over to V2 under the same name.
    for name, entries in found["V1LayerParameter"].items():
        beside = found["LayerParameter"].setdefault(name, [])
        if name not in known["LayerParameter"]:
            beside += [entry for entry in entries if entry[0] not in [index for index, _ in beside]]
    fields_of = {name: set(found.get(name, {})) | set(known.get(name, {})) for name in {*found, *known}}
    conflicts: list[str] = []
    merged: Facts = {}
    for name, own_fields in sorted(found.items()):
        merged[name] = {}
        for field_name, entries in sorted(own_fields.items()):
            if not entries:
                continue
            numbers: dict[int, list[int]] = {}
            for index, field in entries:
                numbers.setdefault(field["number"] or 0, []).append(index)
            merged[name][field_name] = [
                *_merged(f"{name}.{field_name}", [field for _, field in entries], fields_of, conflicts),
                dict(sorted(numbers.items())),
            ]
    return {
        "dialects": dialects,
        "enums": {name: _numbered(own, name in known_values) for name, own in sorted(values.items())},
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
