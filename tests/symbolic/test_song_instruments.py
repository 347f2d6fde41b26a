"""Instruments of the training songs: recorded by train, kept by generate, carried by blend, lifted by `any`."""

from __future__ import annotations

import json

import pytest
from bands import SIX, band
from click.testing import CliRunner
from refusal import refused
from symusic import Score

from musiclora.cli import main
from musiclora.convert.models.gpt2 import Gpt2Config, fresh_tensors, write_checkpoint
from musiclora.jobs import train
from musiclora.symbolic.decoding.songs_record import programs_in
from musiclora.symbolic.tokens.arrival import ArrivalTokenizer
from musiclora.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("plain_pictures")

PROGRAMS = [-1, 0, 33]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, any_backend):
    """Train two adapters for one step on a base that draws any instrument; return their folder."""
    root = tmp_path_factory.mktemp("runs")
    shape = Gpt2Config(55_028, 64, 8, 2, 2, 32, scale_attn_by_inverse_layer_idx=True)
    files = {"tokenizer.json": ArrivalTokenizer().to_json().encode()}
    write_checkpoint(root / "base", shape, fresh_tensors(shape, 3), "hf", extra_files=files)
    for name, programs in (("trio", PROGRAMS), ("duo", [25, 48])):
        (root / f"{name}-songs").mkdir()
        parts = [part for part in SIX if part[0] in programs]
        for bars in (2, 3):
            band(bars, parts).dump_midi(root / f"{name}-songs" / f"{bars}.mid")
        train(
            TrainConfig(
                data_dir=str(root / f"{name}-songs"),
                output_dir=str(root / name),
                model=str(root / "base"),
                backend=any_backend,
                max_steps=1,
                batch_size=1,
                val_split=0.0,
                num_workers=1,
                sample_every=1,
            )
        )
    return root


def generate(output, *arguments):
    return CliRunner().invoke(
        main, ["generate", "--output", str(output), "--max-new-tokens", "120", *map(str, arguments)]
    )


def record(folder):
    return json.loads((folder / "musiclora.json").read_text())


def test_a_piece_has_the_instruments_of_the_songs(runs, tmp_path):
    assert record(runs / "trio" / "adapter-best")["instruments"] == PROGRAMS
    adapter = ("--adapter-dir", runs / "trio" / "adapter-best")
    done = generate(tmp_path / "own.mid", *adapter, "--compare")
    assert done.exit_code == 0, done.stderr
    assert "those of the training songs (Drums, Acoustic Grand Piano, Electric Bass (finger))" in done.stderr
    for name in ("own.mid", "own-base.mid"):
        assert set(programs_in([Score(str(tmp_path / name))])) <= set(PROGRAMS)
    done = generate(tmp_path / "any.mid", *adapter, "--instruments", "any")
    assert "those of the training songs" not in done.stderr
    assert len(programs_in([Score(str(tmp_path / "any.mid"))])) > 5
    done = generate(tmp_path / "flute.mid", *adapter, "--instruments", "flute")
    assert programs_in([Score(str(tmp_path / "flute.mid"))]) == [73]


def test_samples_of_a_run_have_them_too(runs):
    samples = [Score(str(path)) for path in (runs / "trio" / "samples").glob("*.mid")]
    assert samples
    assert set(programs_in(samples)) <= set(PROGRAMS)


def test_two_adapters_have_the_instruments_of_both(runs, tmp_path):
    adapters = [str(runs / name / "adapter-best") for name in ("trio", "duo")]
    done = generate(tmp_path / "both.mid", *(part for a in adapters for part in ("--adapter-dir", a)))
    assert done.exit_code == 0, done.stderr
    assert set(programs_in([Score(str(tmp_path / "both.mid"))])) <= {*PROGRAMS, 25, 48}
    done = CliRunner().invoke(main, ["blend", *adapters, str(tmp_path / "blend")])
    assert done.exit_code == 0, done.stderr
    assert record(tmp_path / "blend")["instruments"] == [-1, 0, 25, 33, 48]


def test_the_instruments_of_a_prompt_go_on(runs, tmp_path):
    band(2, SIX[4:5]).dump_midi(tmp_path / "strings.mid")
    adapter = ("--adapter-dir", runs / "trio" / "adapter-best")
    assert generate(tmp_path / "new.mid", *adapter, "--prompt", tmp_path / "strings.mid").exit_code == 0
    assert set(programs_in([Score(str(tmp_path / "new.mid"))])) <= {*PROGRAMS, 48}


def test_a_misspelt_any_is_refused(runs, tmp_path):
    refused(generate(tmp_path / "new.mid", "--model", runs / "base", "--instruments", "anyone"), "--instruments")
