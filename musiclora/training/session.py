"""One start of a training run: load, plan, train or resume, score, and write what the run is remembered by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musiclora.backends import lora_init
from musiclora.backends.base import OptimSpec
from musiclora.backends.registry import choose, get_backend, probe
from musiclora.convert.files.atomic import atomic_write, write_json
from musiclora.errors import TrainingError
from musiclora.evaluation.scores import song_losses, total_loss
from musiclora.families import family_of, refuse_foreign, resolve, spec_of_family
from musiclora.models import find_model
from musiclora.progress import Reporter
from musiclora.training.adapter_files import Provenance, save_adapter, update_size, weight_norms
from musiclora.training.config import TrainConfig
from musiclora.training.loop import Epochs, Hooks, Loop, LoopOptions
from musiclora.training.metadata import run_meta
from musiclora.training.plan import TrainingPlan, batch_shape, make_plan, probe_seconds
from musiclora.training.result import TrainResult
from musiclora.training.resume import PLANNED, check_same_run
from musiclora.training.run_folder import BEST, CONFIG, LAST, META, STATE, Run, RunProgress, check_writable
from musiclora.training.task import Scores, TrainingTask


class Session:
    """One start of a training run: everything loaded, nothing written yet."""

    def __init__(self, config: TrainConfig, reporter: Reporter | None = None, prepared: Any = None) -> None:
        """Read the data and check everything that can be checked before the model is loaded.

        Args:
            config: the options; its family is taken from the model.
            reporter: told what happens.
            prepared: data and base, of the type that the family's `material` returns; None reads them.
        """
        self.out = reporter or Reporter()
        check_writable(Path(config.output_dir))
        self.backend_name = choose(config.backend)
        family = prepared.family if prepared is not None else family_of(find_model(config.model).path)
        self.config = config = dataclasses.replace(config, family=family)
        if prepared is None:
            refuse_foreign(family, config.model, config.changed())
            prepared = resolve(spec_of_family(family).load_task)(config, self.out, self.backend_name)
        self.prepared = prepared
        self.material: TrainingTask = prepared
        self.run = Run(Path(config.output_dir))
        self.spec = config.lora()
        self.length = self.material.row_length(config)
        self.dtype = self.material.dtype(config, probe(self.backend_name)["device"])
        counts, *notes = self.material.lines()
        where = f"{self.backend_name} on {get_backend(self.backend_name).device()}"
        self.out.say(f"{counts}; backend {where}")
        for text in notes:
            self.out.say(text)
        self.earlier: dict[str, Any] = {}  # settings of the run that is resumed

    # -- data -------------------------------------------------------------------------------------------------------

    def epoch_data(self, rows: int) -> Any:
        """Training batches of so many rows."""
        return self.material.epochs(self.config, rows)

    def _plans(self) -> tuple[TrainingPlan, Epochs, Any]:
        pace, (units, longest) = self.material.pace, self.material.widest(self.config)
        batch_size, accumulate = batch_shape(self.config, units, longest, pace)
        data = self.epoch_data(batch_size)
        plan = make_plan(self.config, batch_size, accumulate, len(data.batches(0)), units, pace)
        return plan, data, self.material.held_out(self.config, batch_size)

    # -- model ------------------------------------------------------------------------------------------------------

    def _load(self, path: Path) -> Any:
        return get_backend(self.backend_name).load(self.config.family_record, path, dtype=self.dtype)

    def _start(self) -> None:
        c, resuming = self.config, self.run.exists
        whole = c.trainable == "all"
        self.model = self._load(self.run.path / STATE / "model" if whole and resuming else self.material.base.path)
        self.before = self._song_losses("scoring the base") if not (whole and resuming) else []
        if self.before:
            warning = self.material.check_base(self.model, total_loss(self.before).mean, c, self._load)
            if warning:
                self.out.say(f"warning: {warning}")
        self.norms: dict[str, float] = {}
        if not whole:
            first = lora_init.initial(self.spec, self.model.linear_shapes(), c.seed)
            modules = [key.removesuffix(".lora_A.weight") for key in first if "lora_A" in key]
            self.norms = weight_norms(self.model, modules)
            self.model.inject_adapter(self.spec, first)
            self.material.begin(self.model, self.run.read_arrays("adapter") if resuming else None)
        optim = OptimSpec(
            weight_decay=c.weight_decay,
            max_grad_norm=c.max_grad_norm,
            seed=c.seed,
            checkpointing=self.material.checkpointing(c),
        )
        self.training = self.model.start_training(optim, "all" if whole else "adapter")

    def _song_losses(self, title: str) -> list[Any]:
        batches = self.material.song_batches(self.config)
        with self.out.task(title) as update:
            return song_losses(self.model, batches, update)

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
            self._take_over()
        plan, data, held_out = self._plans()
        self._start()
        with self.run.locked():
            try:
                return self._train(plan, data, held_out, resuming)
            except BaseException:
                self.run.remove_if_nothing_was_saved()
                raise

    def _take_over(self) -> None:
        """Check that the folder holds this very run, and take what was planned or given the first time."""
        self.earlier = check_same_run(self.run, self.config, self.backend_name, self.material.fingerprint())
        left_out: dict[str, Any] = {k: self.earlier.get(k) for k in PLANNED if getattr(self.config, k) is None}
        self.config = dataclasses.replace(self.config, **left_out)
        self.dtype = self.config.dtype or self.dtype

    def _train(self, plan: TrainingPlan, data: Epochs, held_out: Any, resuming: bool) -> TrainResult:
        progress = self.run.read_progress() if resuming else RunProgress()
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
            progress.base = total_loss(self.before).mean if self.before else None
            self._write_config(plan)
            self._write_meta(plan, RunProgress(), None, {})
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

    def _goes_on(self, progress: RunProgress, plan: TrainingPlan) -> bool:
        """Whether a run that lost its patience is given more: then the waiting begins anew."""
        more = plan.epochs > self.earlier.get("epochs", plan.epochs) or self._patience > progress.waited
        progress.waited = 0 if more else progress.waited
        return more

    @property
    def _patience(self) -> int:
        c = self.config
        return c.patience if c.patience is not None else c.family_record.patience

    def _loop_options(self, plan: TrainingPlan) -> LoopOptions:
        c, pace = self.config, self.material.pace
        lr = c.lr if c.lr is not None else c.family_record.learning_rate
        return LoopOptions(
            plan.epochs,
            plan.accumulate,
            lr,
            c.lr_schedule,
            plan.warmup,
            plan.steps,
            self._patience,
            c.max_steps or 0,
            unit=pace.unit,
            values=pace.values,
        )

    def _measured(self, plan: TrainingPlan, data: Epochs) -> TrainingPlan:
        batches = list(data.batches(0)[: plan.accumulate])
        self.out.say("probing the speed")
        seconds = probe_seconds(self.training, batches) * plan.steps
        memory = get_backend(self.backend_name).peak_memory()
        return dataclasses.replace(plan, seconds=seconds, memory=memory)

    def _restore(self) -> None:
        if self.config.trainable == "adapter":
            self.material.restore(self.model, self.run.read_arrays("adapter"))
        self.training.write_state(self.run.read_arrays("optimizer"))

    def _hooks(self, plan: TrainingPlan) -> Hooks:
        whole = self.config.trainable == "all"
        return Hooks(
            save_best=lambda: self._save("model-best" if whole else BEST),
            save_last=lambda: self._save("model-last" if whole else LAST),
            arrays=dict if whole else lambda: self.material.arrays(self.model),
            fill_state=(lambda folder: self.material.save_model(folder / "model", self.model)) if whole else None,
            on_step=self.out.step,
            on_evaluation=self._say_evaluation,
            after_epoch=self._sample,
        )

    def _say_evaluation(self, progress: RunProgress, loss: float) -> None:
        best = " (best)" if progress.best_step == progress.step else f" (best {progress.best:.4f})"
        self.out.say(f"epoch {progress.epoch + 1}, step {progress.step}: held-out loss {loss:.4f}{best}")

    def _sample(self, epoch: int) -> None:
        every = self.config.sample_every
        if every and epoch % every == 0:
            self.material.sample(self.model, self.run.path / "samples", f"epoch-{epoch:03d}", self.config.seed)

    # -- files ------------------------------------------------------------------------------------------------------

    def _save(self, name: str) -> None:
        if self.config.trainable == "all":
            self.material.save_model(self.run.path / name, self.model)
            return
        losses = [row["val_loss"] for row in self.run.read_metrics() if "val_loss" in row]
        metrics = {"held_out_loss": losses[-1], "held_out_loss_of_base": losses[0]} if losses else {}
        origin = Provenance(
            self.material.base,
            self.config.family,
            self.backend_name,
            self.material.fingerprints(),
            self.material.counts()[0],
            self.material.files(self.model),
            self.material.form,
            self.material.record(),
        )
        save_adapter(self.run.path / name, self.model, self.spec, origin, metrics)

    def _write_config(self, plan: TrainingPlan) -> None:
        import tomli_w

        resolved = dataclasses.replace(
            self.config,
            batch_size=plan.batch_size,
            grad_accum_steps=plan.accumulate,
            epochs=plan.epochs,
            warmup_steps=plan.warmup,
            backend=self.backend_name,
            dtype=self.dtype,
        ).as_toml()
        atomic_write(self.run.path / CONFIG, tomli_w.dumps({"train": resolved}))

    def _write_meta(
        self, plan: TrainingPlan, progress: RunProgress, scores: Scores | None, update: Mapping[str, float]
    ) -> None:
        train, held_out = self.material.counts()
        facts = {
            "base_model": self.config.model,
            "family": self.config.family,
            "max_seq_len": self.length,
            "backend": self.backend_name,
            "dtype": self.dtype,
            "songs": train,
            "songs_held_out": held_out,
            "data": self.material.fingerprint(),
            **self.material.facts(self.config),
        }
        write_json(self.run.path / META, run_meta(self.config, plan, progress, facts, scores, update))

    def _finish(self, progress: RunProgress, plan: TrainingPlan, already: bool = False) -> TrainResult:
        """Score the best arrays against the base and write what the run is remembered by."""
        update: dict[str, float] = {}
        if self.config.trainable == "adapter":
            best = self.material.restore_best(self.model, self.run.path / BEST)
            update = update_size(self.norms, self.spec, best)
        elif self.material.counts()[1]:
            self.model = self._load(self.run.path / "model-best")
        scores = self.material.scores(self.before, self._song_losses("scoring the result")) if self.before else None
        self._write_meta(plan, progress, scores, update)
        self._plot()
        before, after, difference = (scores.before, scores.after, scores.gain) if scores else (None, None, None)
        return TrainResult(
            self.run.path,
            self.backend_name,
            before,
            after,
            difference,
            update,
            progress,
            already,
            unit=self.material.pace.unit,
            example=self.material.form.output,
        )

    def _plot(self) -> None:
        from musiclora.reporting.loss_plot import loss_plot

        loss_plot(self.run.path / "loss.png", self.run.read_metrics(), self.material.pace.loss)
