"""Training session: one start of a run, from loading the model to the scores of the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from musiclora.backends.base import Arrays, LossSum, Model, Training
from musiclora.backends.registry import choose, get_backend, probe
from musiclora.convert.files.outputs import check_folder
from musiclora.evaluation.copy_figures import CopyFigures
from musiclora.evaluation.scores import Gain, song_losses, total_loss
from musiclora.progress import Reporter
from musiclora.reporting.loss_plot import LOSS_PLOT, loss_plot
from musiclora.reporting.trackers import check_trackers, parse_trackers
from musiclora.training.adapter_files import initial_arrays, measure_update, weight_norms
from musiclora.training.base_check import compare_with_guess, parameter_lines, saved_base_check
from musiclora.training.config import TrainConfig
from musiclora.training.copy_watch import CopyWatch, final_findings
from musiclora.training.fold_summary import recommend_for
from musiclora.training.further_losses import compare_further, further_losses
from musiclora.training.limits import (
    ASKED_STEPS,
    ENDLESS_EPOCHS,
    SessionOptions,
    choose_patience,
    fit_plan,
    is_used_up,
    make_loop_options,
    make_optim_spec,
    renew_patience,
)
from musiclora.training.loop import Hooks, Loop
from musiclora.training.metadata import RunFacts, write_config, write_metadata
from musiclora.training.outcome import RunOutcome
from musiclora.training.plan import TrainingPlan, batch_shape, make_plan, probe_seconds
from musiclora.training.report import write_run_report
from musiclora.training.result import TrainResult, finished_line, record_result
from musiclora.training.resume import PLANNED, check_same_run, settle_folder
from musiclora.training.run_folder import BEST, FOLDS, LAST, MODEL_BEST, MODEL_LAST, STATE, Run, RunProgress
from musiclora.training.start_adapter import adapter_folder
from musiclora.training.task import Epochs, TrainingTask
from musiclora.training.tracking import tracked
from musiclora.training.trained_files import save_task_adapter

ModelT = TypeVar("ModelT", bound=Model)  # of the task's family


class Session(Generic[ModelT]):
    """One start of a training run: the data are checked, nothing is written yet."""

    def __init__(
        self,
        config: TrainConfig,
        task: TrainingTask[ModelT],
        reporter: Reporter | None = None,
        options: SessionOptions | None = None,
        run: Run | None = None,
    ) -> None:
        """Check everything that can be checked before the model is loaded.

        Args:
            config: the training options; the task says the family.
            task: data and base.
            reporter: told what happens.
            options: limits of the run.
            run: the folder, where its lock is held already.
        """
        self.out = reporter or Reporter()
        self.options = options or SessionOptions()
        check_folder(Path(config.output_dir))
        check_trackers(parse_trackers(config.report_to))
        self.backend_name = choose(config.backend)
        self.task = task
        self.config = config = task.complete_options(dataclasses.replace(config, family=task.family))
        if self.options.budget_seconds:
            self.config = config = dataclasses.replace(config, epochs=ENDLESS_EPOCHS)
        self.run = run or Run(Path(config.output_dir))
        self.spec = config.lora()
        self.length = task.row_length(config)
        self.dtype = task.choose_dtype(config, probe(self.backend_name)["device"])
        counts, *notes = task.describe_data()
        self.out.say(f"{counts}; backend {self.backend_name} on {get_backend(self.backend_name).device()}")
        for text in [*notes, *recommend_for(config, task)]:
            self.out.say(text)
        self._asked_steps = config.max_steps
        self.earlier: dict[str, Any] = {}  # settings of the run that is resumed
        self.norms: dict[str, float] = {}
        self.parameters = (0, 0)  # trained ones, and all

    @property
    def _trains_all(self) -> bool:
        return self.config.trainable == "all"

    def _plan_data(self) -> tuple[TrainingPlan, Epochs, Sequence[Arrays]]:
        """Plan the run, and lay out its training and held-out batches."""
        task, config = self.task, self.config
        units, longest = task.measure_epoch(config)
        batch_size, accumulate = batch_shape(config, units, longest, task.plan_defaults)
        data = task.training_epochs(config, batch_size)
        plan = make_plan(config, batch_size, accumulate, len(data.batches(0)), units, task.plan_defaults)
        self.further = task.further_batches(config, batch_size)
        return plan, data, task.held_out_batches(config, batch_size)

    def _load_folder(self, path: Path) -> ModelT:
        return cast(ModelT, get_backend(self.backend_name).load(self.config.family_record, path, dtype=self.dtype))

    def _load_model(self) -> None:
        """Load and score the base, add the adapter, and start its training."""
        config, resuming = self.config, self.run.exists
        resumes_all = self._trains_all and resuming
        self.model = self._load_folder(self.run.path / STATE / "model" if resumes_all else self.task.base.path)
        self.before = [] if resumes_all else self._song_losses("scoring the base", self.task.song_batches(config))
        self.further_before = {} if resuming else further_losses(self.model, self.further, self.out)
        self.base_check = saved_base_check(self.run.path) if resuming else None
        if not (self.base_check or resumes_all):
            judged = self._song_losses("scoring the base on training data", self.task.judging_batches(config))
            self.base_check = compare_with_guess(self.task, self.model, self.before + judged, config, self._load_folder)
        if self.base_check and self.base_check.warning:
            self.out.say(f"warning: {self.base_check.warning}")
        if not self._trains_all:
            self._add_adapter(resuming)
        self._start_training()

    def _start_training(self) -> None:
        optim = make_optim_spec(self.config, self.task.needs_checkpointing(self.config))
        self.training: Training = self.model.start_training(optim, "all" if self._trains_all else "adapter")

    def _add_adapter(self, resuming: bool) -> None:
        first = initial_arrays(self.model, self.spec, self.config.seed, self.task.form)
        modules = [key.removesuffix(".lora_A.weight") for key in first if "lora_A" in key]
        self.norms, base_parameters = weight_norms(self.model, modules)
        trained = sum(array.size for array in first.values())
        self.parameters = (trained, base_parameters + trained)
        self.model.inject_adapter(self.spec, first)
        self.task.begin_training(self.model, self.run.read_arrays("adapter") if resuming else None)
        if self.config.adapter_dir and not resuming:
            self.task.restore_adapter(self.model, adapter_folder(self.config.adapter_dir))

    def _song_losses(self, title: str, batches: Sequence[Sequence[Arrays]]) -> list[LossSum]:
        if not batches:
            return []
        with self.out.task(title) as update:
            return song_losses(self.model, batches, update)

    def measure(self) -> TrainingPlan:
        """Plan the run and probe its speed and memory; nothing is written."""
        plan, data, _ = self._plan_data()
        self.model = self._load_folder(self.task.base.path)
        if not self._trains_all:
            self._add_adapter(resuming=False)
        self._start_training()
        return self._measure_plan(plan, data)

    def train(self, restart: bool = False) -> TrainResult:
        """Run or resume; see TrainResult.

        Raises:
            TrainingError: another process trains here, the folder holds another run, or the loss is not finite.
        """
        with self.run.locked():  # first, since another start may be about to finish or to begin a run here
            settle_folder(self.run, restart, self.out.say, (FOLDS,) if self.options.folds else ())
            resuming = self.run.exists
            if resuming:
                self._take_over_settings()
            plan, data, held_out = self._plan_data()
            self._load_model()
            with tracked(self.run, self.config, self.out.say):
                return self._train_locked(plan, data, held_out, resuming)

    def _take_over_settings(self) -> None:
        """Check that the folder holds this very run, and take what was planned or given at its first start."""
        self.earlier = check_same_run(self.run, self.config, self.backend_name, self.task.hash_data())
        left_out: dict[str, Any] = {k: self.earlier.get(k) for k in PLANNED if getattr(self.config, k) is None}
        self.config = dataclasses.replace(self.config, **left_out)
        self.dtype = self.config.dtype or self.dtype

    def _train_locked(
        self, plan: TrainingPlan, data: Epochs, held_out: Sequence[Arrays], resuming: bool
    ) -> TrainResult:
        progress = self.run.read_progress() if resuming else RunProgress()
        if resuming:
            self._restore_state()
        done = bool(progress.ended) and is_used_up(progress, plan, self.config, self.options)
        more_epochs = plan.epochs > self.earlier.get("epochs", plan.epochs)
        patience = choose_patience(self.config, self.options)
        given_up = progress.ended == "patience" and not renew_patience(progress, patience, more_epochs)
        given_up |= progress.ended == "copying" and self.config.stop_when_copying
        if resuming and (done or given_up):
            self.out.say(finished_line(self.run.path, "folds" if self.options.folds else progress.ended))
            return self._finish(progress, plan, already=True)
        plan = self._measure_plan(plan, data)
        for line in plan.lines():
            self.out.say(line)
        if resuming:
            self.out.say(f"going on after step {progress.step}")
            self.run.trim_metrics(progress)
            self._write_config(plan)
        else:
            progress.base = total_loss(self.before).mean if self.before else None
            self._write_config(plan)
            write_metadata(self.run.path, self.config, plan, RunProgress(), self._run_facts())
            self.run.append_metrics(step=0, epoch=0, val_loss=progress.base, **self.further_before)
            if plan.whole_epochs >= self.config.sample_every and not self.config.adapter_dir:
                self._write_sample(0)  # of the base, to compare with
        options = make_loop_options(self.config, self.options, plan, self.task.plan_defaults)
        try:
            parts = (self.run, progress, self._loop_hooks(-(-plan.steps // max(1, plan.steps_per_epoch))), self.further)
            Loop(self.model, self.training, data, held_out, options, *parts).go()
        except KeyboardInterrupt:
            self.out.say(f"saved after step {progress.step}; the same command goes on from there")
            raise
        return self._finish(progress, plan)

    def _measure_plan(self, plan: TrainingPlan, data: Epochs) -> TrainingPlan:
        """Probe the speed and fit the plan into the session's limits."""
        batches = list(data.batches(0)[: plan.accumulate])
        self.out.say("probing the speed")
        seconds = probe_seconds(self.training, batches) * plan.steps
        memory = get_backend(self.backend_name).peak_memory()
        said = (*self.task.describe_plan(self.config), *self.options.notes(), *parameter_lines(*self.parameters))
        return self.fit_plan(dataclasses.replace(plan, seconds=seconds, memory=memory, notes=(*plan.notes, *said)))

    def fit_plan(self, plan: TrainingPlan) -> TrainingPlan:
        """Fit a measured plan into the session's limits; a shorter plan's steps become the run's --max-steps."""
        fitted = fit_plan(plan, self.options)
        if self.options.longest_seconds and fitted.steps < plan.steps:
            self.config = dataclasses.replace(self.config, max_steps=fitted.steps)
        return fitted

    def _restore_state(self) -> None:
        if not self._trains_all:
            self.task.restore_state(self.model, self.run.read_arrays("adapter"))
        self.training.write_state(self.run.read_arrays("optimizer"))

    def _loop_hooks(self, epochs: int) -> Hooks:
        task, whole = self.task, self._trains_all
        watch = CopyWatch(task, self.config, epochs, self.run, self.before, self.out.say)
        return Hooks(
            save_best=lambda: self._save_trained(MODEL_BEST if whole else BEST),
            save_last=lambda: self._save_trained(MODEL_LAST if whole else LAST),
            arrays=dict if whole else lambda: task.trained_arrays(self.model),
            fill_state=(lambda folder: task.save_model(folder / "model", self.model)) if whole else None,
            on_step=self.out.step,
            on_evaluation=lambda progress, loss: self.out.say(progress.describe_evaluation(loss)),
            rejects=lambda progress, loss: watch.look(self.model, progress, loss),
            after_epoch=self._write_sample,
        )

    def _write_sample(self, epoch: int) -> None:
        every = self.config.sample_every
        if every and epoch % every == 0:
            name = f"epoch-{epoch:03d}" if epoch else "base"
            self.task.write_sample(self.model, self.run.path / "samples", name, self.config.seed)

    def _save_trained(self, name: str) -> None:
        """Write an adapter folder, or a model folder where all weights are trained."""
        task, path = self.task, self.run.path / name
        if self._trains_all:
            return task.save_model(path, self.model)
        save_task_adapter(path, task, self.model, self.spec, self.backend_name, self.run, self._outcome())

    def _outcome(
        self, gain: Gain | None = None, copies: CopyFigures | None = None, best_step: int | None = None
    ) -> RunOutcome:
        found = (self.task.count_songs(), self.task.plan_defaults.pieces, gain, copies, self.options.folds)
        return RunOutcome(*found, self.config.adapter_dir, best_step, self.config.weigh)

    def _write_config(self, plan: TrainingPlan) -> None:
        write_config(self.run.path, dataclasses.replace(self.config, backend=self.backend_name, dtype=self.dtype), plan)

    def _run_facts(self) -> RunFacts:
        extra = {**self.task.run_record(self.config), ASKED_STEPS: self._asked_steps, **self.options.records()}
        found = (self.task.count_songs(), self.task.hash_data(), extra, self.base_check, self.parameters)
        return RunFacts(self.backend_name, self.dtype, self.length, *found)

    def _finish(self, progress: RunProgress, plan: TrainingPlan, already: bool = False) -> TrainResult:
        """Score the best arrays against the base, and write the run's metadata and loss plot."""
        task, update = self.task, dict[str, float]()
        if not self._trains_all:
            best = task.restore_adapter(self.model, self.run.path / BEST)
            update = measure_update(self.model, self.norms, self.spec, best, task.form)
        elif task.count_songs()[1]:
            self.model = self._load_folder(self.run.path / MODEL_BEST)
        batches = task.song_batches(self.config) if self.before else []
        scores = task.compare_losses(self.before, self._song_losses("scoring the result", batches)) if batches else None
        further = compare_further(self.run.read_metrics(), further_losses(self.model, self.further, self.out))
        found = final_findings(task, self.model, self.config)
        write_metadata(
            self.run.path, self.config, plan, progress, self._run_facts(), scores, update, further, found.copies
        )
        if update and not already:  # again, with what is known now
            outcome = self._outcome(scores.gain if scores else None, found.copies, progress.best_step)
            save_task_adapter(self.run.path / BEST, task, self.model, self.spec, self.backend_name, self.run, outcome)
        base, trained, gain = (scores.before, scores.after, scores.gain) if scores else (None, None, None)
        result = TrainResult(
            *(self.run.path, self.backend_name, base, trained, gain, update, progress, already),
            *(task.plan_defaults.unit, task.form.output, self.base_check, self.parameters, self._trains_all),
            *(further, found.copies, self.options.folds, found.style),
        )
        loss_plot(self.run.path / LOSS_PLOT, self.run.read_metrics(), task.plan_defaults.loss, result.pieces)
        record_result(result)
        facts = (task.count_songs(), task.describe_data(), task.copied_spans)
        write_run_report(result, self.config, plan, self.length, *facts)
        return result
