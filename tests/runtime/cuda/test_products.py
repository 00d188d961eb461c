"""The fastest of cuBLASLt's candidates does a product: found once, kept beside the engine, and found again there."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_cublas import FakeCublas
from fake_cuda import FakeDriver
from product_cases import ProductCase

from trtc.errors import TrtcError
from trtc.runtime.cuda import cublaslt, products
from trtc.runtime.cuda.choices import Choices
from trtc.runtime.cuda.cublaslt import CublasLt
from trtc.runtime.cuda.products import CANDIDATES, RUNS, WARM_UPS, Products
from trtc.runtime.gpu.device import open_device
from trtc.runtime.gpu.driver import open_driver
from trtc.runtime.gpu.stream import Stream

ROWS = 33   # rounded up to 64
TIMES = (0.3, 0.1, 0.9, 0.2)   # milliseconds


class Process:
    """What a process has that runs an engine in a folder."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, library: dict[str, Any]) -> None:
        self.driver = FakeDriver()
        self.library = FakeCublas(self.driver, **library)
        patch.setattr(cublaslt, "load_library", lambda: self.library)
        patch.setattr(products, "TIMED", 0)
        self.device = open_device(on=open_driver(self.driver))
        self.stream, blas = Stream(self.device), CublasLt(self.device)
        self.products = Products(blas, self.stream, Choices(folder, self.device, blas.version))

    def multiply(self, rows: int = ROWS, given: str = "") -> int:
        """The number of the algorithm that does a product of so many rows, whose result is NumPy's."""
        case = ProductCase(self.device, (rows, 5, 7), "f32", given)
        product = self.products.matmul(case.shape, case.operands)
        self.library.told.clear()
        product.enqueue(self.stream)
        self.stream.synchronize()
        case.check()
        (number,) = self.library.told
        return number


Start = Callable[..., Process]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    def process(folder: Path = tmp_path, **library: Any) -> Process:
        return Process(monkeypatch, folder, {"algorithms": 4, "times": TIMES, **library})

    return process


@pytest.mark.parametrize("given", ["", "bias", "residual", "bias residual"])
def test_the_fastest_candidate_does_the_product(start: Start, given: str) -> None:
    process = start()
    assert process.multiply(given=given) == 1
    assert process.library.asked == 1


def runs(process: Process) -> list[int]:
    """How often each algorithm runs while one is chosen."""
    case = ProductCase(process.device, (ROWS, 5, 7))
    process.products.matmul(case.shape, case.operands)
    return [process.library.told.count(number) for number in range(4)]


def test_candidates_run_no_more_often_than_needed(start: Start, tmp_path: Path) -> None:
    assert runs(start()) == [WARM_UPS + RUNS] * 2 + [WARM_UPS] * 2, "the others are hopeless"
    assert runs(start(tmp_path / "1", algorithms=1)) == [0, 0, 0, 0], "there is no choice"
    long = start(tmp_path / "2", times=(7.0, 5.0, 3.0, 4.0))
    assert runs(long) == [WARM_UPS] * 4
    assert long.multiply() == 2


def test_a_product_in_place_is_done_once(start: Start) -> None:
    process = start()
    case = ProductCase(process.device, (ROWS, 5, 7), given="residual")
    process.products.matmul(case.shape, replace(case.operands, residual=case.operands.y)).enqueue(process.stream)
    assert process.library.told == [0]


def test_a_choice_takes_no_longer_than_it_may(start: Start) -> None:
    slow = start(times=(20.0, 15.0, 1.0, 1.0))
    assert runs(slow) == [WARM_UPS, WARM_UPS, 0, 0]
    assert slow.multiply() == 1


def test_one_choice_is_for_all_rows_that_are_rounded_up_alike(start: Start) -> None:
    process = start()
    for rows in (33, 40, 64):
        assert process.multiply(rows) == 1
    assert process.library.asked == 1
    assert process.multiply(32) == 1
    assert process.library.asked == 2


