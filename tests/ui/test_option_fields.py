"""The page's forms are the command line's own options."""

from __future__ import annotations

import click
import pytest

from musiclora.cli import get_command
from musiclora.cli.option_fields import option_fields
from musiclora.ui.options import OptionField, choose_fields, command_arguments
from musiclora.ui.training_form import FRONT, HIDDEN, OWN, folded_fields, front_fields


@pytest.fixture(scope="module")
def train_fields():
    return option_fields(get_command("train"))


def test_every_option_of_train_is_in_the_form_once(train_fields):
    shown = [f.name for f in (*front_fields(train_fields), *folded_fields(train_fields))]
    options = {p.name for p in get_command("train").params if isinstance(p, click.Option)} - {"help", "as_json"}
    assert sorted(shown) == sorted(options - {*OWN, *HIDDEN})
    assert len(shown) == len(set(shown))


def test_a_field_says_what_the_help_says(train_fields):
    by_name = {f.name: f for f in train_fields}
    assert by_name["lora_r"] == OptionField("lora_r", "--lora-r", "integer", "LoRA rank.", "16; audio: 8")
    assert by_name["lora_r"].label == "lora r"
    assert by_name["backend"].choices == ("auto", "mlx", "torch")
    assert by_name["grad_checkpointing"].off_flag == "--no-grad-checkpointing"
    assert by_name["target_modules"].many
    repaint = next(f for f in option_fields(get_command("generate")) if f.name == "repaint")
    assert repaint.kind == "pair"


def parsed(command, words):
    """Values that click reads from the words, without those that are not given."""
    with command.make_context("x", list(words), resilient_parsing=True) as context:
        return {
            name: value
            for name, value in context.params.items()
            if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"epochs": "3", "lr": "1e-4", "seed": ""}, {"epochs": 3, "lr": 1e-4}),
        ({"epochs": 3.0}, {"epochs": 3}),
        ({"use_dora": True, "stop_when_copying": False}, {"use_dora": True}),
        ({"grad_checkpointing": "off"}, {"grad_checkpointing": False}),
        ({"grad_checkpointing": "on"}, {"grad_checkpointing": True}),
        ({"grad_checkpointing": "default", "backend": ""}, {}),
        ({"target_modules": "c_attn, c_fc"}, {"target_modules": ("c_attn", "c_fc")}),
        ({"caption": "--loud & 'quoted'"}, {"caption": "--loud & 'quoted'"}),
        ({"backend": "mlx", "style": " warm "}, {"backend": "mlx", "style": "warm"}),
    ],
    ids=["numbers", "a number field", "switches", "off", "on", "defaults", "many", "any text", "choice and text"],
)
def test_click_reads_the_values_of_the_form_back(train_fields, values, expected):
    assert parsed(get_command("train"), command_arguments(train_fields, values)) == expected


def test_a_pair_is_two_numbers_and_may_begin_with_a_dash():
    fields = choose_fields(option_fields(get_command("generate")), ["repaint"])
    assert parsed(get_command("generate"), command_arguments(fields, {"repaint": "-1, 12.5"})) == {
        "repaint": ((-1.0, 12.5),)
    }


def test_a_field_that_no_command_has_is_a_fault(train_fields):
    with pytest.raises(KeyError):
        choose_fields(train_fields, ["no_such_option"])
    assert {f.name for f in train_fields} >= {*FRONT, *OWN, *HIDDEN}
