"""Where things lie: the repository, and what may lie beside it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONFORMANCE", "REFERENCE", "ROOT", "SHARED", "TESTS"]

TESTS = Path(__file__).parent
ROOT = TESTS.parent
REFERENCE = ROOT / "reference_outputs"
"""Recordings that are shipped."""
SHARED = ROOT.parent / "shared"
"""More recordings, and facts about Caffe; tests that need them skip where they are absent."""
CONFORMANCE = SHARED / "conformance"
