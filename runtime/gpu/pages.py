"""Pages of KV caches: which of a pool's hold the tokens of each sequence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trtc.errors import TrtcError

PAGE = 64     # tokens of a page, as kernels have it
NOBODYS = 0   # the page for what is written beyond a sequence's tokens: padding, and rows that no sequence has


def pages_of(tokens: int) -> int:
    """The pages that so many tokens of a sequence take.

    >>> [pages_of(tokens) for tokens in (0, 1, 64, 65)]
    [0, 1, 1, 2]
    """
    return -(-tokens // PAGE)


class PageTable:
    """The pages of each sequence of a batch, in order; they are given as it grows, and none is moved or shared.

    All caches have pools of one size, and a sequence has the same pages of each.

    Args:
        sequences: of a batch at most.
        each: pages of a sequence at most.
        pages: of a pool, of which the first is nobody's.
    """

    def __init__(self, sequences: int, each: int, pages: int) -> None:
        self.array: npt.NDArray[np.int32] = np.full((sequences, each), NOBODYS, np.int32)
        self.pages = pages
        self.clear()

    def clear(self) -> None:
        """Take all pages back."""
        self.array[...] = NOBODYS
        self._held = [0] * len(self.array)
        self._free = list(range(self.pages - 1, NOBODYS, -1))

    def hold(self, lengths: npt.NDArray[np.integer]) -> None:
        """Give sequences the pages that they lack.

        Args:
            lengths: ``int[n]``, tokens of each of the first n sequences.
        Errors:
            TrtcError: the pool has not as many; the table is as it was.
        """
        most, held = self.array.shape[1], self._held
        want = [min(pages_of(tokens), most) for tokens in lengths.tolist()]
        lacking = [(row, held[row], pages) for row, pages in enumerate(want) if pages > held[row]]
        missing = sum(pages - have for _, have, pages in lacking)
        if missing > len(self._free):
            raise self._too_few(missing)
        for row, have, pages in lacking:
            self.array[row, have:pages] = [self._free.pop() for _ in range(have, pages)]
            held[row] = pages

    def _too_few(self, missing: int) -> TrtcError:
        pool, free = self.pages - 1, len(self._free)
        message = f"the KV cache has {pool} pages of {PAGE} tokens, {free} of them free, but {missing} more are needed"
        return TrtcError(message, "help: --kv-cache-tokens N has more, and fewer sequences at a time need less")
