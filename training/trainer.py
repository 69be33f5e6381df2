"""The training loop: steps, logs, validation, checkpoints, and resuming."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from emra_deploy.errors import EmraError
from emra_deploy.host.files import make_folder
from training.augment import cutmix, jitter_colours
from training.checkpoint import load_state, save_checkpoint, save_state
from training.crops import Crops, Numbers, crop_loader
from training.data import AerialDataset
from training.distributed import Processes, mean_over, wait
from training.losses import class_weights, segmentation_loss
from training.model import EMRAProxy, Parts
from training.optim import learning_rate, make_average, make_optimizer
from training.recipe import Recipe
from training.run_log import RunLog
from training.validation import validate

LOG = logging.getLogger(__name__)
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """One run of a recipe. All random numbers are functions of (seed, step), so a resumed run repeats them."""

    def __init__(
        self,
        recipe: Recipe,
        model: EMRAProxy,
        train: AerialDataset,
        val: AerialDataset | None,
        scenes: AerialDataset | None,
        processes: Processes,
    ) -> None:
        self.recipe = recipe
        self.processes = processes
        self.train = train
        self.val = val
        self.folder = Path(recipe.output)
        self.model = model.to(processes.device)
        self.average = make_average(self.model, recipe.optim.ema)
        self.optimizer = make_optimizer(self.model, recipe.optim)
        self.scaler = torch.amp.GradScaler(enabled=recipe.optim.precision == "fp16" and processes.device.type == "cuda")
        self.parallel = DistributedDataParallel(_Forward(self.model)) if processes.world > 1 else _Forward(self.model)
        self.weights = _to(class_weights(train.tiles, len(train.classes), recipe.loss), processes.device)
        self.crops = Crops(
            train.tiles,
            scenes.tiles if scenes else (),
            recipe.data.scene_fraction,
            recipe.crop,
            recipe.augment,
            recipe.seed,
        )
        per_step = recipe.optim.batch_size * recipe.optim.accumulate * processes.world
        crops = recipe.epoch_crops or -(-train.pixels // recipe.crop**2)
        self.epoch_steps = max(1, round(crops / per_step))
        self.steps = self.epoch_steps * recipe.epochs
        self.step = 0
        self.best = -1.0
        self.mean, self.std = (
            torch.tensor(values, device=processes.device).view(1, 3, 1, 1) for values in (recipe.mean, recipe.std)
        )

    def run(self) -> dict[str, Any]:
        """Train to the end.

        Returns:
            ``steps``, and, with a validation split, the last ``miou`` and the ``best``.
        """
        self._resume()
        result: dict[str, Any] = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
        )
        if self.processes.first:
            make_folder(self.folder)
        with (
            Progress(*columns, console=Console(stderr=True), disable=not self.processes.first) as progress,
            RunLog(self.folder, self.step, self.processes.first) as log,
        ):
            bar = progress.add_task(self.folder.name, total=self.steps, completed=self.step, state="")
            saved = time.monotonic()
            for batches in self._batches():
                started = time.monotonic()
                loss, rate = self._train_step(batches)
                self.step += 1
                log.record(self.step, loss=loss, lr=rate, seconds=round(time.monotonic() - started, 3))
                progress.update(bar, completed=self.step, state=f"loss {loss:.3f}")
                epoch, inside = divmod(self.step, self.epoch_steps)
                if inside == 0:
                    every = self.recipe.validate_every
                    if self.val and every and (epoch % every == 0 or self.step == self.steps):
                        result = self._validate()
                        log.record(self.step, epoch=epoch, **result)
                        progress.console.print(f"epoch {epoch}: mIoU {result['miou']:.4f} (best {self.best:.4f})")
                if self.step == self.steps or time.monotonic() - saved > self.recipe.save_minutes * 60:
                    self._save()
                    saved = time.monotonic()
            wait(self.processes)
        return {"steps": self.step, "best": self.best, **result}

    def _batches(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        accumulate = self.recipe.optim.accumulate
        numbers = Numbers(
            self.step * accumulate,
            self.steps * accumulate,
            self.recipe.optim.batch_size,
            self.processes.rank,
            self.processes.world,
        )
        loader = crop_loader(self.crops, numbers, self.recipe.workers, self.processes.device.type == "cuda")
        group: list[tuple[Tensor, Tensor]] = []
        for batch in loader:
            group.append(batch)
            if len(group) == accumulate:
                yield group
                group = []

    def _train_step(self, batches: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        recipe, device = self.recipe, self.processes.device
        rate = learning_rate(recipe.optim, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed = (recipe.seed * 1_000_003 + self.step) * 1_009 + self.processes.rank
        torch.manual_seed(seed)  # stochastic depth uses the global generator
        generator = torch.Generator().manual_seed(seed)
        on_device = generator if device.type == "cpu" else torch.Generator(device).manual_seed(seed)
        self.model.train()
        total = torch.zeros((), device=device)
        for index, (images, labels) in enumerate(batches):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            images, labels = cutmix(images, labels, recipe.augment.cutmix, generator)
            images = (jitter_colours(images.float() / 255, recipe.augment, on_device) - self.mean) / self.std
            last = index == len(batches) - 1
            quiet = self.parallel.no_sync() if self.processes.world > 1 and not last else nullcontext()
            with quiet:
                with torch.autocast(
                    device.type,
                    dtype=AUTOCAST.get(recipe.optim.precision),
                    enabled=recipe.optim.precision in AUTOCAST,
                ):
                    parts = self.parallel(images)
                loss = segmentation_loss(parts, labels, self.weights, recipe.loss) / len(batches)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if recipe.optim.clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optim.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        value = float(mean_over(self.processes, total))
        if not math.isfinite(value):
            raise EmraError(
                "loss-not-finite",
                f"the loss of step {self.step + 1} is {value}",
                "Lower optim.lr, or set optim.precision to bf16 or fp32; the last saved state is from before",
                self.folder,
            )
        return value, rate

    @property
    def _shipped(self) -> EMRAProxy:
        return self.model if self.average is None else cast(EMRAProxy, self.average.module)

    def _validate(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if self.processes.first:
            assert self.val is not None
            scores = validate(self._shipped, self.val, self.recipe)
            result = {"miou": scores.miou, "oa": scores.accuracy}
            if scores.miou > self.best:
                self.best = scores.miou
                self._checkpoint("best", result)
        wait(self.processes)
        return result or {"miou": float("nan")}

    def _checkpoint(self, name: str, scores: dict[str, Any]) -> None:
        meta = {
            "step": self.step,
            "steps": self.steps,
            "validation": scores,
            "data": {"name": self.train.name, "split": self.train.split, "tiles": len(self.train.tiles)},
            "bands": list(self.train.bands),
            "gsd": self.train.gsd,
            "torch": torch.__version__,
        }
        save_checkpoint(self.folder / name, self._shipped, self.train.classes, self.recipe.mean, self.recipe.std, meta)

    def _save(self) -> None:
        if not self.processes.first:
            return
        self._checkpoint("last", {})
        save_state(
            self.folder / "state.pt",
            {
                "step": self.step,
                "steps": self.steps,
                "best": self.best,
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
        )

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if self.recipe.resume == "never" or not path.exists():
            return
        state = load_state(path)
        try:
            self._restore(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            # Models, optimisers and averages report a mismatch by different exceptions with long texts.
            first = (str(error).strip().splitlines() or ["empty"])[0]
            raise EmraError(
                "state-mismatch",
                f"the saved state does not fit this recipe ({type(error).__name__}: {first})",
                "Give another output folder, set resume to never, or undo the changes in model or optim",
                path,
            ) from error
        LOG.info("resuming at step %d of %d", self.step, self.steps)

    def _restore(self, state: dict[str, Any]) -> None:
        saved, ours = (set(groups[0]) for groups in (state["optimizer"]["param_groups"], self.optimizer.param_groups))
        if saved != ours:  # SGD would accept AdamW's groups silently
            raise ValueError("the optimizer differs")
        if (state["average"] is None) != (self.average is None):
            raise ValueError("optim.ema was switched on or off")
        if state["step"] > self.steps:
            raise ValueError(f"{state['step']} steps are done, the recipe has {self.steps}")
        if state["steps"] != self.steps:
            LOG.warning("the saved run had %d steps, this one has %d: the rate jumps", state["steps"], self.steps)
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.best = state["step"], state["best"]


class _Forward(torch.nn.Module):
    """Module whose forward is `EMRAProxy.forward_parts`, for DistributedDataParallel."""

    def __init__(self, model: EMRAProxy) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Parts:
        return self.model.forward_parts(images)

    def no_sync(self) -> nullcontext[None]:
        return nullcontext()


def _to(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)
