"""generate for the audio family: lengths, seeds, styles, repainting, files."""

from __future__ import annotations

import numpy as np
import pytest
import tolerance
import toy_audio
from click.testing import CliRunner
from refusal import refused
from require import require
from safetensors.numpy import load_file, save_file

from musiclora.audio.diffrhythm.conditions import DiffRhythmConditions
from musiclora.audio.diffrhythm.generate import generate_recordings
from musiclora.audio.diffrhythm.sampling import FlowRequest, sample_latents
from musiclora.audio.files import writing as audio_files
from musiclora.audio.init_audio import Reference
from musiclora.backends.base import FAMILIES
from musiclora.backends.registry import BACKENDS, get_backend
from musiclora.cli import main
from musiclora.convert.files.safetensors_file import write_safetensors
from musiclora.errors import ConfigError, DataError, MusicLoraError
from musiclora.jobs import generate

soundfile = require("soundfile")
NO_CONDITIONS = DiffRhythmConditions()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_audio.write_base(tmp_path_factory.mktemp("audio") / "tiny")


@pytest.fixture(scope="module")
def model(base, backend_name):
    return get_backend(backend_name).load(FAMILIES["audio"], base)


def style(seed=0):
    return np.random.default_rng(seed).standard_normal(512).astype(np.float32)


def make(base, backend_name, output, **options):
    request = FlowRequest(**{"steps": 4, "seconds": 1.0, **options})
    return generate_recordings(output, request, model=str(base), backend=backend_name)


@pytest.mark.parametrize(("ending", "kind"), [("wav", "WAV"), ("flac", "FLAC")])
def test_a_file_has_16_bits_the_codecs_rate_and_a_full_peak(base, backend_name, tmp_path, ending, kind):
    (file,) = make(base, backend_name, tmp_path / f"new.{ending}").files
    info = soundfile.info(file.path)
    assert (info.format, info.subtype, info.samplerate, info.channels) == (kind, "PCM_16", 44100, 2)
    assert info.frames == int(toy_audio.PACE) * 2048
    audio, _ = soundfile.read(file.path, dtype="int16")
    assert np.abs(audio.astype(int)).max() == 32767


def test_without_seconds_the_piece_is_as_long_as_the_model_holds(base, backend_name, tmp_path):
    (file,) = make(base, backend_name, tmp_path / "new.wav", seconds=None).files
    assert soundfile.info(file.path).frames == 40 * 2048


def velocity_tolerance(values):
    """The toy's longest path has about 3,000 roundings, which the guidance of the requests multiplies by up to nine."""
    return 9 * tolerance.rounding(3000, max(1.0, np.abs(values).max()))


def test_piece_three_of_a_seed_is_the_same_whatever_the_count_is(model, monkeypatch):
    three = sample_latents(model, FlowRequest(steps=4, count=3), 20, NO_CONDITIONS)
    monkeypatch.setattr("musiclora.audio.flow_sampling.PASS_FRAMES", 40)  # two rows a pass
    apart = sample_latents(model, FlowRequest(steps=4, count=5), 20, NO_CONDITIONS)
    for one, other in zip(three, apart, strict=False):
        # Rows in batches of another size: sums in another order, in three updates of a third each.
        tolerance.assert_near(one, other, velocity_tolerance(other))
    assert np.abs(apart[0] - apart[1]).max() > 0.1


def test_the_seed_the_style_and_the_guidance_decide(model):
    def latents(style=None, negative=None, **options):
        request = FlowRequest(**{"steps": 4, **options})
        return sample_latents(model, request, 20, DiffRhythmConditions(style, negative))[0]

    plain = latents()
    assert np.array_equal(plain, latents())
    styled = latents(style=style())
    for other in (latents(seed=43), styled, latents(negative=style()), latents(style=style(), guidance=1.0)):
        assert np.abs(plain - other).max() > 1e-4
    assert np.abs(styled - latents(style=style(), guidance=1.0)).max() > 1e-4
    assert np.array_equal(latents(guidance=0.0, negative=style()), latents(guidance=0.0))


def test_where_there_is_no_condition_the_second_pass_is_spared_and_nothing_changes(model):
    calls = []
    passed = _Spy(model, calls)
    with_guidance, without = (
        sample_latents(passed, FlowRequest(steps=4, guidance=g), 20, NO_CONDITIONS) for g in (4, 0)
    )
    assert calls == [0.0] * 6
    # What was spared: the guided velocity of equal passes is the same one.
    prepared = model.prepare(NO_CONDITIONS.conditioning(model, 1, 20, None))
    guided, plain = (model.velocity(without[0][None], 0.5, prepared, guidance) for guidance in (4.0, 0.0))
    tolerance.assert_near(guided, plain, velocity_tolerance(plain))
    assert np.array_equal(with_guidance[0], without[0])


