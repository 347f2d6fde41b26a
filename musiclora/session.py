"""One start of a training run: load, plan, train or resume, score, and write what the run is remembered by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musiclora.artifacts import Provenance, save_adapter, save_model, update_size, weight_norms
from musiclora.backends import lora_init
from musiclora.backends.base import OptimSpec
from musiclora.backends.registry import choose, get_backend
from musiclora.config import TrainConfig
from musiclora.convert.adapter import read_peft
from musiclora.convert.files import atomic_write, write_json
from musiclora.convert.fingerprint import checkpoint_fingerprint
from musiclora.convert.gpt2 import read_checkpoint
from musiclora.epochs import TransposedEpochs, keys_within
from musiclora.errors import TrainingError
from musiclora.evaluation import Score, gain, score
from musiclora.meta import run_meta
from musiclora.planning import Plan, batch_shape, make_plan, probe_seconds
from musiclora.prepare import (
    Prepared,
    add,
    batch_plan,
    check_base_loss,
    prepare,
    row_length,
    song_batches,
    song_losses,
)  # fmt: skip
from musiclora.results import Reporter, TrainResult
from musiclora.resume import PLANNED, check_same_run
from musiclora.runs import BEST, CONFIG, LAST, META, STATE, Progress, Run, check_writable
from musiclora.training import Epochs, Hooks, Loop, LoopOptions


class Session:
    """One start of a training run: everything loaded, nothing written yet."""

    def __init__(self, config: TrainConfig, reporter: Reporter | None = None, prepared: Prepared | None = None) -> None:
        self.config, self.out = config, reporter or Reporter()
        check_writable(Path(config.output_dir))
        self.backend_name = choose(config.backend)
        if prepared is None:
            with self.out.task("reading songs") as update:
                prepared = prepare(config, update)
        self.prepared = prepared
        self.run = Run(Path(config.output_dir))
        self.spec = config.lora()
        self.length = row_length(config, prepared.n_positions)
        songs = prepared.songs
        where = f"{self.backend_name} on {get_backend(self.backend_name).device()}"
        self.out.say(f"{len(songs.train)} pieces to train on, {len(songs.held_out)} held out; backend {where}")
        for text in songs.notes:
            self.out.say(text)
        self.tokenizer_json = prepared.tokenizer.to_json().encode()
        self.earlier: dict[str, Any] = {}  # settings of the run that is resumed

    # -- data -------------------------------------------------------------------------------------------------------

    def epoch_data(self, rows: int) -> Any:
        """Training batches of so many rows."""
        songs, tokenizer, c = self.prepared.songs.train, self.prepared.tokenizer, self.config
        if not c.transpose:
            return batch_plan(songs, tokenizer, self.length, rows, c.seed)
        return TransposedEpochs(
            [keys_within(tokenizer, piece, c.transpose) for piece in songs], tokenizer, self.length, rows, c.seed
        )

    def _plans(self) -> tuple[Plan, Epochs, list[Any]]:
        songs, tokenizer = self.prepared.songs, self.prepared.tokenizer
        single = self.epoch_data(1)
        widest = max(batch["tokens"].shape[1] for batch in single.batches(0))
        batch_size, accumulate = batch_shape(self.config, single.tokens_per_epoch, widest)
        data = self.epoch_data(batch_size)
        plan = make_plan(self.config, batch_size, accumulate, len(data.batches(0)), data.tokens_per_epoch)
        held_out = (
            list(batch_plan(songs.held_out, tokenizer, self.length, batch_size, 0).batches(0)) if songs.held_out else []
        )
        return plan, data, held_out

    # -- model ------------------------------------------------------------------------------------------------------

    def _load(self, path: Path) -> Any:
        backend = get_backend(self.backend_name)
        return backend.load(self.config.family_record, path, dtype=self.config.dtype)

    def _start(self) -> None:
        c, resuming = self.config, self.run.exists
        whole = c.trainable == "all"
        base = self.run.path / STATE / "model" if whole and resuming else self.prepared.base.path
        self.model = self._load(base)
        self.before = self._song_losses("scoring the base") if not (whole and resuming) else []
        self._check_base()
        self.norms: dict[str, float] = {}
        if not whole:
            shapes = self.model.linear_shapes()
            first = lora_init.initial(self.spec, shapes, c.seed)
            self.norms = weight_norms(
                self.model, [key.removesuffix(".lora_A.weight") for key in first if "lora_A" in key]
            )
            self.model.inject_adapter(self.spec, first)
        optim = OptimSpec(
            weight_decay=c.weight_decay,
            max_grad_norm=c.max_grad_norm,
            seed=c.seed,
            checkpointing=bool(c.grad_checkpointing),
        )
        self.training = self.model.start_training(optim, "all" if whole else "adapter")

    def _song_losses(self, title: str) -> list[Any]:
        songs = self.prepared.songs.held_out
        batches = song_batches(songs, self.prepared.tokenizer, self.length)
        with self.out.task(title) as update:
            return song_losses(self.model, batches, update)

    def _check_base(self) -> None:
        if not self.before:
            return
        loss = add(self.before).mean
        warning = check_base_loss(loss, self.model.vocab_size, self.prepared, self.config.allow_base_mismatch)
        if warning:
            self.out.say(f"warning: {warning}")

    # -- run --------------------------------------------------------------------------------------------------------

    def train(self, restart: bool = False) -> TrainResult:
        """Run or resume; see TrainResult.

        Raises:
            TrainingError: another process trains here, the folder holds another run, or the loss is not finite.
        """
        if restart and self.run.path.is_dir() and any(self.run.path.iterdir()):
            with self.run.locked():
                backup = self.run.set_aside()
            self.run = Run(Path(self.config.output_dir))
            self.out.say(f"the old run is kept in {backup}")
        self.run.recover()
        if not self.run.exists and self.run.path.is_dir() and any(p.name != ".lock" for p in self.run.path.iterdir()):
            raise TrainingError(f"{self.run.path}: is not empty and holds no run; choose another --output-dir")
        resuming = self.run.exists
        if resuming:
            songs = self.prepared.songs.fingerprint
            self.earlier = check_same_run(self.run, self.config, self.backend_name, songs)
            left_out = {k: self.earlier[k] for k in PLANNED if getattr(self.config, k) is None}
            self.config = dataclasses.replace(self.config, **left_out)  # as planned or given the first time
        plan, data, held_out = self._plans()
        self._start()
        with self.run.locked():
            try:
                return self._train(plan, data, held_out, resuming)
            except BaseException:
                self.run.remove_if_nothing_was_saved()
                raise

    def _train(self, plan: Plan, data: Epochs, held_out: list[Any], resuming: bool) -> TrainResult:
        progress = self.run.read_progress() if resuming else Progress()
        if resuming:
            self._restore()
        done = progress.epoch >= plan.epochs or bool(self.config.max_steps and progress.step >= self.config.max_steps)
        out_of_patience = progress.ended == "patience" and not self._goes_on(progress, plan)
        if resuming and (done or out_of_patience):
            self.out.say(
                f"{self.run.path}: this run is finished ({progress.ended or 'epochs'}); more --epochs continue it"
            )
            return self._finish(progress, plan, already=True)
        plan = self._measured(plan, data)
        for line in plan.lines():
            self.out.say(line)
        if resuming:
            self.out.say(f"going on after step {progress.step}")
            self.run.trim_metrics(progress.step)
            self._write_config(plan)
        else:
            progress.base = add(self.before).mean if self.before else None
            self._write_config(plan)
            self._write_meta(plan, Progress(), None, {})
            self.run.append_metrics(step=0, epoch=0, val_loss=progress.base)
        loop = Loop(
            self.model, self.training, data, held_out, self._loop_options(plan), self.run, progress, self._hooks(plan)
        )
        try:
            loop.go()
        except KeyboardInterrupt:
            self.out.say(f"saved after step {progress.step}; the same command goes on from there")
            raise
        return self._finish(progress, plan)

    def _goes_on(self, progress: Progress, plan: Plan) -> bool:
        """Whether a run that lost its patience is given more: then the waiting begins anew."""
        more = plan.epochs > self.earlier.get("epochs", plan.epochs) or self._patience > progress.waited
        progress.waited = 0 if more else progress.waited
        return more

    @property
    def _patience(self) -> int:
        c = self.config
        return c.patience if c.patience is not None else c.family_record.patience

    def _loop_options(self, plan: Plan) -> LoopOptions:
        c = self.config
        lr = c.lr if c.lr is not None else c.family_record.learning_rate
        return LoopOptions(
            plan.epochs, plan.accumulate, lr, c.lr_schedule, plan.warmup, plan.steps, self._patience, c.max_steps or 0
        )

    def _measured(self, plan: Plan, data: Epochs) -> Plan:
        batches = list(data.batches(0))[: plan.accumulate]
        self.out.say("probing the speed")
        seconds = probe_seconds(self.training, batches) * plan.steps
        memory = get_backend(self.backend_name).peak_memory()
        return dataclasses.replace(plan, seconds=seconds, memory=memory)

    def _restore(self) -> None:
        if self.config.trainable == "adapter":
            self.model.write_adapter(self.run.read_arrays("adapter"))
        self.training.write_state(self.run.read_arrays("optimizer"))

    def _hooks(self, plan: Plan) -> Hooks:
        whole = self.config.trainable == "all"
        return Hooks(
            save_best=lambda: self._save("model-best" if whole else BEST, plan),
            save_last=lambda: self._save("model-last" if whole else LAST, plan),
            arrays=dict if whole else self.model.read_adapter,
            fill_state=(lambda folder: self._save_model(folder / "model")) if whole else None,
            on_step=self.out.step,
            on_evaluation=self._say_evaluation,
            after_epoch=self._sample,
        )

    def _say_evaluation(self, progress: Progress, loss: float) -> None:
        best = " (best)" if progress.best_step == progress.step else f" (best {progress.best:.4f})"
        self.out.say(f"epoch {progress.epoch + 1}, step {progress.step}: held-out loss {loss:.4f}{best}")

    def _sample(self, epoch: int) -> None:
        every = self.config.sample_every
        if every and epoch % every == 0:
            from musiclora.generation import sample_to_folder

            sample_to_folder(
                self.model, self.prepared.tokenizer, self.run.path / "samples", f"epoch-{epoch:03d}", self.config.seed
            )

    # -- files ------------------------------------------------------------------------------------------------------

    def _save_model(self, path: Path) -> None:
        save_model(path, self.model, read_checkpoint(self.prepared.base.path).config, self.tokenizer_json)

    def _save(self, name: str, plan: Plan) -> None:
        if self.config.trainable == "all":
            self._save_model(self.run.path / name)
            return
        held_out = self.run.read_metrics()
        losses = [row["val_loss"] for row in held_out if "val_loss" in row]
        metrics = {"held_out_loss": losses[-1], "held_out_loss_of_base": losses[0]} if losses else {}
        origin = Provenance(
            self.prepared.base, self.config.family, self.backend_name, checkpoint_fingerprint(self.prepared.base.path),
            len(self.prepared.songs.train), self.tokenizer_json,
        )  # fmt: skip
        save_adapter(self.run.path / name, self.model, self.spec, origin, metrics)

    def _write_config(self, plan: Plan) -> None:
        import tomli_w

        resolved = dataclasses.replace(
            self.config, batch_size=plan.batch_size, grad_accum_steps=plan.accumulate, epochs=plan.epochs,
            warmup_steps=plan.warmup, backend=self.backend_name,
        ).as_toml()  # fmt: skip
        atomic_write(self.run.path / CONFIG, tomli_w.dumps({"train": resolved}))

    def _write_meta(
        self, plan: Plan, progress: Progress, scores: tuple[Score, Score] | None, update: Mapping[str, float]
    ) -> None:
        facts = {
            "base_model": self.config.model,
            "tokenizer": self.config.tokenizer or self.prepared.tokenizer.kind,
            "max_seq_len": self.length,
            "backend": self.backend_name,
            "songs": len(self.prepared.songs.train),
            "songs_held_out": len(self.prepared.songs.held_out),
            "data": self.prepared.songs.fingerprint,
        }
        write_json(self.run.path / META, run_meta(self.config, plan, progress, facts, scores, update))

    def _finish(self, progress: Progress, plan: Plan, already: bool = False) -> TrainResult:
        """Score the best arrays against the base and write what the run is remembered by."""
        update: dict[str, float] = {}
        if self.config.trainable == "adapter":
            best = read_peft(self.run.path / BEST).state
            self.model.write_adapter(best)
            update = update_size(self.norms, self.spec, best)
        elif self.prepared.songs.held_out:
            self.model = self._load(self.run.path / "model-best")
        scores: tuple[Score, Score] | None = None
        difference = None
        if self.before:
            notes = [p.notes for p in self.prepared.songs.held_out]
            sums = self._song_losses("scoring the result")
            scores = score(add(self.before), sum(notes)), score(add(sums), sum(notes))
            difference = gain(self.before, sums, notes)
        self._write_meta(plan, progress, scores, update)
        self._plot()
        before, after = scores or (None, None)
        return TrainResult(self.run.path, self.backend_name, before, after, difference, update, progress, already)

    def _plot(self) -> None:
        from musiclora.report import loss_plot

        loss_plot(self.run.path / "loss.png", self.run.read_metrics())
