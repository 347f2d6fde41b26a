"""Training batches of ACE-Step: context, unequal conditions, dropped ones, and held-out windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from acestep_toys import SMALL

from musiclora.audio.acestep.form import AceStepForm, check_condition
from musiclora.audio.acestep.times import Objective, TurboTimes, objective_of
from musiclora.audio.windows import Recording, WindowEpochs, batches_by_quarter, fixed_batches
from musiclora.backends.acestep_batches import check_batch
from musiclora.errors import DataError

WIDTH = SMALL.encoder.hidden
SILENCE = np.random.default_rng(9).standard_normal((60, SMALL.latent_dim)).astype(np.float32)
TURBO, BASE = Objective(TurboTimes(), 0.0), Objective(objective_of(SMALL).times, 0.5)


def recording(frames: int, rows: int | None, seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((frames, SMALL.latent_dim)).astype(np.float32)
    own = {} if rows is None else {"condition": rng.standard_normal((rows, WIDTH)).astype(np.float32)}
    return Recording(f"song{seed}", f"song{seed}", f"{seed:064x}", latents, own)


def epochs(recordings: list[Recording], objective: Objective = TURBO, **more: Any) -> WindowEpochs:
    return WindowEpochs(recordings, AceStepForm(20, SILENCE, objective), more.get("rows", 4), 3)


def test_batches_fit_the_model_with_unequal_conditions() -> None:
    (batch,) = epochs([recording(20, 3, 1), recording(17, 5, 2), recording(9, 1, 3)]).batches(0)
    check_batch(batch, SMALL)
    assert batch["condition"].shape == (3, 5, WIDTH)
    assert sorted(batch["condition_valid"].sum(axis=1).tolist()) == [1, 3, 5]
    assert (batch["condition"][~batch["condition_valid"]] == 0).all()
    np.testing.assert_array_equal(batch["context"][:, :, : SMALL.latent_dim], np.stack([SILENCE[:20]] * 3))
    assert (batch["context"][:, :, SMALL.latent_dim :] == 1).all()
    assert "drop_condition" not in batch
    listed = np.array([1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3])
    assert np.abs((1 - batch["time"])[:, None] - listed).min(axis=1).max() < 5e-5


def test_each_row_loses_its_condition_on_its_own() -> None:
    recordings = [recording(20, 2, seed) for seed in range(40)]
    drops = np.concatenate([b["drop_condition"] for b in epochs(recordings, BASE, rows=8).batches(0)])
    assert drops.shape == (40,)
    assert 8 < drops.sum() < 32  # half of 40; four standard deviations
    again = np.concatenate([b["drop_condition"] for b in epochs(recordings, BASE, rows=8).batches(0)])
    np.testing.assert_array_equal(drops, again)
    other = np.concatenate([b["drop_condition"] for b in epochs(recordings, BASE, rows=8).batches(1)])
    assert (drops != other).any()


def test_recordings_without_conditions_leave_them_to_the_model() -> None:
    (batch,) = epochs([recording(20, None), recording(20, None, 1)]).batches(0)
    assert not {"condition", "condition_valid"} & set(batch)


def test_held_out_batches_drop_nothing_and_cover_every_quarter() -> None:
    recordings, form = [recording(50, 2, 1), recording(20, 3, 2)], AceStepForm(20, SILENCE, BASE)
    quarters = batches_by_quarter(recordings, form, 3)
    assert len(quarters) == 4
    means = [np.concatenate([b["time"] for b in part]).mean() for part in quarters]
    assert means == sorted(means)
    parts = sorted(t for part in quarters for b in part for t in b["time"].tolist())
    assert parts == sorted(t for b in fixed_batches(recordings, form, 3) for t in b["time"].tolist())
    assert not any("drop_condition" in b for part in quarters for b in part)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, WIDTH + 1)), np.zeros((0, WIDTH)), np.zeros(WIDTH), np.full((2, WIDTH), np.nan)],
    ids=["width", "no row", "one vector", "not finite"],
)
def test_a_condition_of_another_model_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"song.*expected rows of 16 finite values"):
        check_condition({"condition": wrong}, WIDTH, "song")
