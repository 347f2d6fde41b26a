"""generate for ACE-Step: words, schedules, lengths, adapters and their conditions, repainting, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import acestep_folder
import numpy as np
import pytest
from acestep_folder import BASE, TURBO
from require import require

from musiclora.audio.acestep import generate as generation
from musiclora.audio.acestep.sampling import Schedule
from musiclora.errors import ConfigError
from musiclora.jobs import generate

soundfile = require("soundfile")
HOP, SECONDS = 1920, 0.8


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return acestep_folder.write_model(tmp_path_factory.mktemp("ace") / "turbo")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return acestep_folder.write_model(tmp_path_factory.mktemp("ace") / "base", BASE)


@pytest.fixture(scope="module")
def wordless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return acestep_folder.write_model(tmp_path_factory.mktemp("ace") / "wordless", text_encoder=False)


def make(model: Path, backend: str, output: Path, *adapters: str, compare: bool = False, **options: Any) -> Any:
    given: dict[str, Any] = {"seconds": SECONDS, "caption": "slow tango", **options}
    return generate(output, str(model), adapters, backend, compare=compare, **given)


def samples(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="int16")[0]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Schedule, np.ndarray | None, int]]:
    """Schedules, conditions and frames that pieces are sampled with."""
    seen, real = [], generation.sample_latents

    def spy(model: Any, schedule: Schedule, conditions: Any, *rest: Any) -> Any:
        seen.append((schedule, conditions.condition, len(conditions.context)))
        return real(model, schedule, conditions, *rest)

    monkeypatch.setattr(generation, "sample_latents", spy)
    return seen


def test_a_file_has_16_bits_the_codecs_rate_and_the_pipelines_peak(turbo, backend_name, tmp_path):
    (file,) = make(turbo, backend_name, tmp_path / "new.wav").files
    info = soundfile.info(file.path)
    assert (info.subtype, info.samplerate, info.channels, info.frames) == ("PCM_16", 48000, 2, 20 * HOP)
    assert np.abs(samples(file.path).astype(int)).max() == int(10 ** (-1 / 20) * 32767)
    assert file.line() == f"{file.path}: 0.8 s, base"


def test_seed_words_and_adapter_decide_what_comes_out(turbo, backend_name, tmp_path):
    adapter = acestep_folder.write_adapter(tmp_path / "adapter")
    plain = samples(make(turbo, backend_name, tmp_path / "plain.wav").files[0].path)
    again = samples(make(turbo, backend_name, tmp_path / "again.wav").files[0].path)
    assert np.array_equal(plain, again)
    changes: list[dict[str, Any]] = [{"seed": 7}, {"caption": "fast waltz"}, {"lyrics": "la la"}, {"bpm": 90}]
    others = [make(turbo, backend_name, tmp_path / f"{i}.wav", **change) for i, change in enumerate(changes)]
    others.append(make(turbo, backend_name, tmp_path / "adapted.wav", str(adapter)))
    others.append(make(turbo, backend_name, tmp_path / "weaker.wav", f"{adapter}:0.5"))
    found = [plain, *(samples(made.files[0].path) for made in others)]
    for i, one in enumerate(found):
        assert all(not np.array_equal(one, other) for other in found[:i]), i


def test_turbo_and_base_have_their_own_schedules_and_options_change_them(turbo, base, any_backend, tmp_path, calls):
    make(turbo, any_backend, tmp_path / "a.wav")
    made = make(turbo, any_backend, tmp_path / "b.wav", guidance=7.0, shift=1.0, steps=4)
    make(base, any_backend, tmp_path / "c.wav")
    make(base, any_backend, tmp_path / "d.wav", guidance=3.0, shift=2.0, steps=6)
    assert [schedule for schedule, _, _ in calls] == [
        Schedule(8, 3.0, 1.0),
        Schedule(4, 1.0, 1.0),
        Schedule(50, 1.0, 7.0),
        Schedule(6, 2.0, 3.0),
    ]
    assert "--guidance 7 is ignored: turbo was trained to need none" in made.notes


def test_lengths_are_thirty_seconds_or_what_is_asked_for(turbo, any_backend, tmp_path, calls):
    make(turbo, any_backend, tmp_path / "a.wav", seconds=None, steps=1)
    make(turbo, any_backend, tmp_path / "b.wav", seconds=1.03, steps=1)
    assert [frames for _, _, frames in calls] == [750, 26]


def test_several_pieces_and_the_bases_versions_come_from_one_seed(turbo, backend_name, tmp_path):
    adapter = acestep_folder.write_adapter(tmp_path / "adapter")
    made = make(turbo, backend_name, tmp_path / "new", str(adapter), compare=True, count=2)
    assert [f.path.name for f in made.files] == ["new-001.wav", "new-002.wav", "new-001-base.wav", "new-002-base.wav"]
    assert [f.kind for f in made.files] == ["adapted", "adapted", "base", "base"]
    alone = make(turbo, backend_name, tmp_path / "alone.wav")
    # The same piece in a batch of one and of two: sums in another order, and steps of 16 bits.
    first, second = samples(made.files[2].path).astype(int), samples(alone.files[0].path).astype(int)
    assert np.abs(first - second).max() <= 30


def test_an_adapters_trained_condition_stands_where_no_words_are_given(turbo, wordless, any_backend, tmp_path, calls):
    adapter = acestep_folder.write_adapter(tmp_path / "adapter", rows=3)
    for name, model in (("a", turbo), ("b", wordless)):
        made = make(model, any_backend, tmp_path / f"{name}.wav", str(adapter), caption=None, compare=True)
        assert "the condition is the one that was trained with the adapter" in made.notes
    make(turbo, any_backend, tmp_path / "c.wav", str(adapter), compare=True)
    style = acestep_folder.tensor("style", (3, TURBO.encoder.hidden), TURBO.encoder.hidden**0.5)
    conditions = [condition for _, condition, _ in calls]
    assert all(np.array_equal(conditions[i], style) for i in (0, 2))
    assert conditions[1] is None  # the base has no such condition; the null condition is used
    assert conditions[4] is not None
    assert not np.array_equal(conditions[4], style)
    assert np.array_equal(conditions[4], conditions[5])


def test_the_adapters_caption_is_used_unless_one_is_given(turbo, any_backend, tmp_path, calls):
    adapter = acestep_folder.write_adapter(tmp_path / "adapter", caption="slow tango")
    made = make(turbo, any_backend, tmp_path / "a.wav", str(adapter), caption=None)
    make(turbo, any_backend, tmp_path / "b.wav", str(adapter))
    empty = make(turbo, any_backend, tmp_path / "c.wav", caption=None)
    assert "the caption is the adapter's: slow tango" in made.notes
    assert any(note.startswith("no caption is given") for note in empty.notes)
    assert np.array_equal(calls[0][1], calls[1][1])
    assert not np.array_equal(calls[0][1], calls[2][1])


def test_a_model_without_text_encoder_says_what_it_needs(wordless, any_backend, tmp_path):
    adapter = acestep_folder.write_adapter(tmp_path / "adapter", rows=3)
    with pytest.raises(ConfigError, match=r"no text encoder, and no adapter with a trained .* put text_encoder/"):
        make(wordless, any_backend, tmp_path / "a.wav", caption=None)
    with pytest.raises(ConfigError, match=r"--caption, --bpm: .* no text encoder; put text_encoder/[^,]*$"):
        make(wordless, any_backend, tmp_path / "a.wav", bpm=90)
    with pytest.raises(ConfigError, match=r"--caption: .*or leave these options out: the adapter has a trained"):
        make(wordless, any_backend, tmp_path / "a.wav", str(adapter))
    assert not (tmp_path / "a.wav").exists()


def test_a_timbre_reference_changes_the_condition(turbo, any_backend, tmp_path, calls):
    soundfile.write(tmp_path / "voice.wav", acestep_folder.tone(2, 1), 48000)
    make(turbo, any_backend, tmp_path / "a.wav")
    make(turbo, any_backend, tmp_path / "b.wav", reference=tmp_path / "voice.wav")
    assert not np.array_equal(calls[0][1], calls[1][1])


def test_a_recording_is_repainted_and_its_rest_kept(turbo, backend_name, tmp_path):
    soundfile.write(tmp_path / "in.wav", acestep_folder.tone(1.6, 1), 48000)
    options = {"init_audio": tmp_path / "in.wav", "repaint": ((0.4, 0.8),), "seconds": None}
    (file,) = make(turbo, backend_name, tmp_path / "out.wav", **options).files
    original, found = samples(tmp_path / "in.wav"), samples(file.path)
    start, end = int(0.4 * 48000), int(0.8 * 48000)
    assert len(found) == 40 * HOP
    assert np.array_equal(found[:start], original[:start])
    assert np.array_equal(found[end:], original[end : len(found)])
    assert not np.array_equal(found[start:end], original[start:end])


def test_a_recording_is_continued_by_thirty_seconds_or_to_the_length_asked_for(turbo, any_backend, tmp_path, calls):
    soundfile.write(tmp_path / "in.wav", acestep_folder.tone(1.6, 1), 48000)
    options = {"init_audio": tmp_path / "in.wav", "steps": 1}
    (file,) = make(turbo, any_backend, tmp_path / "a.wav", **options, seconds=2.0).files
    make(turbo, any_backend, tmp_path / "b.wav", **options, seconds=None)
    assert [frames for _, _, frames in calls] == [50, 40 + 750]
    kept = 40 * HOP - 1024
    assert np.array_equal(samples(file.path)[:kept], samples(tmp_path / "in.wav")[:kept])


def test_progress_counts_every_step_of_every_piece(turbo, any_backend, tmp_path):
    from musiclora.progress import Reporter

    seen = []

    class Spy(Reporter):
        def task(self, text: str) -> Any:
            import contextlib

            @contextlib.contextmanager
            def running() -> Any:
                yield lambda done, total: seen.append((text, done, total))

            return running()

    generate(tmp_path / "a.wav", str(turbo), (), any_backend, reporter=Spy(), seconds=SECONDS, caption="x", count=2)
    assert ("generating (base)", 16, 16) in seen
    assert ("decoding", 2, 2) in seen
