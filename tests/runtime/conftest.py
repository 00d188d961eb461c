"""Engine bundles made by hand, and trained models where there are any."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from handmade import Tiny, write_script, write_tiny

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture
def shared_models() -> Path:
    """Trained models beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("no shared models beside the checkout")
    return SHARED / "models"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A random one-layer attention model."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    """Write a bundle of a model that knows one text by heart."""
    return partial(write_script, tmp_path / "engine")
