"""Guidance of a model: its own unless one is given."""

from __future__ import annotations

import json

import pytest
import toy_audio
from click.testing import CliRunner

from musiclora.audio.diffrhythm import generate as generation
from musiclora.audio.diffrhythm.generate import generate_recordings
from musiclora.audio.diffrhythm.sampling import FlowRequest
from musiclora.audio.model import own_guidance
from musiclora.cli import main
from musiclora.models import find_model


def make(base, backend_name, output, **options):
    request = FlowRequest(**{"steps": 4, "seconds": 1.0, **options})
    return generate_recordings(output, request, model=str(base), backend=backend_name)


@pytest.mark.parametrize(
    ("stated", "expected"), [(None, 4.0), (0.0, 0.0), (1.5, 1.5), ("much", 4.0), (-1, 4.0)], ids=str
)
def test_guidance_is_the_models_own_unless_one_is_given(tmp_path, any_backend, monkeypatch, stated, expected):
    folder = toy_audio.write_base(tmp_path / "tiny")
    if stated is not None:
        (folder / "musiclora.json").write_text(json.dumps({"guidance": stated}))
    used = []
    real = generation.sample_latents
    monkeypatch.setattr(
        generation, "sample_latents", lambda m, request, *a: used.append(request.strength) or real(m, request, *a)
    )
    make(folder, any_backend, tmp_path / "a.wav", steps=2)
    make(folder, any_backend, tmp_path / "b.wav", steps=2, guidance=2.0)
    assert used == [expected, 2.0]


def test_the_bundled_audio_model_states_no_guidance_and_a_copy_keeps_it(tmp_path, any_backend):
    assert own_guidance(find_model("bundled-audio").path) == 0.0
    folder = toy_audio.write_base(tmp_path / "tiny")
    (folder / "musiclora.json").write_text(json.dumps({"guidance": 0.5}))
    done = CliRunner().invoke(main, ["convert", "model", str(folder), str(tmp_path / "copy"), "--to", "mlx"])
    assert done.exit_code == 0, done.output
    assert own_guidance(tmp_path / "copy") == 0.5
