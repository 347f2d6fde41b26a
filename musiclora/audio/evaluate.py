"""Audio part of `musiclora evaluate --data-dir`: held-out loss of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from musiclora.adapters import training_songs
from musiclora.audio.architecture import architecture_of
from musiclora.audio.base_check import compare_with_baseline
from musiclora.audio.latents.load import load_recordings
from musiclora.audio.model import open_flow
from musiclora.audio.split import recording_labels
from musiclora.audio.windows import PASS_FRAMES, fixed_batches
from musiclora.convert.files.temporary import scratch_folder
from musiclora.errors import ConfigError
from musiclora.evaluation.scores import flow_gain, flow_score, pick, song_losses, total_loss
from musiclora.evaluation.verdict import Evaluation
from musiclora.progress import Reporter
from musiclora.training.config import TrainConfig


def evaluate_recordings(
    data_dir: Path,
    model: str | None = None,
    adapters: Sequence[str] = (),
    backend: str = "auto",
    *,
    vae: str | Path | None = None,
    max_seq_len: int | None = None,
    allow_base_mismatch: bool = False,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Score every recording of a folder at the fixed windows, times and noise of training's held-out scores.

    Recordings without their own style are scored with the adapters' style, and without one for the base.

    Raises:
        MusicLoraError: the folder, the model or an adapter do not fit.
    """
    out = reporter or Reporter()
    if max_seq_len is not None and max_seq_len < 8:
        raise ConfigError(f"--max-seq-len is {max_seq_len}; it must be at least 8")
    opened = open_flow(model, adapters, backend, with_codec=False, allow_base_mismatch=allow_base_mismatch)
    flow = opened.model
    with scratch_folder() as scratch:
        cache = scratch / "latents"
        found = load_recordings(data_dir, opened.base, vae, opened.backend, cache, out)
    length = min(max_seq_len or TrainConfig.max_seq_len, flow.max_frames)
    form = architecture_of(opened.base.path).scoring_form(opened.base.path, length)
    batches = [fixed_batches([r], form, max(1, PASS_FRAMES // length)) for r in found.recordings]
    flow.set_style(opened.style)
    with out.task("scoring") as update:
        sums = song_losses(flow, batches, update)
    score, base, difference, before = flow_score(total_loss(sums), flow.latent_channels), None, None, sums
    recordings, seen = recording_labels(found.recordings), training_songs(opened.adapters)
    known = {label for label, r in zip(recordings, found.recordings, strict=True) if r.fingerprint in seen}
    unseen = [i for i, label in enumerate(recordings) if label not in known]
    if opened.adapters:
        flow.set_adapter(False)
        # A style that was given, not trained, belongs to the recordings: the base is scored with it too.
        if all(a.record.get("style", "trained") == "trained" for a in opened.adapters):
            flow.set_style(None)
        with out.task("scoring the base") as update:
            before = song_losses(flow, batches, update)
        judged = unseen or list(range(len(sums)))
        base = flow_score(total_loss(before), flow.latent_channels)
        difference = flow_gain(pick(before, judged), pick(sums, judged), pick(recordings, judged))
    every = [batch for song in batches for batch in song]
    check = compare_with_baseline(opened.base.name, total_loss(before).mean, every)
    remarks = [f"warning: {check.warning}"] if check.warning else []
    return Evaluation(
        opened.backend,
        score,
        base,
        difference,
        len(set(recordings)),
        (*opened.notes, *found.notes, *remarks),
        check,
        len(known),
        "recordings",
    )
