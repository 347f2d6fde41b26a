"""Report of a training run: one HTML file that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from musiclora.errors import option_name
from musiclora.evaluation.scores import count_pieces
from musiclora.evaluation.style.section import style_section
from musiclora.evaluation.verdict import Verdict
from musiclora.reporting.html import (
    command_boxes,
    number_table,
    paragraphs,
    section,
    sentence,
    soft_paragraph,
    text_table,
    verdict_box,
    write_page,
)
from musiclora.reporting.loss_plot import LOSS_PLOT
from musiclora.reporting.run_sections import Fact, fact_list, loss_section, run_facts, update_section
from musiclora.reporting.samples import sample_section
from musiclora.training.config import TrainConfig
from musiclora.training.fold_summary import FoldSummary
from musiclora.training.plan import TrainingPlan
from musiclora.training.result import TrainResult
from musiclora.training.run_folder import Run

_MOST_SAMPLES, _MOST_LOOKS = 4, 20  # shown in the page
_COLUMNS = {"bits_per_note": "bits a note"}  # heading of a score's value where it is not the attribute's name


def write_run_report(
    result: TrainResult,
    config: TrainConfig,
    plan: TrainingPlan,
    row_length: int,
    songs: tuple[int, int],
    data: Iterable[str],
    copied_spans: Callable[[Path], Sequence[tuple[float, float]]] = lambda sample: (),
) -> None:
    """Write `report.html` into the run folder, beside its loss.png; it appears whole or not at all.

    Args:
        result: of the run.
        config: the options.
        plan: values of the options that were not given.
        row_length: longest row in units: --max-seq-len, at most the model's limit.
        songs: numbers of training and held-out songs, or recordings.
        data: lines that describe them.
        copied_spans: finds the passages of a sample that copy training songs.
    """
    shown = _shown_samples(result.run_dir / "samples")
    metrics = Run(result.run_dir).read_metrics()
    steps, seconds = result.progress.step, result.progress.seconds
    verdict = result.verdict or Verdict("flat", "a new base", "all of its weights were trained")
    parts = [
        verdict_box(verdict.style, sentence(verdict.headline), f"{sentence(verdict.words)}."),
        fact_list([*_score_facts(result), *_parameter_facts(result), *run_facts(steps, seconds, result.update)]),
        section("What the verdict rests on", _evidence(result, songs)),
        loss_section(metrics, pieces=result.pieces, picture=(result.run_dir / LOSS_PLOT).read_bytes()),
        style_section(result.style),
        _copying_section(result, metrics),
        sample_section(shown, {path: copied_spans(path) for path in shown}),
        update_section(result.update),
        section(sentence(result.pieces), paragraphs(sentence(line) for line in data)),
        section("Plan", paragraphs(sentence(line.strip().removeprefix("plan: ")) for line in plan.lines())),
        section("Settings", text_table({option_name(k): v for k, v in _settings(config, plan, row_length).items()})),
        section("Go on", command_boxes(_commands(result))),
    ]
    base = Path(config.model).name if Path(config.model).is_dir() else config.model
    what = "trained on" if result.new_base else "adapted to"
    subtitle = f"{base}, {what} {count_pieces(songs[0], result.pieces)} on {result.backend}"
    write_page(result.report, f"Training run {result.run_dir.absolute().name}", subtitle, parts)


def _score_facts(result: TrainResult) -> list[Fact]:
    """Return the held-out scores before and after, the loss first."""
    if not (result.before and result.after):
        return []
    before, after = asdict(result.before), asdict(result.after)
    shown = [name for name in ("loss", "bits_per_note", "perplexity") if name in before]
    return [(f"held-out {_heading(name)}", f"{_number(before[name])} → {_number(after[name])}", "") for name in shown]


def _parameter_facts(result: TrainResult) -> list[Fact]:
    trained, every = result.parameters
    return [("trained parameters", f"{trained:,}", f"{trained / every:.3%} of the model")] if every else []


def _number(value: float) -> str:
    """Format a count, or a measure with three decimals, from 100 on with one."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{3 if abs(value) < 100 else 1}f}"


def _heading(name: str) -> str:
    return _COLUMNS.get(name, name.replace("_", " "))


