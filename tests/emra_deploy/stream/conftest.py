"""Fixtures of the stream tests."""

from __future__ import annotations

import pytest

from emra_deploy.stream import reader


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's reader waits for its next word, as a hung one does; nobody has to wait for it."""
    monkeypatch.setattr(reader, "CLOSE_WITHIN", 0.02)
