"""ACE-Step's folder as the shared audio code sees it: sizes, codec, facts, and conditions of another architecture."""

from __future__ import annotations

from pathlib import Path

import acestep_folder
import numpy as np
import pytest
from acestep_toys import SMALL

from musiclora.audio.acestep.architecture import ACESTEP, acestep_facts
from musiclora.audio.architecture import architecture_of
from musiclora.audio.model import codec_folder, frame_rate
from musiclora.backends.acestep_batches import check_batch
from musiclora.bundled import BUNDLED_MODELS
from musiclora.errors import ConfigError, DataError
from musiclora.families import ACESTEP as RECORD
from musiclora.families import spec_of_folder
from musiclora.models import find_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return acestep_folder.write_model(tmp_path_factory.mktemp("ace") / "model")


def test_a_model_folder_states_its_sizes_and_parts(folder: Path) -> None:
    assert spec_of_folder(folder) is RECORD
    assert architecture_of(folder) is ACESTEP
    shape = ACESTEP.read_shape(folder)
    assert (shape.channels, shape.max_frames, shape.condition_width) == (6, 15_000, 24)
    facts = acestep_facts(folder)
    assert (facts["kind"], facts["codec"], facts["text_encoder"], facts["bits"]) == (
        "turbo",
        "vae",
        "text_encoder",
        None,
    )
    assert codec_folder(find_model(str(folder)), None) == folder / "vae"
    assert frame_rate(find_model(str(folder)), None) == 25


def test_without_a_codec_the_frame_rate_is_the_architectures(tmp_path: Path) -> None:
    bare = find_model(str(acestep_folder.write_model(tmp_path / "bare", codec=False, text_encoder=False)))
    assert frame_rate(bare, None) == 25
    with pytest.raises(ConfigError, match=r"has no codec beside it \(vae/\); give --vae"):
        codec_folder(bare, None)


def test_the_probe_is_a_batch_of_the_model(folder: Path) -> None:
    check_batch(ACESTEP.probe(folder), acestep_folder.TURBO)


def test_a_style_of_diffrhythm_is_no_condition() -> None:
    with pytest.raises(DataError, match=r"song: holds a style, which is DiffRhythm's: encode the recordings"):
        ACESTEP.check_conditions({"style": np.zeros(512, np.float32)}, 40, SMALL.encoder.hidden, "song")


def test_a_symbolic_model_is_no_audio_model() -> None:
    with pytest.raises(ConfigError, match="is no audio model; it learns songs"):
        architecture_of(BUNDLED_MODELS["bundled"])
