"""Properties of the forward pass and the loss, once for every backend."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tolerance
from require import require
from toys import CONFIGS, token_batch

from musiclora.backends import token_batches
from musiclora.backends.base import FAMILIES
from musiclora.convert.errors import MusicLoraError

GOLDEN = Path(__file__).parents[2] / "golden" / "gpt2_logits.npz"
ARRIVAL = GOLDEN.parent / "anticipation"


def reference_loss(logits: np.ndarray, batch: dict[str, np.ndarray]) -> float:
    """Cross-entropy in float64 over the scored targets."""
    total = 0.0
    for row, column in zip(*np.nonzero(batch["loss_mask"]), strict=True):
        scores = logits[row, column - 1].astype(np.float64)
        total += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[batch["tokens"][row, column]]
    return total


def assert_near_loss(found: float, expected: float, model, batch: dict[str, np.ndarray]) -> None:
    """A difference of all logits by t changes each target's cross-entropy by 2 t at most."""
    limit = 2 * batch["loss_mask"].sum() * tolerance.logits(model.logits(batch))
    assert found == pytest.approx(expected, rel=0, abs=limit)


def test_logits_equal_transformers(toy):
    """Recorded from transformers; that the recording is right is tested where transformers is installed."""
    expected = np.load(GOLDEN)[toy.folder.name]
    found = toy.load().logits(token_batch(toy.config))
    assert found.dtype == np.float32
    tolerance.assert_near(found, expected, tolerance.logits(expected))


def test_loss_is_the_summed_cross_entropy_of_the_scored_targets(toy):
    batch, model = toy.batch(), toy.load()
    found = model.loss(batch)
    assert found.weight == batch["loss_mask"].sum()
    assert_near_loss(found.total, reference_loss(model.logits(batch), batch), model, batch)


def test_token_losses_are_those_of_the_scored_targets_and_add_up_to_the_loss(toy):
    batch, model = toy.batch(), toy.adapted()
    found, logits = model.token_losses(batch), model.logits(batch)
    assert found.dtype == np.float32
    assert not found[~batch["loss_mask"]].any()
    for row, column in zip(*np.nonzero(batch["loss_mask"]), strict=True):
        alone = {"tokens": batch["tokens"], "loss_mask": np.zeros_like(batch["loss_mask"])}
        alone["loss_mask"][row, column] = True
        limit = 2 * tolerance.logits(logits)
        assert found[row, column] == pytest.approx(reference_loss(logits, alone), rel=0, abs=limit)
    assert_near_loss(float(found.sum(dtype=np.float64)), model.loss(batch).total, model, batch)


def test_token_losses_do_not_depend_on_the_size_of_the_chunks(square, monkeypatch):
    batch, model = square.batch(), square.load()
    expected = model.token_losses(batch)
    monkeypatch.setattr(token_batches, "LOGITS_PER_CHUNK", 5 * square.config.vocab_size)
    tolerance.assert_near(model.token_losses(batch), expected, 2 * tolerance.logits(model.logits(batch)))


def test_token_losses_of_a_batch_without_targets_are_zero(square):
    batch = square.batch()
    batch["loss_mask"][:] = False
    found = square.load().token_losses(batch)
    assert found.shape == batch["tokens"].shape
    assert not found.any()


def test_token_losses_of_a_batch_that_does_not_fit_raise(square):
    with pytest.raises(MusicLoraError, match="15"):
        square.load().token_losses({**square.batch(), "tokens": np.full((3, 13), 16, np.int32)})


def test_a_recorded_model_of_arrival_times_has_the_recorded_logits_and_loss(backend):
    recorded = json.loads((ARRIVAL / "logits.json").read_text())
    model = backend.load(FAMILIES["symbolic"], ARRIVAL / "model")
    found = model.logits({"tokens": np.array([recorded["tokens"]], np.int32)})[0]
    expected = np.array(recorded["last_8_of_each"])
    tolerance.assert_near(found[:, -8:], expected, tolerance.logits(found))
    tokens = np.array([recorded["row"]], np.int32)
    batch = {"tokens": tokens, "loss_mask": np.arange(tokens.shape[1])[None] > 0}
    assert model.loss(batch).mean == pytest.approx(recorded["loss"], rel=0, abs=1e-5)
    assert model.token_losses(batch).sum() / 1023 == pytest.approx(recorded["loss"], rel=0, abs=1e-5)


def test_loss_is_repeatable(toy):
    model, batch = toy.adapted(), toy.batch()
    assert model.loss(batch) == model.loss(batch)


def test_loss_without_scored_targets_is_zero(square):
    batch = square.batch()
    batch["loss_mask"][:] = False
    found = square.load().loss(batch)
    assert (found.total, found.weight) == (0.0, 0.0)


