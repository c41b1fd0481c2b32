"""The training loop (POD paper, sections 3.3 and 3.4): updates, validation, early stopping, saving, time limits."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from podx.atomic import write_text
from podx.text.templates import Task
from podx_train.batches.batching import Built, PlannedBatch, batch_stream, plan_epoch, plan_stream
from podx_train.batches.prefetch import BatchFeed, Ready, batches_ahead
from podx_train.batches.templates import TEMPLATES_KEY
from podx_train.checkpoint.checkpoint import TRAINING_FILE, publish, save_trainer
from podx_train.console import console, progress_bar
from podx_train.model.pod_t5 import PodT5
from podx_train.options import TrainOptions
from podx_train.training.average import averaged_weights, update_average
from podx_train.training.clock import Clock, Signal
from podx_train.training.evaluate import plan_evaluation, pool_losses
from podx_train.training.journal import (
    Journal,
    epoch_entry,
    epoch_line,
    expectation_line,
    progress_entry,
    progress_line,
    training_facts,
)
from podx_train.training.processes import Processes
from podx_train.training.start import Parts
from podx_train.training.state import MIXED_NAME, Totals, TrainState, dropout_seed, learning_rate

SECONDS_WORTH_A_PLOT = 20.0
"""Epochs longer than this bring the plot up to date each time, shorter ones at the end of training."""


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        epochs: epochs finished.
        best_epoch, best_loss: of the published weights; 0 and None where nothing was trained.
        out_of_time: ``max_minutes`` ended it; ``--resume`` goes on.
        curve: one entry per epoch.
    """

    epochs: int
    best_epoch: int
    best_loss: float | None
    out_of_time: bool
    curve: tuple[Mapping[str, Any], ...]


