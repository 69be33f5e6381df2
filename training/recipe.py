"""The recipe of a training run: every value that a recipe file can set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from emra_deploy.errors import EmraError
from training.augment import AugmentConfig
from training.model import EMRAConfig
from training.model.config import BACKBONES, ZOOMS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DataConfig:
    """The source of crops.

    Attributes:
        kind: ``dubai``, ``loveda``, ``potsdam``, ``vaihingen``, ``folder``, or ``auto`` to recognise the layout.
        root: Folder of the data set.
        train: Split to learn from.
        val: Split to validate on; empty for none.
        scenes: Generated scenes mixed in, of the classes of Dubai only.
        scene_fraction: Share of crops cut from them, 0 to 1.
        check: Decode every label before training starts.
    """

    kind: str = "auto"
    root: str = "data"
    train: str = "train"
    val: str = "val"
    scenes: int = 0
    scene_fraction: float = 0.0
    check: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """The EMRA-proxy to train; `training.model.EMRAConfig` gives the symbols of the paper.

    Attributes:
        backbone: ``tiny``, ``small``, ``base`` or ``large``: timm's ViT of that size.
        hra_block: M: HRA takes the patch tokens after this block; 0 is the patch embedding.
        mca_blocks: P: MCA averages attention over this many last blocks; 0 leaves MCA out.
        fusion: Combination of HSMF and GCA: ``product``, ``sum``, ``gated`` or ``log``.
        init: ``scratch``, ``mimetic`` (no pre-training; attention starts close to that of trained models), ``hub``
            (timm's weights, needs a network), or the path of a weights file, of a checkpoint folder or of an FP32
            model file (``.onnx``). The weights of another fusion than the recipe's are initialised anew.
        class_tokens: ``learned``, as ``init`` has them, or ``prototypes``: the mean patch embedding of each class in
            the training split, for an ``init`` whose class tokens have collapsed.
        frozen_blocks: The patch embedding, positions, class tokens and this many first blocks keep the weights of
            ``init``; 0 trains everything.
        drop_path: Largest stochastic depth rate.
        zoom: Factor by which pictures are enlarged before patches are cut; centre ``augment.scale`` on it.
    """

    backbone: str = "tiny"
    hra_block: int = 3
    mca_blocks: int = 4
    fusion: str = "product"
    init: str = "scratch"
    class_tokens: str = "learned"
    frozen_blocks: int = 0
    drop_path: float = 0.0
    zoom: int = 1


@dataclass(frozen=True)
class LossConfig:
    """The loss.

    Attributes:
        balance: ``none``, or ``effective`` to weight classes by the inverse of their effective number of pixels
            (Cui et al., CVPR 2019), tempered by ``balance_power``.
        balance_power: 1 applies the weights in full, 0 not at all.
        hsmf_weight: Weight of a second cross-entropy on HSMF alone, so that region logits learn even where attention
            is flat.
        jaccard_weight: Weight of one minus the soft IoU of the batch, mean over the classes that it shows; mIoU counts
            a rare class as much as a common one, cross-entropy does not.
        attention_weight: Weight of a cross-entropy on the class attention alone, log(N * GCA) times its sharpness.
        presence_weight: Weight of a binary cross-entropy on the class tokens: which classes the crop shows, read by
            the region classifier.
        contrast_weight: Weight of a cross-entropy on the cosines between class tokens: each is most like itself.
        label_smoothing: 0 to 1.
    """

    balance: str = "none"
    balance_power: float = 1.0
    hsmf_weight: float = 0.0
    jaccard_weight: float = 0.0
    attention_weight: float = 0.0
    presence_weight: float = 0.0
    contrast_weight: float = 0.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule.

    Attributes:
        optimizer: ``sgd`` (momentum 0.9) or ``adamw``.
        lr: Peak learning rate.
        weight_decay: On matrices only; biases, norms, tokens and position tables have none.
        schedule: ``poly`` (power 0.9) or ``cosine``, down to 0.
        warmup: Steps of linear warm-up.
        batch_size: Crops per process and forward pass.
        accumulate: Forward passes per step.
        clip: Largest norm of the gradient; 0 for none.
        precision: Of the forward pass: ``fp32``, ``bf16`` or ``fp16`` (with a gradient scaler).
        ema: Decay of the averaged weights, which are validated and saved; 0 for none.
    """

    optimizer: str = "sgd"
    lr: float = 0.01
    weight_decay: float = 1e-4
    schedule: str = "poly"
    warmup: int = 0
    batch_size: int = 16
    accumulate: int = 1
    clip: float = 1.0
    precision: str = "bf16"
    ema: float = 0.999


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        output: Folder for checkpoints and logs.
        crop: Side of the crops as the network sees them, pixels, a multiple of 16.
        epochs: Passes over the data.
        epoch_crops: Crops in one; 0 for as many as cover the training pixels once.
        mean: Subtracted from RGB in [0, 1].
        std: Divisor after the mean is subtracted.
        validate_every: Epochs between validations; 0 for none.
        save_minutes: Minutes between saved states inside an epoch.
        workers: Processes that cut crops.
        threads: CPU threads per process; 0 leaves PyTorch's choice.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Of all random numbers.
        resume: ``auto`` resumes from the output folder's last state, ``never`` starts anew.

    Raises:
        EmraError: A value is outside its range; the message names the key.
    """

    output: str = "runs/emra"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    crop: int = 512
    epochs: int = 100
    epoch_crops: int = 0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    validate_every: int = 10
    save_minutes: float = 5.0
    workers: int = 2
    threads: int = 0
    device: str = "auto"
    seed: int = 0
    resume: str = "auto"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("optim.optimizer", self.optim.optimizer, ("sgd", "adamw")),
            ("optim.schedule", self.optim.schedule, ("poly", "cosine")),
            ("optim.precision", self.optim.precision, ("fp32", "bf16", "fp16")),
            ("loss.balance", self.loss.balance, ("none", "effective")),
            ("model.class_tokens", self.model.class_tokens, ("learned", "prototypes")),
            ("device", self.device, ("auto", "cpu", "cuda")),
            ("resume", self.resume, ("auto", "never")),
        ):
            if value not in allowed:
                raise _bad(name, value, f"one of {', '.join(allowed)}")
        for name, number, low, high in (
            ("epochs", self.epochs, 1, None),
            ("epoch_crops", self.epoch_crops, 0, None),
            ("validate_every", self.validate_every, 0, None),
            ("save_minutes", self.save_minutes, 0, None),
            ("workers", self.workers, 0, None),
            ("threads", self.threads, 0, None),
            ("seed", self.seed, 0, None),
            ("data.scenes", self.data.scenes, 0, None),
            ("data.scene_fraction", self.data.scene_fraction, 0, 1),
            ("loss.balance_power", self.loss.balance_power, 0, None),
            ("loss.hsmf_weight", self.loss.hsmf_weight, 0, None),
            ("loss.jaccard_weight", self.loss.jaccard_weight, 0, None),
            ("loss.attention_weight", self.loss.attention_weight, 0, None),
            ("loss.presence_weight", self.loss.presence_weight, 0, None),
            ("loss.contrast_weight", self.loss.contrast_weight, 0, None),
            ("loss.label_smoothing", self.loss.label_smoothing, 0, 1),
            ("optim.weight_decay", self.optim.weight_decay, 0, None),
            ("optim.warmup", self.optim.warmup, 0, None),
            ("optim.batch_size", self.optim.batch_size, 1, None),
            ("optim.accumulate", self.optim.accumulate, 1, None),
            ("optim.clip", self.optim.clip, 0, None),
            ("augment.rotate", self.augment.rotate, 0, 45),
            ("augment.brightness", self.augment.brightness, 0, 1),
            ("augment.contrast", self.augment.contrast, 0, 1),
            ("augment.saturation", self.augment.saturation, 0, 1),
            ("augment.tint", self.augment.tint, 0, 1),
            ("augment.gamma", self.augment.gamma, 0, None),
            ("augment.cutmix", self.augment.cutmix, 0, 1),
        ):
            # Comparisons with NaN are false, so NaN is refused, too.
            if not (low <= number <= (math.inf if high is None else high)) or math.isinf(number):
                raise _bad(name, number, f"{low} or more" if high is None else f"{low} to {high}")
        if self.crop < 16 or self.crop % 16:
            raise _bad("crop", self.crop, "a positive multiple of 16")
        if (self.data.scene_fraction > 0) != (self.data.scenes > 0):
            raise _bad("data.scene_fraction", self.data.scene_fraction, "above 0 exactly when data.scenes is")
        smallest, largest = self.augment.scale
        if not 0 < smallest <= largest < math.inf:
            raise _bad("augment.scale", self.augment.scale, "two positive numbers, the smaller first")
        if not 0 < self.optim.lr < math.inf:
            raise _bad("optim.lr", self.optim.lr, "above 0")
        for name, fraction in (("optim.ema", self.optim.ema), ("model.drop_path", self.model.drop_path)):
            if not 0 <= fraction < 1:
                raise _bad(name, fraction, "0 up to, not including, 1")
        if not all(math.isfinite(value) for value in self.mean):
            raise _bad("mean", self.mean, "three numbers")
        if not all(0 < value < math.inf for value in self.std):
            raise _bad("std", self.std, "three numbers above 0")
        if self.model.zoom not in ZOOMS:  # checked before it is used as a divisor
            raise _bad("model.zoom", self.model.zoom, "1, 2 or 4")
        # Only the number of classes depends on the data: everything else is checked before data is read.
        EMRAConfig(
            backbone=self.model.backbone,
            image_size=(self.crop // self.model.zoom, self.crop // self.model.zoom),
            zoom=self.model.zoom,
            hra_block=self.model.hra_block,
            mca_blocks=self.model.mca_blocks,
            fusion=self.model.fusion,
        )
        depth = BACKBONES[self.model.backbone].depth
        if not 0 <= self.model.frozen_blocks <= depth:
            raise _bad("model.frozen_blocks", self.model.frozen_blocks, f"0 to {depth}")


def _bad(name: str, value: object, expected: str) -> EmraError:
    return EmraError("recipe", f"{name} is {value!r}, expected {expected}", f"Change {name} in the recipe")
