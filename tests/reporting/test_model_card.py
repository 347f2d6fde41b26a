"""Headers of cards, as the Hugging Face Hub reads them."""

import pytest
from require import require

from musiclora.families import SPECS
from musiclora.reporting.model_card import card_body, card_header, complete_card

WORDS = {"pipeline_tag": "text-to-audio", "tags": ("music", "lora")}


@pytest.mark.parametrize(
    ("licence", "lines"),
    [
        ("Apache-2.0", ["license: apache-2.0"]),
        ("unknown", ["license: other"]),
        ("my-own", ["license: other", "license_name: my-own"]),
        ("[mit,", ["license: other"]),
        ("x\nbase_model: y", ["license: other"]),
    ],
    ids=["known to the Hub", "unknown", "unknown to the Hub", "a list", "a second line"],
)
def test_a_header_states_a_licence_that_the_hub_accepts(licence, lines):
    header = card_header(**WORDS, licence=licence)
    assert header.splitlines() == ["---", *lines, "pipeline_tag: text-to-audio", "tags: [music, lora]", "---"]


def test_the_hub_accepts_our_headers():
    cards = require("huggingface_hub")
    for spec in SPECS:
        header = card_header(pipeline_tag=spec.pipeline_tag, tags=("music",), base="owner/name@v2", licence="mit")
        data = cards.ModelCard(header + "text").data.to_dict()
        assert data == {
            "base_model": "owner/name",
            "license": "mit",
            "pipeline_tag": spec.pipeline_tag,
            "tags": ["music"],
        }


def test_the_card_of_another_tool_keeps_its_text_and_loses_the_path_of_its_base():
    card = (
        "---\nbase_model: /home/me/models/gpt2\nlibrary_name: peft\n"
        "tags:\n- base_model:adapter:/home/me/models/gpt2\n- lora\n---\n\n# Mine\n---\nmore\n"
    )
    found = complete_card(card, **WORDS)
    assert found == (
        "---\nlicense: other\npipeline_tag: text-to-audio\nlibrary_name: peft\ntags:\n- lora\n---\n"
        "\n# Mine\n---\nmore\n"
    )
    assert card_body(found) == "\n# Mine\n---\nmore\n"
    assert complete_card("---\nlicense: mit\n---\nx", **WORDS, base="owner/name").startswith(
        "---\nbase_model: owner/name\nlicense: mit\n"
    )
    assert complete_card("plain", **WORDS).endswith("---\n\nplain")
