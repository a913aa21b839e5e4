"""docs/numbers.md says what is done in each case: each row is held by a test that there is."""

from __future__ import annotations

import re

from places import TESTS

PAGE = TESTS.parent / "docs" / "numbers.md"


def test_every_row_names_a_test_that_there_is() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| case ")]
    assert len(rows) > 40
    defined = {name for file in TESTS.rglob("*.py") for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)}
    for row in rows:
        *_, test, end = row.split("|")
        assert end == ""
        assert test.strip(" `") in defined, row


def test_every_test_here_is_in_the_page() -> None:
    """What is held to be so is said, too."""
    page = PAGE.read_text()
    files = [TESTS / "stress" / f"test_{name}.py" for name in ("numbers", "weight_values", "huge_files")]
    named = [name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)]
    left = {
        "test_weights_in_the_prototxt_are_looked_at",
        "test_a_further_file_is_looked_at_alone",
        "test_every_value_is_looked_at_wherever_blocks_end",
        "test_a_mapped_file_is_looked_at_as_it_lies_and_given_back",
        "test_folding_overflow_warns_nobody",
    }
    assert {name for name in named if name not in page} == left