def _evidence(result: TrainResult, songs: tuple[int, int]) -> str:
    """Return held-out scores, gain with interval, and the base's loss next to a guess's."""
    content = ""
    if result.before and result.after:
        before, after = asdict(result.before), asdict(result.after)
        rows = [
            (name, [_number(value) for value in score.values()])
            for name, score in (("base", before), ("trained" if result.new_base else "with the adapter", after))
        ]
        content = number_table(("", *map(_heading, before)), rows)
    facts = [f"{count_pieces(songs[0], result.pieces)} trained on, {songs[1]:,} held out."]
    if result.gain:
        facts.append(f"{sentence(result.gain.describe())}.")
    if check := result.check:
        than = "better than" if check.is_known else "no better than"
        known = (
            f"before training the base's loss over all {result.pieces} scored was {check.loss:.3f}: {than} a guess, "
            f"which has {check.guess:.3f}"
        )
        facts.append(f"{sentence(check.warning or known)}.")
    if folds := result.folds:
        content = folds_table(folds)
        facts += [f"{sentence(line)}." for line in (folds.describe(), folds.gain.describe())]
    facts += [f"{sentence(loss.describe(name))}." for name, loss in result.further.items()]
    return content + soft_paragraph(" ".join(facts))


def _copying_section(result: TrainResult, metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return what samples copy of the training songs, at the end and by step."""
    if result.copies is None:
        return ""
    looks = [row for row in metrics if "samples" in row]
    has_gap = bool(looks) and all("loss_gap" in row for row in looks)
    rows = [
        (
            f"step {row['step']:.0f}",
            [
                f"{row['samples_copied']:.0f} of {row['samples']:.0f}",
                *(f"{row[key]:{form}}" for _, key, form in result.copies.columns),
                *([f"{row['loss_gap']:.3f}"] if has_gap else []),
            ],
        )
        for row in looks[-_MOST_LOOKS:]
    ]
    headings = ["", "copying", *(heading for heading, _, _ in result.copies.columns)]
    headings += ["held-out loss less training loss"] if has_gap else []
    table = number_table(headings, rows) if rows else ""
    return section("Does it copy?", paragraphs([f"{sentence(result.copies.line())}."]) + table)


def _shown_samples(folder: Path) -> list[Path]:
    """List the base's sample and the last ones of the adapted model, in order of epochs."""
    found = sorted(path for path in folder.glob("*") if path.suffix in (".mid", ".wav"))
    base = [path for path in found if path.stem == "base"]
    epochs = sorted({path.stem for path in found if path.stem.startswith("epoch-")})
    last = epochs[-(_MOST_SAMPLES - bool(base)) :]
    return [*base, *(path for path in found if path.stem in last)]


def _settings(config: TrainConfig, plan: TrainingPlan, row_length: int) -> Mapping[str, object]:
    """Return the options that hold, without folders outside the run."""
    lora, defaults = config.lora(), config.training_defaults
    adapter: dict[str, object] = {} if config.trainable == "all" else {"lora_r": lora.rank, "lora_alpha": lora.alpha}
    adapter |= {"lora_dropout": lora.dropout, "target_modules": " ".join(lora.targets)} if adapter else {}
    kind = {"use_dora": config.use_dora, "use_rslora": config.use_rslora, "lora_plus_ratio": config.lora_plus_ratio}
    return {
        **adapter,
        **{name: value for name, value in kind.items() if value},
        "lr": config.lr if config.lr is not None else defaults.learning_rate,
        "lr_schedule": config.lr_schedule,
        "weight_decay": config.weight_decay,
        "batch_size": plan.batch_size,
        "grad_accum_steps": plan.accumulate,
        "max_seq_len": row_length,
        "val_split": config.val_split,
        **({"transpose": config.transpose} if config.transpose else {}),
        **({"anticipation": config.anticipation} if config.anticipation is not None else {}),
        **({"max_steps": config.max_steps} if config.max_steps else {}),
        "seed": config.seed,
    }


def _commands(result: TrainResult) -> list[str]:
    if result.new_base:
        return [f"musiclora generate --model {result.run_dir / 'model-best'} --output {result.example}"]
    adapter = result.run_dir / "adapter-best"
    return [
        f"musiclora generate --adapter-dir {adapter} --output {result.example} --compare",
        f"musiclora evaluate --adapter-dir {adapter} --data-dir OTHER_MUSIC",
    ]


def folds_table(summary: FoldSummary) -> str:
    """Return the table of a cross-validation: losses, gain and steps of each fold."""
    headings = ("", "trained on", "loss of the base", "with the adapter", f"gain, {summary.folds[0].unit}", "best step")
    rows = [
        (f"fold {i}", [_number(v) for v in (f.trained_on, f.base, f.best, f.gain, f.best_step)])
        for i, f in enumerate(summary.folds, 1)
    ]
    return number_table(headings, rows)
