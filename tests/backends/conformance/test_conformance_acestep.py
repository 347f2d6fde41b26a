"""ACE-Step on every backend: against diffusers with PEFT, padding, and the trained condition."""

from __future__ import annotations

import acestep_flow_toys as toys
import numpy as np
import pytest
import tolerance
from acestep_toy import ROUNDING
from require import require

from musiclora.backends.acestep_batches import MAX_FRAMES
from musiclora.backends.base import OptimSpec
from musiclora.convert.errors import DataError

GRADIENTS = 1e-4  # what is promised, of the largest value: float32 on both sides


@pytest.fixture(scope="module")
def reference():
    """diffusers' transformer under our names, with plain PEFT."""
    require("torch")
    require("diffusers")
    import acestep_diffusers

    return acestep_diffusers


def gradients(toy, model, batch):
    """Of the mean loss: ten times the first moment after the first step."""
    training = model.start_training(OptimSpec(max_grad_norm=0.0))
    training.step([batch], 1e-4)
    state = training.read_state().items()
    return {k.removeprefix("exp_avg."): 10 * v for k, v in state if k.startswith("exp_avg.")}


def near(found, expected, limit=toys.PARITY):
    tolerance.assert_near(found, expected, limit * max(1.0, float(np.abs(expected).max())))


def test_it_says_what_it_is(acestep):
    model = acestep.load()
    assert (model.max_frames, model.has_duration, model.read_style()) == (MAX_FRAMES, False, None)


def test_loss_and_gradients_equal_those_of_diffusers_with_peft(acestep, reference):
    """Each row alone, cut to its length, with its condition packed."""
    batch, model = toys.uneven_batch(acestep.config), acestep.adapted()
    plain, parameters = reference.adapted(acestep.config, acestep.tensors(), acestep.spec, model.read_adapter())
    losses = [reference.loss(plain, toys.row_alone(batch, row)) for row in range(3)]
    sum(losses).backward()
    found = model.loss(batch)
    assert found.total == pytest.approx(sum(loss.item() for loss in losses), rel=toys.PARITY)
    expected = {name: value.grad.numpy() / found.weight for name, value in parameters.items()}
    slope = gradients(acestep, model, batch)
    assert sorted(slope) == sorted(expected)
    for name, value in expected.items():
        tolerance.assert_near(slope[name], value, GRADIENTS * max(np.abs(g).max() for g in expected.values()), name)


def test_both_velocities_equal_two_passes_of_diffusers(acestep, reference):
    batch, model = toys.flow_batch(acestep.config), acestep.adapted()
    plain, _ = reference.adapted(acestep.config, acestep.tensors(), acestep.spec, model.read_adapter())
    found = model.velocities(batch["noise"], batch["time"], model.prepare(toys.conditioning_of(batch)))
    given = (batch, reference.with_null(batch, acestep.tensors()))
    for ours, theirs in zip(found, given, strict=True):
        near(ours, reference.velocity(plain, theirs, batch["noise"], batch["time"]))


def test_a_row_among_longer_ones_is_what_it_is_alone(acestep):
    batch, model = toys.uneven_batch(acestep.config, padding=np.nan), acestep.adapted()
    x = np.nan_to_num(batch["noise"], nan=5.0)
    together = model.velocities(x, batch["time"], model.prepare(toys.conditioning_of(batch)))
    total = model.loss(batch).total
    rows = [toys.row_alone(batch, row) for row in range(3)]
    assert sum(model.loss(row).total for row in rows) == pytest.approx(total, rel=ROUNDING)
    for index, row in enumerate(rows):
        alone = model.velocities(row["noise"], row["time"], model.prepare(toys.conditioning_of(row)))
        for whole, part in zip(together, alone, strict=True):
            near(whole[index, batch["valid"][index]], part[0], ROUNDING)


def test_padding_reaches_no_gradient(acestep_one):
    found = []
    for padding in (3.0, np.nan):
        batch = toys.uneven_batch(acestep_one.config, padding)
        batch["condition_valid"][1] = False  # nothing but padding
        batch["condition"][1] = padding
        found.append(gradients(acestep_one, acestep_one.adapted(), batch))
    for name, value in found[0].items():
        assert np.isfinite(value).all(), name
        np.testing.assert_array_equal(found[1][name], value, err_msg=name)


def test_a_batch_without_condition_has_the_trained_one_or_the_null_condition(acestep_one):
    model, whole, style = acestep_one.load(), acestep_one.batch(), acestep_one.style()
    bare, every = acestep_one.bare(), np.repeat(style[None], 2, axis=0)
    named = {**whole, "condition": every, "condition_valid": np.ones(every.shape[:2], bool)}
    null = model.loss({**whole, "drop_condition": np.array(True)}).total
    assert model.loss(bare).total == pytest.approx(null, rel=ROUNDING)
    expected, own = model.loss(named).total, model.loss(whole)
    model.set_style(style)
    np.testing.assert_array_equal(model.read_style(), style)
    assert model.loss(bare).total == pytest.approx(expected, rel=ROUNDING)
    assert expected != pytest.approx(null, rel=1e-3)
    assert model.loss(whole) == own
    dropped = {"drop_condition": np.array([True, False])}
    assert model.loss(bare | dropped).total == pytest.approx(model.loss(named | dropped).total, rel=ROUNDING)
    for left, right in ((bare, named), (bare | dropped, named | dropped)):
        given = (model.prepare(acestep_one.conditioning(batch)) for batch in (left, right))
        found, same = (model.velocity(whole["noise"], 0.4, prepared, 1.5) for prepared in given)
        near(found, same, 5 * ROUNDING)
    model.set_style(None)
    assert model.loss(bare).total == pytest.approx(null, rel=ROUNDING)


def test_a_trained_condition_has_no_gradient_where_it_is_dropped(acestep_one):
    model = acestep_one.adapted()
    model.set_style(acestep_one.style())
    found = gradients(acestep_one, model, acestep_one.bare() | {"drop_condition": np.array(True)})
    assert not found["style"].any()


@pytest.mark.parametrize(
    ("key", "spoil"),
    [
        ("latents", lambda v: v[..., :-1]),
        ("noise", lambda v: v[:, :-1]),
        ("time", lambda v: v + 1),
        ("valid", lambda v: v[:, :-1]),
        ("condition", lambda v: v[..., :-1]),
        ("condition_valid", lambda v: v[:, :-1]),
        ("context", lambda v: v[..., :-1]),
    ],
)
def test_a_batch_that_does_not_fit_is_one_line(acestep_one, key, spoil):
    model, batch = acestep_one.adapted(), acestep_one.batch()
    for wrong in ({**batch, key: spoil(batch[key])}, {k: v for k, v in batch.items() if k != key}):
        for compute in (model.loss, lambda given: model.start_training(OptimSpec()).step([given], 0.1)):
            with pytest.raises(DataError, match=key) as caught:
                compute(wrong)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 48), (3, 40), (48,)])
def test_a_trained_condition_of_another_shape_is_refused(acestep_one, shape):
    with pytest.raises(DataError, match="trained condition"):
        acestep_one.load().set_style(np.zeros(shape, np.float32))
