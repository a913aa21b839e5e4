"""The published accuracies: there for every architecture, and each with where it is from."""

from __future__ import annotations

from caffe_port.architectures import ARCHITECTURES
from caffe_port.tradeoff.comparison import ANNOUNCED
from caffe_port.tradeoff.published import published


def test_every_architecture_has_a_title_and_only_these() -> None:
    assert set(published()) == set(ARCHITECTURES)
    titles = [entry.title for entry in published().values()]
    assert len(set(titles)) == len(titles)
    assert set(ANNOUNCED) <= set(ARCHITECTURES)


def test_every_result_is_a_share_with_a_source() -> None:
    for name, entry in published().items():
        for one in entry.results:
            assert one.top1 is not None or one.top5 is not None, name
            for share in (one.top1, one.top5):
                assert share is None or 0.5 < share < 1, name
            assert one.top1 is None or one.top5 is None or one.top1 < one.top5, name
            assert one.source and one.protocol and one.url.startswith("https://"), name


def test_what_pynetbuilder_published() -> None:
    """models/imagenet/Readme.md: top-1 of a centre crop; one row is printed as percent."""
    table = {
        "resnet50_pynetbuilder": 0.7175,
        "resnet50_1by2": 0.6679,
        "resnet77_1by2": 0.6984,
        "resnet66_1by2_inception_trick": 0.6636,
        "resnet68_1by2_4k": 0.6963,
        "resnet34_inception_trick": 0.678,
        "resnet36_inception_trick_4k": 0.7076,
    }
    assert {name: published()[name].results[0].top1 for name in table} == table
