"""What the tests of the policy room share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.policy.bundles import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
