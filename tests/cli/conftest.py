"""Commands in this process, and an engine of the shipped model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commandline import MODEL, Trtc

import trtc.cli
from trtc.cli import _shared


@pytest.fixture
def trtc_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Trtc:
    """Run a command in this process; returns the exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trtc", *map(str, arguments)])
        for name in ("quiet", "verbose", "log_json"):
            monkeypatch.setattr(_shared.settings, name, False)
        with pytest.raises(SystemExit) as ended:
            trtc.cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture(scope="session")
def shakespeare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the shipped model."""
    folder = tmp_path_factory.mktemp("engines") / "shakespeare"
    trtc.compile(MODEL, folder, target="onnx", max_batch_size=4)
    return folder