def test_padding_changes_nothing(toy):
    model, batch = toy.adapted(), toy.batch(length=11)
    padded = {k: np.pad(v, ((0, 1), (0, 6))) for k, v in batch.items()}  # six columns, and a row of nothing else
    logits = model.logits(batch)
    # Products of other shapes may sum in another order.
    tolerance.assert_near(model.logits(padded)[:3, :11], logits, tolerance.logits(logits))
    found, expected = model.loss(padded), model.loss(batch)
    assert found.weight == expected.weight
    assert_near_loss(found.total, expected.total, model, batch)


@pytest.mark.parametrize("lengths", [(4, 1, 8), (13,), (6, 6)], ids=["three", "one", "padded"])
def test_packed_row_equals_separate_rows(toy, lengths):
    model = toy.adapted()
    pieces = [toy.batch(rows=1, length=n, seed=n) for n in lengths]
    used = sum(lengths)
    packed = {k: np.zeros((1, 14), v.dtype) for k, v in pieces[0].items()}
    packed |= {"segments": np.zeros((1, 14), np.int32), "positions": np.zeros((1, 14), np.int32)}
    start = 0
    for number, (piece, n) in enumerate(zip(pieces, lengths, strict=True)):
        window = np.s_[:, start : start + n]
        packed["tokens"][window], packed["loss_mask"][window] = piece["tokens"], piece["loss_mask"]
        packed["segments"][window], packed["positions"][window] = number + 1, np.arange(n)
        start += n
    separate = np.concatenate([model.logits(p) for p in pieces], axis=1)
    tolerance.assert_near(model.logits(packed)[:, :used], separate, tolerance.logits(separate))
    expected = [model.loss(p) for p in pieces]
    found = model.loss(packed)
    assert found.weight == sum(p.weight for p in expected)
    assert_near_loss(found.total, sum(p.total for p in expected), model, packed)


def test_segment_that_comes_back_sees_its_earlier_part(square):
    model, batch = square.load(), square.batch(rows=1, length=9)
    order = np.array([0, 1, 2, 6, 7, 8])  # the tokens of segment 1; segment 2 lies between
    positions = np.array([[0, 1, 2, 0, 1, 2, 3, 4, 5]], np.int32)
    mixed = {**batch, "segments": np.array([[1, 1, 1, 2, 2, 2, 1, 1, 1]], np.int32), "positions": positions}
    alone = {"tokens": batch["tokens"][:, order]}
    expected = model.logits(alone)
    # Rows of other lengths: a BLAS sums them in another order.
    tolerance.assert_near(model.logits(mixed)[:, order], expected, tolerance.logits(expected))


def test_positions_count_from_zero_where_they_are_not_given(toy):
    model, batch = toy.load(), toy.batch()
    given = {**batch, "positions": np.broadcast_to(np.arange(13, dtype=np.int32), (3, 13))}
    expected = model.logits(batch)
    tolerance.assert_near(model.logits(given), expected, tolerance.logits(expected))
    shifted = {**batch, "positions": given["positions"] + 1}
    assert np.abs(model.logits(shifted) - model.logits(batch)).max() > 0.01


def test_logits_of_a_token_do_not_depend_on_later_ones(toy):
    model, batch = toy.load(), toy.batch()
    changed = {**batch, "tokens": batch["tokens"].copy()}
    changed["tokens"][:, 9:] = (changed["tokens"][:, 9:] + 1) % toy.config.vocab_size
    found, expected = model.logits(changed), model.logits(batch)
    tolerance.assert_near(found[:, :9], expected[:, :9], tolerance.logits(expected))
    assert np.abs(found[:, 9:] - expected[:, 9:]).max() > 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": np.zeros((1, 25), np.int32), "loss_mask": np.zeros((1, 25), bool)}, "24"),
        ({"tokens": np.full((3, 13), 16, np.int32)}, "15"),
        ({"tokens": np.full((3, 13), -1, np.int32)}, "-1"),
        ({"positions": np.full((3, 13), 24, np.int32)}, "positions"),
        ({"segments": np.zeros((3, 12), np.int32)}, "segments"),
        ({"loss_mask": np.ones((3, 13), bool)}, "column 0"),
    ],
    ids=["too_long", "id_too_large", "id_negative", "position_too_large", "shapes_differ", "first_column_scored"],
)
def test_batch_that_does_not_fit_raises_and_says_what_is_allowed(square, change, said):
    with pytest.raises(MusicLoraError, match=said):
        square.load().loss({**square.batch(), **change})


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_recording_equals_transformers(name, folders):
    """Check the golden logits against transformers where it is installed."""
    torch = require("torch")
    transformers = require("transformers")
    model = transformers.GPT2LMHeadModel.from_pretrained(folders[name]).eval()
    tokens = torch.from_numpy(token_batch(CONFIGS[name])["tokens"]).long()
    with torch.no_grad():
        expected = model(tokens).logits.numpy()
    golden = np.load(GOLDEN)[name]
    tolerance.assert_near(golden, expected, tolerance.logits(expected))