class Trainer:
    """Trains ``model`` and keeps ``folder`` up to date. Create it, then :meth:`run` once.

    Args:
        state: where to start from; the optimiser's state is to match.
        facts: what else a resumed training compares (source, fingerprint, …), JSON values.
        objective: module around ``model`` whose forward is that of :meth:`PodT5.forward`, a training loss; None: the
            model's own, Eq. (1).

    Attributes:
        model, parts: what was given.
    """

    def __init__(
        self,
        folder: Path,
        model: PodT5,
        optimizer: torch.optim.Optimizer,
        parts: Parts,
        options: TrainOptions,
        processes: Processes,
        state: TrainState,
        facts: Mapping[str, Any],
        objective: nn.Module | None = None,
    ) -> None:
        self._folder, self.model, self.parts, self._options = folder, model, parts, options
        self._processes, self._state, self._facts = processes, state, facts
        self._optimizer, self._told = optimizer, Totals()
        self._wrapped, self._stepper = processes.accelerator.prepare(objective or model, optimizer)
        self._sums: dict[str, Tensor] = {}
        self._journal = Journal(folder, state.updates)
        plans = [plan_evaluation(p, options.batch_size, options.validation_users) for p in parts.held_out_pools]
        self._clock = Clock(options, held_out_batches=sum(map(len, plans)))

    def run(self) -> TrainResult:
        """Train until the epochs are done, patience is lost or time is up."""
        if self._options.epochs and not self._state.updates:
            self._save()  # from here on a kill at any point can be resumed from
        out_of_time = False
        while self._wants_more() and not out_of_time:
            out_of_time = self._pass_epoch()
            if not out_of_time:
                self._end_epoch()
            elif self._state.batch:
                self._validate_partial()
        if self._processes.is_main:
            self._finish()
        self._processes.wait()
        state = self._state
        best = state.best_loss if state.best_epoch else None
        return TrainResult(state.epoch, state.best_epoch, best, out_of_time, tuple(state.curve))

    def _wants_more(self) -> bool:
        state, options = self._state, self._options
        if state.epoch >= options.epochs:
            return False
        if options.max_updates is not None and state.updates >= options.max_updates:
            return False
        if state.bad_epochs >= options.patience:
            self._say(f"stopped early: {state.bad_epochs} epochs without improvement (--patience {options.patience})")
            return False
        return True

    def plan(self, epoch: int) -> list[PlannedBatch]:
        """The batches of an epoch, numbered from 0."""
        options, stream = self._options, plan_stream(self._options.seed, epoch)
        return plan_epoch(self.parts.training_pools, options.batching, options.batch_size, stream)

    def _schedule_end(self, batches: int) -> int | None:
        """Update at which the learning rate reaches zero; ``batches``: of an epoch."""
        options = self._options
        if options.schedule != "cosine":
            return None
        planned = batches * options.epochs
        return planned if options.max_updates is None else min(planned, options.max_updates)

    def _pass_epoch(self) -> bool:
        """Go on with the epoch in progress; True if time ran out within it."""
        state = self._state
        plan = self.plan(state.epoch)
        total = self._schedule_end(len(plan))
        if self._options.max_updates is not None:  # the last epoch may be a short one
            plan = plan[: self._options.max_updates - (state.updates - state.batch)]
        self.model.train()
        self._told = state.totals.copy()
        epoch, ahead = state.epoch, batches_ahead(self._processes.device)
        feed = BatchFeed(lambda position: self._build(epoch, plan, position), state.batch, len(plan), ahead)
        with feed, progress_bar(self._processes.is_main) as bar:
            shown = bar.add_task(f"epoch {state.epoch + 1}", total=len(plan), completed=state.batch)
            while state.batch < len(plan):
                signal = Signal(self._processes.agree(self._signal()))
                if signal is Signal.STOP:
                    self._save()
                    return True
                if signal is Signal.SAVE:
                    self._save()
                elif signal is Signal.TELL:
                    self._tell(len(plan))
                self.update(plan[state.batch], feed.take(), total)
                bar.advance(shown)
        return False

    def _signal(self) -> Signal:
        return self._clock.signal(self._state.totals)

    def _tell(self, batches: int) -> None:
        """Log how far the epoch of so many batches is, and say so where no bar shows it."""
        self._read_sums()
        self._clock.told()
        entry = progress_entry(self._state, self._told, batches)
        self._told = self._state.totals.copy()
        if not console.is_terminal:
            self._say(progress_line(entry))
        self._log(entry)

    def _log(self, entry: Mapping[str, Any]) -> None:
        """Put a line that is no finished epoch into the log."""
        if self._processes.is_main:
            self._journal.add(entry)
            self._journal.write(self._state.curve)

    def _build(self, epoch: int, plan: Sequence[PlannedBatch], position: int) -> Built:
        """This process's share of a batch; depends on no state, for it may run ahead of the updates."""
        stream = batch_stream(self._options.seed, epoch, position)
        rank, world = self._processes.rank, self._processes.world
        return self.parts.training_builder.build(plan[position], stream, rank, world)

    def update(self, plan: PlannedBatch, ready: Ready, total_updates: int | None) -> None:
        """Take one optimiser step on the next batch. ``total_updates``: at which the rate is zero; None: it stays."""
        state, options, processes = self._state, self._options, self._processes
        started, built = time.perf_counter(), ready.built
        torch.manual_seed(dropout_seed(options.seed, state.epoch, state.batch, processes.rank))
        rate = learning_rate(options.lr, state.updates, options.warmup, total_updates)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        device = processes.device
        loss = self._wrapped(built.batch.to(device), built.labels.to(device), built.weights.to(device))
        processes.accelerator.backward(loss)
        processes.accelerator.clip_grad_norm_(self._wrapped.parameters(), options.clip)
        self._stepper.step()
        self._stepper.zero_grad(set_to_none=True)
        self._count(plan, built, loss.detach())
        state.batch += 1
        state.updates += 1
        if options.average:
            update_average(self._optimizer, options.average, state.updates)
        state.totals.building_seconds += ready.building_seconds
        state.totals.waiting_seconds += ready.waiting_seconds
        state.totals.seconds += ready.waiting_seconds + time.perf_counter() - started

    def _count(self, plan: PlannedBatch, built: Built, loss: Tensor) -> None:
        """Add to the epoch's totals; losses stay on the device until they are read, so no update waits for them."""
        name = MIXED_NAME if self._options.batching == "mixed" else plan[0][0].value
        totals = self._state.totals
        self._sums[name] = self._sums.get(name, torch.zeros((), dtype=torch.float64, device=loss.device)) + loss
        totals.batches[name] = totals.batches.get(name, 0) + 1
        totals.pads += built.pads
        totals.tokens += built.tokens

    def _read_sums(self) -> None:
        """Move the losses summed on the device into the totals, as means over processes."""
        for name in sorted(self._sums):
            mean = float(self._processes.total(self._sums[name])) / self._processes.world
            self._state.totals.loss[name] = self._state.totals.loss.get(name, 0.0) + mean
        self._sums = {}

    def _save(self) -> None:
        self._read_sums()
        if self._processes.is_main:
            save_trainer(
                self._folder, self.model, self._optimizer, dict(self._facts) | {"state": self._state.as_json()}
            )
        self._clock.saved()
        self._processes.wait()

    def _validate(self, partial: bool) -> dict[str, Any]:
        """Validation of the weights as they are: the epoch's entry in the curve."""
        self._read_sums()
        started = time.monotonic()
        with self._processes.accelerator.autocast():
            losses, ranking = self._held_out()
        seconds = time.monotonic() - started
        self._clock.validated(seconds)
        entry = epoch_entry(self._state, losses, seconds, partial, ranking)
        self._say(epoch_line(entry))
        return entry

    def _held_out(self) -> tuple[dict[Task, float], dict[str, float] | None]:
        """Losses by task and, where the items are ranked, how well."""
        options, parts, processes = self._options, self.parts, self._processes
        size, share = options.batch_size, (processes.rank, processes.world, processes.total)
        limit = options.validation_users
        losses = pool_losses(self.model, parts.held_out_builder, parts.held_out_pools, size, limit, *share)
        return losses, None if parts.judge is None else parts.judge.measure(self.model, size, limit, *share)

    def _end_epoch(self) -> None:
        state = self._state
        with averaged_weights(self._optimizer):
            entry = self._validate(partial=False)
            state.curve.append(entry)
            state.judge(entry["criterion"], self._options.cumulative_patience)
            state.epoch, state.batch, state.totals = state.epoch + 1, 0, Totals()
            self._publish_if_better(entry)
        self._save()
        if state.epoch == 1 and self._wants_more():
            self._say(expectation_line(entry, self._options))
        if self._processes.is_main:
            self._journal.write(state.curve)
            if entry["train_seconds"] > SECONDS_WORTH_A_PLOT:
                self._journal.plot(state.curve)

    def _validate_partial(self) -> None:
        """Out of time within an epoch: its weights are one more candidate for the best, and nothing else.

        Neither the curve nor early stopping hear of it, so a resumed training takes the very updates it would have.
        """
        with averaged_weights(self._optimizer):
            entry = self._validate(partial=True)
            self._publish_if_better(entry)
        self._save()
        self._log(entry)

    def _publish_if_better(self, entry: Mapping[str, Any]) -> None:
        state = self._state
        if entry["criterion"] >= state.best_loss:
            return
        state.best_loss, state.best_epoch = entry["criterion"], entry["epoch"]
        if self._processes.is_main:
            publish(self._folder, self.model, self._training_facts(), state.best_epoch)

    def _training_facts(self) -> dict[str, Any]:
        facts = training_facts(self._state, self._options, self._facts["source"], self.model, self._processes)
        return facts | {TEMPLATES_KEY: self._facts[TEMPLATES_KEY]}

    def _finish(self) -> None:
        """Bring the folder's text files up to date; without any training, publish the weights as they are."""
        state = self._state
        if not state.best_epoch and not state.updates:
            publish(self._folder, self.model, self._training_facts(), epoch=0)
        write_text(self._folder / TRAINING_FILE, json.dumps(self._training_facts(), indent=2))
        self._journal.write(state.curve)  # a kill after the last save leaves this to the resumed training
        self._journal.plot(state.curve)

    def _say(self, text: str) -> None:
        if self._processes.is_main:
            console.print(text, markup=False, highlight=False, soft_wrap=True)
