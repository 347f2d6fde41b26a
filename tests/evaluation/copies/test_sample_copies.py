"""Copy figures of several samples."""

from __future__ import annotations

import numpy as np
import pytest

from musiclora.evaluation.copies.calibration import Reference
from musiclora.evaluation.copies.meter import CopyResult
from musiclora.evaluation.copies.samples import SampleCopies, summarise_copies

REFERENCE = Reference((6, 7, 7, 9), (0.0, 0.0, 0.1, 0.2), 60.0, True)


def result(content: int, copied: bool, share: float = 0.0) -> CopyResult:
    return CopyResult(copied, content + 2, content, 1, share, None, None, None, 9, REFERENCE, (), np.zeros(0, np.int64))


def test_results_are_counted_and_put_in_order():
    found = summarise_copies([result(12, True, 0.5), result(0, False), result(7, False, 0.1), result(30, True, 1.0)])
    assert found == SampleCopies((0, 7, 12, 30), 2, 0.4, REFERENCE)
    assert found.as_row() == {"samples": 4, "samples_copied": 2, "most_content_notes": 30, "copied_share": 0.4}
    assert found.as_json()["content_notes"] == [0, 7, 12, 30]
    assert found.line() == (
        "2 of 4 samples copy a training song; longest matches up to 30 notes, unseen songs of this artist: 6 to 9"
    )


@pytest.mark.parametrize(("copied", "count", "is_copying"), [(0, 4, False), (1, 4, False), (2, 4, True), (1, 1, True)])
def test_one_of_several_samples_may_pass_by_chance(copied, count, is_copying):
    found = summarise_copies([result(20, i < copied) for i in range(count)])
    assert found.is_copying == is_copying


def test_without_samples_there_are_no_figures():
    assert summarise_copies([]) is None