class _Spy:
    """A model that notes the guidance it is asked for."""

    def __init__(self, model, calls):
        self._model, self._calls = model, calls
        self.latent_channels, self.has_duration, self.max_frames = (
            model.latent_channels,
            model.has_duration,
            model.max_frames,
        )
        self.prepare = model.prepare

    def velocity(self, x, time, prepared, guidance):
        self._calls.append(guidance)
        return self._model.velocity(x, time, prepared, guidance)


def test_the_same_seed_gives_the_same_latents_on_both_backends(both_backends, base):
    request = FlowRequest(steps=16, guidance=4.0)
    made = []
    for name in BACKENDS:
        loaded = get_backend(name).load(FAMILIES["audio"], base)
        made.append(sample_latents(loaded, request, 30, DiffRhythmConditions(style(), style(1)))[0])
    assert np.abs(made[0]).max() > 1
    np.testing.assert_allclose(*made, atol=1e-3, rtol=0)  # what the issue asks for


def test_known_frames_are_kept_and_the_others_are_made_anew(model):
    known = np.random.default_rng(3).standard_normal((20, toy_audio.CODEC.latent_dim)).astype(np.float32)
    mask = np.zeros(20, bool)
    mask[8:14] = True
    (found,) = sample_latents(model, FlowRequest(steps=4), 20, NO_CONDITIONS, Reference(known, mask))
    assert np.array_equal(found[~mask], known[~mask])
    assert np.abs(found[mask] - known[mask]).min(1).max() > 0
    # What is known is shown to the network, what is to be made is not.
    cond = NO_CONDITIONS.conditioning(model, 2, 20, Reference(known, mask))["cond"]
    assert np.array_equal(cond[1][~mask], known[~mask])
    assert not cond[:, mask].any()
    (other,) = sample_latents(model, FlowRequest(steps=4), 20, NO_CONDITIONS, Reference(known[::-1].copy(), mask))
    assert np.abs(found[mask] - other[mask]).max() > 1e-4


def test_a_recording_is_repainted_and_its_rest_kept(base, backend_name, tmp_path):
    toy_audio.write_recordings(tmp_path / "in", 1, 1.5)
    source = tmp_path / "in" / "tone-0.wav"
    options = {"init_audio": source, "repaint": ((0.5, 0.9),), "seconds": None, "guidance": 0.0}
    first, second = (
        make(base, backend_name, tmp_path / f"{seed}.wav", seed=seed, **options).files[0] for seed in (1, 2)
    )
    assert first.seconds == pytest.approx(1.5, abs=1 / toy_audio.PACE)
    a, b = (soundfile.read(f.path, dtype="int16")[0] for f in (first, second))
    assert not np.array_equal(a, b)
    original = soundfile.read(source, dtype="int16")[0]
    start, end = (int(at * toy_audio.PACE) * 2048 for at in (0.5, 0.9))
    for piece in (a, b):
        assert np.array_equal(piece[:start], original[:start])
        assert np.array_equal(piece[end:], original[end : len(piece)])
        assert not np.array_equal(piece[start:end], original[start:end])


def test_a_recording_is_continued(base, backend_name, tmp_path):
    toy_audio.write_recordings(tmp_path / "in", 1, 1.0)
    source = tmp_path / "in" / "tone-0.wav"
    (file,) = make(base, backend_name, tmp_path / "on.wav", init_audio=source, seconds=1.6).files
    assert file.seconds == pytest.approx(1.6, abs=1 / toy_audio.PACE)
    found, original = (soundfile.read(path, dtype="int16")[0] for path in (file.path, source))
    kept = len(original) // 2048 * 2048 - 1024
    assert np.array_equal(found[:kept], original[:kept])
    with pytest.raises(ConfigError, match="nothing to continue"):
        make(base, backend_name, tmp_path / "no.wav", init_audio=source, seconds=0.8)
    assert not (tmp_path / "no.wav").exists()


def test_several_pieces_and_the_base_beside_them(base, backend_name, tmp_path):
    made = make(base, backend_name, tmp_path / "new", count=2)
    assert [f.path.name for f in made.files] == ["new-001.wav", "new-002.wav"]
    assert [f.kind for f in made.files] == ["base", "base"]
    assert any("zeros" in note and "negative" in note for note in made.notes)
    with pytest.raises(ConfigError, match="--compare"):
        generate(tmp_path / "x.wav", str(base), backend=backend_name, compare=True, steps=2)


