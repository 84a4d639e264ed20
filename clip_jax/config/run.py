"""Run configs: frozen dataclasses that validate their fields. Sweeps are in `config.sweep`.

`config.io` reads and writes them. Importing this module loads neither jax nor numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from clip_jax.config.data import DataConfig
from clip_jax.config.fields import check_choices
from clip_jax.config.model import ModelConfig, PixelConfig
from clip_jax.errors import ConfigError, at_least, between
from clip_jax.plugins import check_name

LOSSES = ("softmax", "sigmoid")
CLIP_VOCAB_SIZE = 49_408  # tokens of CLIP's published vocabulary
VAL_PAIRS = 1024  # evals.val_pairs=0 if the held-out split is large enough
WARMUP_STEPS = 20  # optim.warmup_steps=-1 if the run is longer


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule. Weight decay excludes gains, biases and temperature."""

    # muon: matrices of the blocks by Muon, all else by AdamW; schedule_free: AdamW whose averaged weights are evaluated
    optimizer: Literal["adamw", "muon", "lion", "adafactor", "schedule_free"] = "adamw"
    peak_lr: float = 1e-3  # learning rate after the warm-up
    warmup_steps: int = -1  # steps of linear warm-up from 0; -1: 20, or all but the last step of a shorter run
    schedule: Literal["cosine", "wsd"] = "cosine"  # wsd: warm-up, stable, linear decay
    lr_decay_fraction: float = 0.2  # wsd: fraction of the steps in the learning-rate decay
    weight_decay: float = 0.1  # decoupled, times the learning rate
    b1: float = 0.9  # decay rate of the first moment; schedule_free: share of the average in the weights of a step
    # decay rate of the second moment; lion: of its moment; adafactor: the largest decay rate of the second moment
    b2: float = 0.98
    eps: float = 1e-6  # added to Adam's denominator; ignored by lion and adafactor
    muon_momentum: float = 0.95  # muon: decay rate of the momentum of matrices
    # muon: of an update's entries; rms: as large as AdamW's, so that its rates and decays fit; spectral: smaller by
    # 0.2 times the root of a matrix's inputs, and of the same spectral norm at every width
    muon_scale: Literal["rms", "spectral"] = "rms"
    muon_adam_lr: float = 1.0  # muon: learning rate of what AdamW trains, as a multiple of that of the matrices
    ema_decay: float = 0.0  # evaluate and export an exponential moving average of the weights, in float32; 0: do not
    clip_norm: float = 1.0  # gradients of a larger global norm are scaled down to it
    layer_decay: float = 1.0  # layer-wise LR decay: LR is multiplied by this per block away from the output (1: off)
    # of the moments (adafactor: the first alone); bfloat16 halves their memory
    state_dtype: Literal["float32", "bfloat16"] = "float32"
    half_rounding: Literal["stochastic", "nearest"] = "stochastic"  # of half-precision moments and parameters
    loss_scale: float = 2.0**15  # float16 compute: initial loss scale; then halved and doubled as needed

    def __post_init__(self) -> None:
        check_choices(self, "optim.")
        at_least("optim.loss_scale", self.loss_scale, 1.0)
        between("optim.layer_decay", self.layer_decay, 0.01, 1.0)
        at_least("optim.weight_decay", self.weight_decay, 0)
        at_least("optim.warmup_steps", self.warmup_steps, -1)
        for name in ("b1", "b2", "lr_decay_fraction", "muon_momentum"):
            between(f"optim.{name}", getattr(self, name), 0.0, 1.0)
        if self.schedule != "wsd" and self.lr_decay_fraction != 0.2:
            raise ConfigError(field="optim.lr_decay_fraction", reason=f"ignored with optim.schedule={self.schedule!r}")
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        for name in ("peak_lr", "eps", "clip_norm", "muon_adam_lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(field=f"optim.{name}", value=getattr(self, name), reason="must be above 0")
        condition = f"with optim.optimizer={self.optimizer!r}"
        ignored = [] if self.optimizer == "muon" else ["muon_momentum", "muon_scale", "muon_adam_lr"]
        if self.optimizer in ("lion", "adafactor"):
            ignored.append("eps")
        for name in ignored:
            if (value := getattr(self, name)) != getattr(OptimConfig, name):
                raise ConfigError(field=f"optim.{name}", value=value, reason=f"ignored {condition}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(field="optim.ema_decay", value=self.ema_decay, reason="must be at least 0 and below 1")
        if self.optimizer == "schedule_free":
            self._check_schedule_free(condition)

    def _check_schedule_free(self, condition: str) -> None:
        if self.schedule != "wsd" or self.lr_decay_fraction:
            reason = f"must not decay {condition}, which averages instead"
            hint = "set optim.schedule=wsd and optim.lr_decay_fraction=0"
            raise ConfigError(field="optim.schedule", value=self.schedule, reason=reason, hint=hint)
        if not self.b1:
            raise ConfigError(field="optim.b1", value=self.b1, reason=f"must be above 0 {condition}")
        if self.state_dtype != "float32":
            reason = f"must be float32 {condition}, whose state holds the weights"
            raise ConfigError(field="optim.state_dtype", value=self.state_dtype, reason=reason)
        if self.ema_decay:
            reason = f"must be 0 {condition}, which evaluates an average of its own"
            raise ConfigError(field="optim.ema_decay", value=self.ema_decay, reason=reason)

    @property
    def averages(self) -> bool:
        """Whether averaged weights are evaluated and exported in place of the trained ones."""
        return self.ema_decay > 0 or self.optimizer == "schedule_free"

    def warmup_of(self, steps: int) -> int:
        """Return the number of warm-up steps of a run.

        Args:
          steps: its length in updates.
        """
        return min(WARMUP_STEPS, steps - 1) if self.warmup_steps == -1 else self.warmup_steps


@dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each mesh axis; one of the first three may be -1, which means all remaining devices."""

    data: int = -1  # data parallelism: replicas of the parameters; the batch is sharded
    fsdp: int = 1  # fully sharded data parallelism: shards of the parameters; the batch is sharded too
    tensor: int = 1  # tensor parallelism: shards of heads and hidden units; the rows of the batch are shared
    slices: int = 1  # groups of devices connected only by a slow network; each holds the other three axes

    def __post_init__(self) -> None:
        for name in ("data", "fsdp", "tensor"):
            value = getattr(self, name)
            if value != -1 and value < 1:
                raise ConfigError(field=f"mesh.{name}", value=value, reason="must be -1 or at least 1")
        at_least("mesh.slices", self.slices, 1)
        if (self.data, self.fsdp, self.tensor).count(-1) > 1:
            raise ConfigError(field="mesh.data, mesh.fsdp, mesh.tensor", reason="only one may be -1")


@dataclass(frozen=True)
class LossConfig:
    """Contrastive loss over the global batch, and its implementation, which does not change the value."""

    # softmax: InfoNCE; sigmoid: SigLIP, needs model.logit_bias; or the name that an installed package adds
    name: Literal["softmax", "sigmoid"] | str = "softmax"
    # auto: ring for batches of more than 4096 pairs
    implementation: Literal["auto", "dense", "gathered", "ring"] = "auto"
    chunk_size: int = 256  # ring: rows of logits that a device holds at once
    caption_weight: float = 2.0  # weight of CoCa's caption loss (Yu et al., 2022)

    def __post_init__(self) -> None:
        check_choices(self, "loss.")
        at_least("loss.chunk_size", self.chunk_size, 1)
        at_least("loss.caption_weight", self.caption_weight, 0)
        if self.implementation in ("dense", "gathered") and self.chunk_size != 256:
            reason = f"ignored with loss.implementation={self.implementation!r}"
            raise ConfigError(field="loss.chunk_size", reason=reason)
        usual = (LossConfig.implementation, LossConfig.chunk_size)
        if self.name not in LOSSES and (self.implementation, self.chunk_size) != usual:
            reason = f"ignored with loss.name={self.name!r}"
            raise ConfigError(field="loss.implementation, loss.chunk_size", reason=reason)


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation during and after training: tasks, sizes and times."""

    zero_shot: tuple[str, ...] = ("scenes",)  # ``scenes`` for the built-in tasks, or classification folders
    unscored_tasks: tuple[str, ...] = ()  # classification folders that are reported but excluded from means
    max_examples: int = 500  # per zero-shot task at most; 0: all
    at_fractions: tuple[float, ...] = ()  # fractions of the steps at which to evaluate; the last step always is
    # pairs per partition of val_loss; each is contrasted with the others; 0: 1024, or as many as the held-out split has
    val_pairs: int = 0
    val_partitions: int = 2  # disjoint partitions of held-out pairs for val_loss
    retrieval_images: int = 512  # images of the held-out split at most; 0: all
    batch_size: int = 256  # inputs per call of the towers
    prior_images: int = 128  # predictive objectives: training images over which a class's prior is averaged
    # predictive objectives: the score used for error_mean; prior: with the prior subtracted; both are reported
    predictive_score: Literal["raw", "prior"] = "prior"
    evaluators: tuple[str, ...] = ()  # evaluators of installed packages to add; their rows are tasks of these names

    def __post_init__(self) -> None:
        check_choices(self, "evals.")
        for name in self.evaluators:
            check_name("evals.evaluators", name, "evaluators")
        if len(set(self.evaluators)) < len(self.evaluators):
            raise ConfigError(field="evals.evaluators", value=self.evaluators, reason="must not repeat a name")
        for name in ("max_examples", "retrieval_images", "val_pairs"):
            at_least(f"evals.{name}", getattr(self, name), 0)
        for name in ("val_partitions", "batch_size", "prior_images"):
            at_least(f"evals.{name}", getattr(self, name), 1)
        for fraction in self.at_fractions:
            if not 0 < fraction < 1:
                reason = "each must lie strictly between 0 and 1"
                raise ConfigError(field="evals.at_fractions", value=fraction, reason=reason)


@dataclass(frozen=True)
class InitConfig:
    """Initial weights from another model, and the tower to freeze."""

    source: str = ""  # published name, weights file or folder, or run directory; empty: random init
    towers: Literal["both", "image", "text"] = "both"  # towers taken from the source
    freeze_tower: Literal["none", "image", "text"] = "none"  # tower that is not trained, as in LiT (Zhai et al., 2022)

    def __post_init__(self) -> None:
        check_choices(self, "init_from.")
        if not self.source and (self.towers, self.freeze_tower) != ("both", "none"):
            reason = "ignored without init_from.source"
            raise ConfigError(field="init_from.towers, init_from.freeze_tower", reason=reason)
        if self.freeze_tower not in ("none", self.towers) and self.towers != "both":
            reason = "must be a tower taken from init_from.source"
            raise ConfigError(field="init_from.freeze_tower", value=self.freeze_tower, reason=reason)


@dataclass(frozen=True)
class AnomalyConfig:
    """Reaction to a logged loss that is NaN or spikes.

    A rollback restores the newest checkpoint at a multiple of ``checkpoint_every`` and skips the batches that followed
    it, as for PaLM (Chowdhery et al., 2022).
    """

    on_nan: Literal["stop", "rollback"] = "stop"  # what a loss that is not finite does
    on_spike: Literal["ignore", "stop", "rollback"] = "ignore"  # what a spike of the loss does
    spike_factor: float = 2.0  # a spike is a loss above this multiple of the median of the preceding ones
    spike_window: int = 10  # number of logged losses in that median
    max_rollbacks: int = 3  # for the whole run; after them the next NaN or spike stops it

    def __post_init__(self) -> None:
        check_choices(self, "anomalies.")
        for name in ("spike_window", "max_rollbacks"):
            at_least(f"anomalies.{name}", getattr(self, name), 1)
        if not self.spike_factor > 1:
            raise ConfigError(field="anomalies.spike_factor", value=self.spike_factor, reason="must be above 1")
        if self.on_spike == "ignore" and (self.spike_factor, self.spike_window) != (2.0, 10):
            reason = "ignored with anomalies.on_spike='ignore'"
            raise ConfigError(field="anomalies.spike_factor, anomalies.spike_window", reason=reason)
        if "rollback" not in (self.on_nan, self.on_spike) and self.max_rollbacks != 3:
            reason = "ignored unless anomalies.on_nan or anomalies.on_spike is 'rollback'"
            raise ConfigError(field="anomalies.max_rollbacks", reason=reason)


@dataclass(frozen=True)
class DistributedConfig:
    """Way in which a process finds the others of its run. It belongs to the launch, so `RunConfig` excludes it.

    At the defaults it is read from the environment (`processes.find_processes`).
    """

    coordinator: str = ""  # host:port of process 0, or "auto" for JAX's own detection
    processes: int = 0  # number of processes
    process: int = -1  # index of this process, from 0
    heartbeat_s: int = 100  # a process without a heartbeat for this long is lost, and the others exit
    start_s: int = 300  # how long to wait for all processes at the start

    def __post_init__(self) -> None:
        at_least("distributed.processes", self.processes, 0)
        at_least("distributed.process", self.process, -1)
        for name in ("heartbeat_s", "start_s"):
            at_least(f"distributed.{name}", getattr(self, name), 1)
        if self.coordinator not in ("", "auto") and not self.coordinator.rpartition(":")[2].isdecimal():
            reason = "must be HOST:PORT or auto"
            raise ConfigError(field="distributed.coordinator", value=self.coordinator, reason=reason)
        if self.coordinator == "auto" and (self.processes, self.process) != (0, -1):
            reason = "ignored with distributed.coordinator='auto'"
            raise ConfigError(field="distributed.processes, distributed.process", reason=reason)
        if self.processes and self.process >= self.processes:
            reason = f"must be below distributed.processes={self.processes}"
            raise ConfigError(field="distributed.process", value=self.process, reason=reason)


@dataclass(frozen=True)
class TrackingConfig:
    """Destinations of copies of the metrics; the run directory is the record. They change no number and no run id."""

    wandb_project: str = ""  # empty: $WANDB_PROJECT, else clip-jax
    wandb_entity: str = ""  # user or team; empty: $WANDB_ENTITY, else the account's own
    wandb_tags: tuple[str, ...] = ()  # none: $WANDB_TAGS
    wandb_notes: str = ""  # empty: $WANDB_NOTES
    tensorboard: bool = (
        False  # event files in tensorboard/ of the run and of the sweep; needs clip-jax-scaling[tensorboard]
    )


@dataclass(frozen=True)
class RunConfig:
    """One training run. The hash of its config (``run_id``) names its directory."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    pixels: PixelConfig = field(default_factory=PixelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    evals: EvalConfig = field(default_factory=EvalConfig)
    init_from: InitConfig = field(default_factory=InitConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    anomalies: AnomalyConfig = field(default_factory=AnomalyConfig)
    batch_size: int = 128  # global
    microbatch_size: int = 0  # pairs whose activations are in memory at once, over all devices; 0: the whole batch
    steps: int = 100  # optimizer steps
    epochs: float = 0.0  # passes over the training pairs, instead of steps, which follow when the run begins; 0: steps
    seed: int = 0  # of the initial weights, the order of the data and its augmentation
    # the same bits in every process on a GPU too, by XLA's flag and without fused attention; CPUs need neither
    deterministic: bool = False
    log_every: int = 20  # steps
    checkpoint_every: int = 500  # steps; the last step is always saved
    # a copy of the metrics in Weights & Biases; the run directory is the record
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("batch_size", "steps", "log_every", "checkpoint_every"):
            at_least(name, getattr(self, name), 1)
        between("seed", self.seed, 0, 2**32 - 1)
        at_least("model.text.vocab_size", self.model.text.vocab_size, 260)  # 256 bytes and the special tokens
        self._check_length()
        if (
            self.data.source == "scenes"
            and self.pixels.resize_mode != PixelConfig.resize_mode
            and not self.init_from.source
        ):
            reason = "ignored, the scenes source renders squares"
            raise ConfigError(field="pixels.resize_mode", value=self.pixels.resize_mode, reason=reason)
        self._check_tokenizer()
        self._check_tracking()
        self._check_precision()
        self._check_optimizer()
        self._check_loss()
        self._check_objective()
        if self.deterministic and self.model.attention == "cudnn":
            reason = "cannot be used with deterministic, as its gradient is summed in any order"
            raise ConfigError(field="model.attention", value="cudnn", reason=reason, hint="use auto or xla")

    def _check_length(self) -> None:
        at_least("epochs", self.epochs, 0)
        if not self.epochs:
            if self.optim.warmup_steps >= self.steps:
                reason = f"must be below steps={self.steps}"
                raise ConfigError(field="optim.warmup_steps", value=self.optim.warmup_steps, reason=reason)
            return
        if self.steps != RunConfig.steps:
            raise two_lengths(f"{self.epochs:g}", self.steps)
        if self.data.source == "scenes" and not self.data.unique_samples:
            reason = "the scenes source renders pairs without end"
            raise ConfigError(field="epochs", value=self.epochs, reason=reason, hint="set steps or data.unique_samples")

    def _check_tokenizer(self) -> None:
        tokenizer, vocab_size = self.data.tokenizer, self.model.text.vocab_size
        if tokenizer == "learned":
            return
        if self.init_from.source and self.init_from.towers != "image":
            reason = "ignored, the text tower of init_from.source brings its tokenizer"
            raise ConfigError(field="data.tokenizer", value=tokenizer, reason=reason)
        if vocab_size != CLIP_VOCAB_SIZE:
            reason = f"must be {CLIP_VOCAB_SIZE} with data.tokenizer={tokenizer!r}"
            raise ConfigError(field="model.text.vocab_size", value=vocab_size, reason=reason)

    def _check_tracking(self) -> None:
        if self.wandb != "disabled":
            return
        for name in ("wandb_project", "wandb_entity", "wandb_tags", "wandb_notes"):
            if getattr(self.tracking, name):
                raise ConfigError(field=f"tracking.{name}", reason="ignored with wandb='disabled'")

    def _check_precision(self) -> None:
        half = {"bfloat16", "float16"}
        kept = {self.optim.state_dtype, self.model.param_dtype, self.model.text_param_dtype}
        if self.optim.half_rounding != "stochastic" and not kept & half:
            raise ConfigError(field="optim.half_rounding", reason="ignored, nothing is stored in half precision")
        if self.model.compute_dtype != "float16" and self.optim.loss_scale != OptimConfig.loss_scale:
            reason = f"ignored with model.compute_dtype={self.model.compute_dtype!r}"
            raise ConfigError(field="optim.loss_scale", reason=reason)
        if self.optim.layer_decay < 1 and self.model.image.stages:
            reason = "cannot be used with a ResNet, which has no stack of equal blocks"
            raise ConfigError(field="optim.layer_decay", reason=reason, hint="use a vision transformer")

    def _check_optimizer(self) -> None:
        name, model = self.optim.optimizer, self.model
        condition = f"with optim.optimizer={name!r}"
        if name == "muon" and model.image.stages:
            reason = "cannot train a ResNet, for whose convolutions no matrix is declared"
            raise ConfigError(field="optim.optimizer", value=name, reason=reason, hint="use a vision transformer")
        if name in ("adafactor", "schedule_free") and model.parametrization.kind != "standard":
            reason = f"has no table {condition}; use adamw, lion or muon"
            kind = model.parametrization.kind
            raise ConfigError(field="model.parametrization.kind", value=kind, reason=reason)
        if name != "schedule_free":
            return
        for field_name in ("param_dtype", "text_param_dtype"):
            if (value := getattr(model, field_name)) in ("bfloat16", "float16"):
                reason = f"must be float32 {condition}, whose average is computed from the weights"
                raise ConfigError(field=f"model.{field_name}", value=value, reason=reason)
        if model.image.stages:
            reason = f"cannot be used {condition}: running statistics are not those of the averaged weights"
            raise ConfigError(field="model.image.stages", value=model.image.stages, reason=reason)
        if self.init_from.source:
            reason = f"cannot be used {condition}, whose average begins at random weights"
            raise ConfigError(field="init_from.source", value=self.init_from.source, reason=reason)

    def _check_loss(self) -> None:
        if self.loss.name in LOSSES and (self.loss.name == "sigmoid") != self.model.logit_bias:
            reason = f"must be {self.loss.name == 'sigmoid'} with loss.name={self.loss.name!r}"
            raise ConfigError(field="model.logit_bias", value=self.model.logit_bias, reason=reason)
        if not self.model.decoder.depth and self.loss.caption_weight != LossConfig.caption_weight:
            raise ConfigError(field="loss.caption_weight", reason="ignored without model.decoder.depth")
        if not self.microbatch_size:
            return
        at_least("microbatch_size", self.microbatch_size, 1)
        if self.batch_size % self.microbatch_size:
            reason = f"must divide batch_size={self.batch_size}"
            raise ConfigError(field="microbatch_size", value=self.microbatch_size, reason=reason)
        if self.model.image.stages:
            reason = "cannot be used with a ResNet, whose batch norm needs the whole batch at once"
            raise ConfigError(field="microbatch_size", reason=reason, hint="use a vision transformer")
        if self.model.decoder.depth:
            reason = "cannot be used with model.decoder, whose caption loss is not a function of embeddings"
            raise ConfigError(field="microbatch_size", reason=reason)

    def _check_objective(self) -> None:
        condition, predictive = f"with model.objective={self.model.objective!r}", self.model.objective != "contrastive"
        for name in ("retrieval_images",) if predictive else ("prior_images", "predictive_score"):
            if getattr(self.evals, name) != getattr(EvalConfig, name):
                raise ConfigError(field=f"evals.{name}", value=getattr(self.evals, name), reason=f"ignored {condition}")
        if predictive and self.loss != LossConfig():
            raise ConfigError(field="loss", reason=f"ignored {condition}")
        if predictive and self.microbatch_size:
            reason = f"must be 0 {condition}"
            hint = "set model.vocab_chunk to save memory"
            raise ConfigError(field="microbatch_size", value=self.microbatch_size, reason=reason, hint=hint)
        if predictive and self.init_from.freeze_tower == "text":
            reason = f"must be image or empty {condition}"
            raise ConfigError(field="init_from.freeze_tower", value="text", reason=reason)

    @property
    def state_bytes(self) -> int:
        """Bytes per parameter of a training state, at most: the parameter, its moments and its average."""
        sizes = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
        moments = {"adamw": 2, "muon": 2, "lion": 1, "adafactor": 1, "schedule_free": 2}[self.optim.optimizer]
        average = sizes["float32"] if self.optim.ema_decay else 0
        return sizes[self.model.param_dtype] + moments * sizes[self.optim.state_dtype] + average

    @property
    def samples_seen(self) -> int:
        """Number of training pairs seen, with repetitions; ``epochs`` must have been resolved to steps."""
        return self.batch_size * self.steps


def two_lengths(epochs: object, steps: object) -> ConfigError:
    """Return the error of a config that gives its length twice."""
    reason = f"epochs={epochs} and steps={steps} both say how long to train"
    return ConfigError(field="epochs, steps", reason=reason, hint="set one of them")


def untracked(config: RunConfig) -> RunConfig:
    """Return the config with no tracker."""
    return replace(config, wandb="disabled", tracking=TrackingConfig())
