"""Lazy batches: the same batches bit for bit, built one at a time."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from musiclora.audio.diffrhythm.conditions import DiffRhythmForm
from musiclora.audio.windows import Recording, WindowEpochs
from musiclora.symbolic.dataset.batches import BatchPlan, batch_plan
from musiclora.symbolic.dataset.pieces import Piece, load_pieces
from musiclora.symbolic.dataset.transpose import TransposedEpochs, versions_within
from musiclora.symbolic.dataset.wrapped_rows import WrappedRows
from musiclora.symbolic.tokens.tokenizers import own_tokenizer
from musiclora.training.lazy_batches import LazyBatches
from musiclora.training.loop import group_batches


def pieces_of(count):
    rng = np.random.default_rng(0)
    return [Piece(f"p{i}", f"p{i}", rng.integers(3, 99, 20 + i % 7).astype(np.int32), 9) for i in range(count)]


def symbolic_epoch(count):
    return BatchPlan(pieces_of(count), 64, 2, 0, WrappedRows(1, 2, 0)).batches(0)


def audio_epoch(count):
    latents = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    recordings = [Recording(f"r{i}", f"r{i}", f"{i:064x}", latents) for i in range(count)]
    return WindowEpochs(recordings, DiffRhythmForm(20, 40, False), 2, 3).batches(0)


def equal(first, second):
    return set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def test_index_slice_and_iteration_give_the_same_batches():
    built = []
    batches = LazyBatches([lambda n=n: built.append(n) or {"n": np.array([n])} for n in range(5)])
    part = batches[1:4]
    assert (len(batches), len(part), built) == (5, 3, [])
    assert [int(batch["n"][0]) for batch in part] == [1, 2, 3]
    assert [int(batch["n"][0]) for batch in batches] == list(range(5))
    assert int(batches[-1]["n"][0]) == 4
    with pytest.raises(IndexError):
        batches[5]


@pytest.mark.parametrize("epoch_of", [symbolic_epoch, audio_epoch], ids=["symbolic", "audio"])
@pytest.mark.parametrize("count", [12, 48])
def test_an_epoch_holds_one_optimiser_step_in_memory_whatever_its_size(epoch_of, count):
    epoch = epoch_of(count)
    alive, most = weakref.WeakSet(), 0

    class Watched(dict):
        __hash__ = object.__hash__

    builders = [lambda n=n: Watched(epoch[n]) for n in range(len(epoch))]
    for group in group_batches(LazyBatches(builders), 2):
        micro_batches = list(group)
        alive.update(micro_batches)
        most = max(most, len(alive))
        del micro_batches
    assert isinstance(epoch, LazyBatches)
    assert len(builders) > 4
    assert most == 2


@pytest.mark.parametrize("epoch_of", [symbolic_epoch, audio_epoch], ids=["symbolic", "audio"])
def test_a_batch_that_is_built_twice_is_the_same(epoch_of):
    epoch = epoch_of(12)
    whole = list(epoch)
    assert all(equal(epoch[n], batch) for n, batch in enumerate(whole))
    assert all(equal(a, b) for a, b in zip(epoch[2:5], whole[2:5], strict=True))


def test_transposed_epochs_equal_the_batches_of_the_pieces_that_were_drawn(tunes):
    tokenizer = own_tokenizer()
    keys = [versions_within(tokenizer, piece, 3) for piece in load_pieces(tunes, tokenizer, workers=1).pieces]
    data = TransposedEpochs(keys, tokenizer, 128, 2, 5)
    for epoch in (0, 3):
        rng = np.random.default_rng([5, epoch, 7])
        drawn = [versions[int(rng.integers(len(versions)))] for versions in keys]
        plan = batch_plan(drawn, tokenizer, 128, 2, 5)
        assert all(equal(a, b) for a, b in zip(data.batches(epoch), plan.batches(epoch), strict=True))
        assert (data.tokens_per_epoch, data.longest_row) == (plan.tokens_per_epoch, plan.row_lengths[-1])