def test_a_small_product_takes_the_first_candidate(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process = start()
    monkeypatch.setattr(products, "TIMED", 2 * ROWS * 5 * 7 + 1)
    assert process.multiply() == 0 and not list(tmp_path.iterdir())
    monkeypatch.setattr(products, "TIMED", 2 * (ROWS + 1) * 5 * 7)
    assert process.multiply(ROWS + 1) == 1


def test_the_choice_is_kept_beside_the_engine(start: Start, tmp_path: Path) -> None:
    assert start().multiply() == 1
    (file,) = tmp_path.iterdir()
    assert file.name == "fake-gpu.cublaslt.json"
    again = start(times=(0, 5, 5, 5))
    assert again.multiply() == 1 and again.multiply(given="bias") == 0
    assert again.library.asked == 1, "for the product with a bias"
    assert start(times=(9, 9, 9, 0)).multiply(given="bias") == 0, "both are kept"


@pytest.mark.parametrize("refuses", [{1}, {0, 1}])
def test_a_kept_algorithm_that_is_refused_is_replaced(start: Start, refuses: set[int]) -> None:
    assert start().multiply() == 1
    assert start(refuses=refuses).multiply() == 3
    again = start()
    assert again.multiply() == 3 and again.library.asked == 0


def test_a_candidate_that_does_not_run_is_left_out(start: Start) -> None:
    assert start(refuses={0, 1}).multiply() == 3
    none = start(refuses={0, 1, 2, 3})
    with pytest.raises(TrtcError, match=r"^error: cuBLASLt 13\.1 refuses cublasLtMatmul: the requested functionality"):
        none.multiply()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def scramble(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")


def rewrite(**changed: Any) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))

    return edit


DAMAGED, FOREIGN = "is damaged, and will be replaced", "is of another GPU, cuBLASLt or trtc, and will be replaced"


@pytest.mark.parametrize(("damage", "said"), [
    (cut, DAMAGED),
    (scramble, DAMAGED),
    (rewrite(algorithms=[]), DAMAGED),
    (rewrite(algorithms={"x": 3}), DAMAGED),
    (rewrite(algorithms={"x": "zz"}), DAMAGED),
    (rewrite(algorithms={"x": "00"}), FOREIGN),
    (rewrite(gpu="NVIDIA L4"), FOREIGN),
    (rewrite(library=120900), FOREIGN),
    (rewrite(version=2), FOREIGN),
])   # fmt: skip
def test_a_file_that_is_damaged_or_foreign_is_replaced(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None], said: str,
) -> None:   # fmt: skip
    start().multiply()
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    damage(file)
    with caplog.at_level(logging.INFO, "trtc.cuda"):
        assert start().multiply() == 1
    assert f"{file} {said}" in caplog.messages
    assert file.read_bytes() == good


def test_another_version_of_the_library_chooses_again(start: Start) -> None:
    start().multiply()
    assert start(version=130200, times=(0, 5, 5, 5)).multiply() == 0


def test_processes_keep_the_choices_of_one_another(start: Start) -> None:
    one, other = start(), start()
    assert one.multiply(33) == other.multiply(65) == 1
    again = start(times=(0, 5, 5, 5))
    assert again.multiply(33) == again.multiply(65) == 1


def test_a_folder_that_cannot_be_written_is_no_error(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = start(tmp_path / "missing")
    with caplog.at_level(logging.INFO, "trtc.gpu"):
        assert process.multiply(33) == process.multiply(65) == 1
    assert sum("is not written: No such file" in said for said in caplog.messages) == 1, "it is tried once"
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_no_error(start: Start, tmp_path: Path) -> None:
    (tmp_path / "fake-gpu.cublaslt.json").mkdir()
    assert start().multiply() == 1


def test_no_more_candidates_than_needed_are_asked_for(start: Start) -> None:
    process = start(algorithms=20, times=[1.0] * (CANDIDATES) + [0.0] * 12)
    assert process.multiply() == 0