def test_a_style_file_is_used_and_one_of_the_wrong_width_is_refused(base, backend_name, tmp_path):
    write_safetensors(tmp_path / "style.safetensors", {"style": style()})
    made = make(base, backend_name, tmp_path / "new.wav", style=str(tmp_path / "style.safetensors"))
    plain = make(base, backend_name, tmp_path / "plain.wav")
    assert made.files[0].path.read_bytes() != plain.files[0].path.read_bytes()
    write_safetensors(tmp_path / "narrow.safetensors", {"style": style()[:100]})
    with pytest.raises(MusicLoraError, match="512"):
        make(base, backend_name, tmp_path / "no.wav", negative_style=tmp_path / "narrow.safetensors")
    with pytest.raises(ConfigError, match="--style adapter"):
        make(base, backend_name, tmp_path / "no.wav", style="adapter")
    assert not (tmp_path / "no.wav").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seconds": 99.0}, "--seconds is 99.*at most 40 frames"),
        ({"seconds": 0.1}, "--seconds is 0.1"),
        ({"seconds": -1.0}, "--seconds is -1"),
        ({"steps": 1}, "--steps is 1"),
        ({"guidance": -0.5}, "--guidance is -0.5"),
        ({"seconds": float("nan")}, "--seconds is nan"),
        ({"repaint": ((0.0, 1.0),)}, "--repaint.*--init-audio"),
        ({"count": 0}, "--count is 0"),
    ],
    ids=["too long", "too short", "negative", "one step", "guidance", "nan", "repaint alone", "none"],
)
def test_options_out_of_range_are_refused_by_name(base, any_backend, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        make(base, any_backend, tmp_path / "new.wav", **options)
    assert not list(tmp_path.iterdir())


def test_an_ending_that_is_no_sound_is_refused_and_so_are_options_of_the_other_family(base, any_backend, tmp_path):
    with pytest.raises(ConfigError, match=r"new.mid.*\.wav or \.flac"):
        make(base, any_backend, tmp_path / "new.mid")
    with pytest.raises(ConfigError, match=r"--top-k, |--temperature, --top-k"):
        generate(tmp_path / "x.wav", str(base), backend=any_backend, top_k=3, temperature=1.0)


def test_options_of_the_audio_family_are_refused_for_a_symbolic_model(tiny_base, any_backend, tmp_path):
    with pytest.raises(ConfigError, match=r"--seconds, --repaint: for models of the audio family only"):
        generate(tmp_path / "x.mid", str(tiny_base), backend=any_backend, seconds=3.0, repaint=((1.0, 2.0),))


def test_silence_stays_silence_and_is_not_divided_by_zero(tmp_path):
    audio, silent = audio_files.normalise_peak(np.zeros((2, 100), np.float32))
    assert silent
    assert not audio.any()
    audio_files.write_audio(tmp_path / "s.wav", audio, 44100)
    assert not soundfile.read(tmp_path / "s.wav", dtype="int16")[0].any()
    with pytest.raises(DataError, match="not finite"):
        audio_files.normalise_peak(np.full((2, 3), np.nan, np.float32))


def test_a_long_piece_is_decoded_in_chunks_that_change_nothing(base, backend_name, monkeypatch):
    codec = get_backend(backend_name).load_codec(base / "vae")
    latents = np.random.default_rng(0).standard_normal((60, toy_audio.CODEC.latent_dim)).astype(np.float32)
    whole = audio_files.decode_latents(codec, latents)
    monkeypatch.setattr(audio_files, "CHUNK_FRAMES", 40)
    # The toy's decoder reaches 11 frames at most, less than half the overlap; what is left is rounding.
    np.testing.assert_allclose(audio_files.decode_latents(codec, latents), whole, atol=1e-5 * np.abs(whole).max())


def test_values_that_are_not_finite_are_refused(model, monkeypatch):
    monkeypatch.setattr(model, "velocity", lambda x, time, prepared, guidance: x * np.nan)
    with pytest.raises(DataError, match="not finite"):
        sample_latents(model, FlowRequest(steps=3), 20, NO_CONDITIONS)


@pytest.mark.parametrize(
    ("file", "value", "words"),
    [
        ("model.safetensors", np.nan, "non-finite values; this checkpoint is damaged"),
        ("model.safetensors", 1e30, "the model made values that are not finite"),
        ("vae/model.safetensors", np.nan, "non-finite values; this checkpoint is damaged"),
        ("vae/model.safetensors", 1e38, "the codec made values that are not finite"),
    ],
    ids=["model nan", "model huge", "codec nan", "codec huge"],
)
def test_a_damaged_weight_is_one_line_and_nothing_is_written(backend_name, tmp_path, file, value, words):
    folder = toy_audio.write_base(tmp_path / "damaged")
    weights = load_file(folder / file)
    for name in ("transformer.norm_out.linear.weight", "transformer.proj_out.weight", "decoder.layers.0.weight"):
        if name in weights:
            weights[name][:] = value
    save_file(weights, folder / file)
    output = tmp_path / "new.wav"
    arguments = ["--model", folder, "--output", output, "--backend", backend_name, "--seconds", 1, "--steps", 3]
    refused(CliRunner().invoke(main, ["generate", *map(str, arguments)]), words)
    assert not output.exists()


def test_progress_counts_every_update_of_every_piece(model):
    seen = []
    request = FlowRequest(steps=5, count=3)
    sample_latents(model, request, 20, NO_CONDITIONS, None, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
