"""Sweep configs: the runs of a sweep, and the resources that the engine gives to each job.

Importing this module loads neither jax nor numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from clip_jax.config.fields import check_choices
from clip_jax.config.hyperparameter_rules import POWERS, RULED, BudgetRules, LrRule, check_lr_rule, check_multiples
from clip_jax.config.run import RunConfig
from clip_jax.errors import ConfigError, at_least, between

LONGEST_WARMUP = 0.9  # fraction of the steps
EngineName = Literal["local", "slurm", "jobset"]
ENGINES = get_args(EngineName)
# engines that read a field of `Resources`; all engines read the fields that are not listed
_READ_BY = {
    "nodes": ("slurm", "jobset"),
    "processes_per_node": ("slurm",),
    "cpus_per_process": ("slurm", "jobset"),
    "runs_per_device": ("local",),
    "share_process": ("local",),
    "setup_commands": ("slurm",),
    "partition": ("slurm",),
    "gres": ("slurm",),
    "time_limit_min": ("slurm",),
    "grace_period_s": ("slurm", "jobset"),
    "sbatch": ("slurm",),
    "python": ("slurm",),
    "container_image": ("slurm", "jobset"),
    "container_mounts": ("slurm",),
    "accelerator": ("jobset",),
    "topology": ("jobset",),
    "slices": ("jobset",),
    "memory": ("jobset",),
    "queue": ("jobset",),
    "priority": ("jobset",),
    "namespace": ("jobset",),
    "pvc_name": ("jobset",),
    "mount_path": ("jobset",),
    "poll_s": ("slurm", "jobset"),
}


@dataclass(frozen=True)
class Resources:
    """Resources of one job. Fields that the sweep's engine does not read must stay at their default."""

    nodes: int = 1  # hosts per job; for a TPU slice they follow from ``topology``
    processes_per_node: int = 1  # each with its own devices
    devices_per_process: int = 0  # GPUs, or TPU chips per host; 0: none requested (local: slots share all devices)
    cpus_per_process: int = 0  # CPU cores per process; 0: the cluster's default
    runs_per_device: int = 1  # local: number of small runs that share a GPU and its memory
    share_process: bool = True  # local: train the runs of a slot one after another in one process, with equal results
    # environment variables of the jobs, as "NCCL_SOCKET_IFNAME=eth0"; who sees a job or the sweep can read them
    env: tuple[str, ...] = ()
    setup_commands: tuple[str, ...] = ()  # shell lines to run before training, such as "module load cuda"
    partition: str = ""  # Slurm's; empty: the cluster's default
    gres: str = "gpu"  # the cluster's name of its devices, optionally with a type: gpu:a100
    time_limit_min: int = 0  # per attempt; 0: the partition's default
    grace_period_s: int = 120  # how long before its time limit a run is asked to save and stop
    sbatch: tuple[str, ...] = ()  # additional options, passed verbatim: "--account=vision", "--constraint=a100"
    # command of the Python on the nodes, in the shell's words: "python", "apptainer exec --nv clip.sif python"; empty:
    # this interpreter, or python3 in container_image
    python: str = ""
    container_image: str = ""  # container image with clip-jax installed; slurm: srun starts it (pyxis and enroot)
    # slurm: folders that the container sees, as SOURCE:TARGET; the sweep's directory is one
    container_mounts: tuple[str, ...] = ()
    accelerator: str = ""  # GKE's name, such as tpu-v5p-slice or nvidia-h100-80gb; empty: CPU
    topology: str = ""  # of a TPU slice, such as 2x4 or 8x8x16
    slices: int = 1  # number of TPU slices
    memory: str = ""  # per pod, such as 64Gi
    queue: str = ""  # Kueue LocalQueue; empty: do not use Kueue
    priority: str = ""  # Kueue WorkloadPriorityClass
    namespace: str = "default"  # of Kubernetes
    pvc_name: str = ""  # PersistentVolumeClaim of the file system shared by all pods and this machine; gs:// needs none
    mount_path: str = ""  # its mount path on all of them; contains the sweep's directory
    poll_s: float = 10.0  # seconds between polls of the queue
    max_attempts: int = 4  # submissions without a new checkpoint in between, after which the run is marked failed
    price_per_device_hour: float = 0.0  # in any currency; 0: unknown

    def __post_init__(self) -> None:
        for name in ("nodes", "processes_per_node", "runs_per_device", "slices", "max_attempts"):
            at_least(f"resources.{name}", getattr(self, name), 1)
        for name in ("devices_per_process", "cpus_per_process", "time_limit_min", "price_per_device_hour"):
            at_least(f"resources.{name}", getattr(self, name), 0)
        between("resources.poll_s", self.poll_s, 0.05, 3600)
        between("resources.grace_period_s", self.grace_period_s, 1, 65535)
        for variable in self.env:
            name, equals, _ = variable.partition("=")
            if not equals or not name.isidentifier() or not variable.isprintable():
                reason = "must be NAME=VALUE, one line"
                raise ConfigError(field="resources.env", value=variable, reason=reason)
        for name in ("sbatch", "setup_commands", "container_mounts"):
            if any("\n" in line for line in getattr(self, name)):
                raise ConfigError(field=f"resources.{name}", reason="must be one line each")
        if "\n" in self.python:
            raise ConfigError(field="resources.python", reason="must be one line")
        for mount in self.container_mounts:
            if "," in mount or not all(part.startswith("/") for part in mount.split(":")[:2]):
                reason = "must be SOURCE:TARGET, two absolute paths without a comma"
                raise ConfigError(field="resources.container_mounts", value=mount, reason=reason)
        for line in self.sbatch:
            if not line.startswith("--"):
                reason = "must be an option of sbatch, as --account=vision"
                raise ConfigError(field="resources.sbatch", value=line, reason=reason)
        if self.topology and not all(part.isdecimal() and int(part) for part in self.topology.split("x")):
            reason = "must be chips along each axis, as 2x4 or 8x8x16"
            raise ConfigError(field="resources.topology", value=self.topology, reason=reason)

    def check_for(self, engine: str) -> None:
        """Check the fields for an engine; raise ConfigError for one that it ignores or that it needs but is not set."""
        if engine not in ENGINES:
            return  # only an outside engine knows what it reads
        for f in fields(self):
            if engine not in _READ_BY.get(f.name, ENGINES) and getattr(self, f.name) != f.default:
                reason = f"would be ignored with engine={engine!r}"
                hint = f"it belongs to {' and '.join(_READ_BY[f.name])}"
                raise ConfigError(field=f"resources.{f.name}", reason=reason, hint=hint)
        if engine == "local" and self.runs_per_device > 1 and self.devices_per_process > 1:
            reason = "must be 1 with resources.devices_per_process above 1, as runs then share no GPU"
            raise ConfigError(field="resources.runs_per_device", reason=reason)
        if engine == "slurm" and not self.time_limit_min and self.grace_period_s != Resources.grace_period_s:
            reason = "would be ignored without resources.time_limit_min"
            raise ConfigError(field="resources.grace_period_s", reason=reason)
        if engine == "slurm" and not self.devices_per_process and self.gres != Resources.gres:
            raise ConfigError(field="resources.gres", reason="would be ignored with resources.devices_per_process=0")
        if engine == "slurm" and self.container_mounts and not self.container_image:
            reason = "would be ignored without resources.container_image"
            raise ConfigError(field="resources.container_mounts", reason=reason)
        if engine == "jobset":
            self._check_pods()

    def _check_pods(self) -> None:
        if not self.container_image:
            raise ConfigError(field="resources.container_image", reason="missing, and engine='jobset' needs it")
        for name, other in (("pvc_name", "mount_path"), ("mount_path", "pvc_name")):
            if getattr(self, name) and not getattr(self, other):
                raise ConfigError(field=f"resources.{other}", reason=f"missing, and resources.{name} needs it")
        if self.mount_path and not self.mount_path.startswith("/"):
            raise ConfigError(field="resources.mount_path", value=self.mount_path, reason="must be an absolute path")
        if self.priority and not self.queue:
            raise ConfigError(field="resources.priority", reason="would be ignored without resources.queue")
        if self.accelerator and not self.devices_per_process:
            raise ConfigError(field="resources.devices_per_process", reason="must be set when resources.accelerator is")
        if self.devices_per_process and not self.accelerator:
            raise ConfigError(field="resources.accelerator", reason="must be set when resources.devices_per_process is")
        if not self.topology:
            if self.slices > 1 or self.accelerator.startswith("tpu-"):
                raise ConfigError(field="resources.topology", reason="missing, and TPU slices need it")
            return
        if not self.accelerator.startswith("tpu-"):
            reason = f"would be ignored with resources.accelerator={self.accelerator!r}"
            raise ConfigError(field="resources.topology", reason=reason)
        if self.nodes != 1:
            reason = "would be ignored, the hosts of a slice follow from resources.topology"
            raise ConfigError(field="resources.nodes", reason=reason)
        if self.chips % self.devices_per_process:
            reason = f"must divide the {self.chips} chips of resources.topology={self.topology!r}"
            raise ConfigError(field="resources.devices_per_process", value=self.devices_per_process, reason=reason)

    @property
    def variables(self) -> dict[str, str]:
        """The variables of ``env`` by name."""
        return {name: value for name, _, value in (variable.partition("=") for variable in self.env)}

    @property
    def chips(self) -> int:
        """Number of chips per TPU slice."""
        return math.prod(int(part) for part in self.topology.split("x"))

    @property
    def devices(self) -> int:
        """Number of devices per job; 1 if none are requested."""
        chips = self.chips * self.slices if self.topology else self.nodes * self.processes_per_node
        return chips if self.topology else chips * max(1, self.devices_per_process)

    @property
    def hosts(self) -> int:
        """Number of hosts per TPU slice, or per job without slices."""
        return self.chips // self.devices_per_process if self.topology else self.nodes


@dataclass(frozen=True)
class IndexConfig:
    """An index of shards made by jobs, each a part of it."""

    parts: int = 16  # jobs that each index as many shards
    engine: EngineName | str = "local"  # where they run, as for a sweep
    max_concurrent_runs: int = 1  # jobs at a time; in JobSet's queue too
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        check_choices(self)
        at_least("parts", self.parts, 2)
        at_least("max_concurrent_runs", self.max_concurrent_runs, 1)
        self.resources.check_for(self.engine)
        for name in ("nodes", "processes_per_node", "slices", "topology"):
            if getattr(self.resources, name) != getattr(Resources, name):
                reason = "would start several processes, and a part is made by one"
                raise ConfigError(field=f"resources.{name}", reason=reason, hint="raise parts; --workers are its own")


@dataclass(frozen=True)
class SweepConfig:
    """A sweep: model sizes × FLOPs budgets × seeds, planned before anything runs.

    Checks train multiples of one setting with all else as planned, on the first seed: of the learning rate where
    ``lr_multipliers_at`` says, of the other settings at each budget's best size. No scaling law is fitted to them;
    `sweep.analysis.hyperparameter_scaling` fits hyperparameter rules to them.
    """

    name: str  # of the sweep and, by default, of its directory
    base: RunConfig = field(default_factory=RunConfig)
    rungs: tuple[float, ...] = (1, 2, 3, 4, 6, 8)  # positions on the scaling ladder (`presets.ladder`)
    models: tuple[str, ...] = ()  # named sizes instead of rungs; the column rung is then the index into this list
    budgets: tuple[float, ...] = (1e11, 1e12)  # training FLOPs per run
    sizes_per_budget: int = 3  # sizes kept around the guessed optimum; 0: all that fit
    optimum_samples_per_param: float = 0.5  # guessed optimum, at which the kept sizes are centered
    seeds: tuple[int, ...] = (0,)  # each is added to base.seed
    extra_seeds_at_optimum: tuple[int, ...] = (1,)  # trained only at each budget's best size once known
    min_steps: int = 50  # cells with fewer steps are dropped
    max_epochs: float = 0.0  # passes over the unique pairs at most; 0: no limit
    lr_rule: LrRule = "width_power"  # mup: constant, as the parametrization scales the rates
    base_lr: float = 4e-3  # peak learning rate from which lr_rule starts
    base_width: int = 32  # width_power: width at which base_lr applies, times (base_width / width)**lr_width_power
    lr_width_power: float = 0.5  # width_power: the exponent
    compute_scaling: BudgetRules = field(default_factory=BudgetRules)
    lr_multipliers: tuple[float, ...] = (0.5, 2.0)  # multiples of the learning rate to try
    lr_multipliers_at: Literal["best", "rungs"] = (
        "best"  # best: at each budget's best size | rungs: at each size's smallest
    )
    weight_decay_multipliers: tuple[float, ...] = ()  # multiples of the weight decay to try
    warmup_multipliers: tuple[float, ...] = ()  # multiples of the warm-up's share of the steps to try
    batch_multipliers: tuple[float, ...] = ()  # multiples of the batch size to try, powers of two, at a fixed budget
    warmup_fraction: float = 0.1  # share of the steps in the warm-up
    # train each size once at a constant learning rate, and branch the learning-rate decay of each budget off it
    trunks: bool = False
    metric: str = "error_mean"  # column of runs.csv that picks the best size and is fitted
    engine: EngineName | str = "local"  # what runs the jobs; or the name that an installed package adds
    resources: Resources = field(default_factory=Resources)  # resources of each job
    max_concurrent_runs: int = 1  # under Slurm per array, and each resubmission is another array
    vmap_runs: Literal["off", "auto"] = "off"  # auto: train runs of one shape as one vmapped program if that is faster
    max_vmapped_runs: int = 8  # maximum number of runs per vmapped program
    gflops_per_second: float = 50.0  # assumed speed, only for the plan's time column

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.name or any(c in self.name for c in "/\\ "):
            raise ConfigError(field="name", value=self.name, reason="must be a name without spaces and slashes")
        for name in ("rungs", "budgets", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(field=name, value=values, reason="must hold at least one value, and none twice")
        if self.models and self.rungs != SweepConfig.rungs:
            raise ConfigError(field="rungs", reason="ignored with models")
        if len(set(self.models)) != len(self.models):
            raise ConfigError(field="models", value=self.models, reason="must not repeat a model")
        if not self.lr_multipliers and self.lr_multipliers_at != "best":
            raise ConfigError(field="lr_multipliers_at", reason="ignored without lr_multipliers")
        for budget in self.budgets:
            at_least("budgets", budget, 1.0)
        if set(self.seeds) & set(self.extra_seeds_at_optimum):
            raise ConfigError(field="extra_seeds_at_optimum", reason="must not repeat a value of seeds")
        for name in ("sizes_per_budget", "max_epochs"):
            at_least(name, getattr(self, name), 0)
        for name in ("base_lr", "gflops_per_second"):
            if not getattr(self, name) > 0:
                raise ConfigError(field=name, value=getattr(self, name), reason="must be above 0")
        for name in ("min_steps", "base_width", "max_concurrent_runs"):
            at_least(name, getattr(self, name), 1)
        if self.base.epochs:
            raise ConfigError(field="base.epochs", reason="ignored, budgets says how long each run is")
        between("warmup_fraction", self.warmup_fraction, 0.0, LONGEST_WARMUP)
        usual = (self.base_width, self.lr_width_power) == (SweepConfig.base_width, SweepConfig.lr_width_power)
        check_lr_rule(self.lr_rule, self.base.model.parametrization.kind, usual)
        self.resources.check_for(self.engine)
        self._check_vmap_runs()
        self._check_multipliers()
        self._check_trunks()

    def _check_multipliers(self) -> None:
        for name in RULED:
            check_multiples(f"{name}_multipliers", getattr(self, f"{name}_multipliers"), of_two=name == "batch")
        if self.weight_decay_multipliers and not self.base.optim.weight_decay:
            reason = "base.optim.weight_decay is 0, and so is every multiple of it"
            raise ConfigError(field="weight_decay_multipliers", reason=reason)
        most = self.warmup_fraction * max(self.warmup_multipliers, default=0.0)
        if self.warmup_multipliers and not 0 < most <= LONGEST_WARMUP:
            reason = f"times warmup_fraction={self.warmup_fraction:g} must be above 0 and at most {LONGEST_WARMUP}"
            raise ConfigError(field="warmup_multipliers", value=self.warmup_multipliers, reason=reason)

    def _check_trunks(self) -> None:
        if not self.trunks:
            return
        optim, fractions = self.base.optim, self.base.evals.at_fractions
        if optim.schedule != "wsd":
            reason = "must be 'wsd' with trunks, as budgets share no part of another schedule"
            raise ConfigError(field="base.optim.schedule", value=optim.schedule, reason=reason)
        if optim.optimizer == "schedule_free":
            reason = "has no decay that could branch off a trunk"
            hint = "evaluate one run at several base.evals.at_fractions"
            raise ConfigError(field="base.optim.optimizer", value=optim.optimizer, reason=reason, hint=hint)
        for name in ("warmup_fraction", "warmup_multipliers"):
            if getattr(self, name) != getattr(SweepConfig, name):
                reason = "ignored with trunks, whose warm-up is base.optim.warmup_steps for every budget"
                raise ConfigError(field=name, value=getattr(self, name), reason=reason)
        for name in POWERS:
            if value := getattr(self.compute_scaling, name):
                reason = "must be 0 with trunks, as the budgets of a size share their first steps"
                raise ConfigError(field=f"compute_scaling.{name}", value=value, reason=reason)
        if fractions and min(fractions) < 1 - optim.lr_decay_fraction:
            reason = f"must be at least {1 - optim.lr_decay_fraction:g} with trunks, where the decay begins"
            raise ConfigError(field="base.evals.at_fractions", value=fractions, reason=reason)
        if self.vmap_runs != "off":
            raise ConfigError(field="vmap_runs", value=self.vmap_runs, reason="must be 'off' with trunks")

    def _check_vmap_runs(self) -> None:
        if self.vmap_runs == "off":
            if self.max_vmapped_runs != SweepConfig.max_vmapped_runs:
                raise ConfigError(field="max_vmapped_runs", reason="would be ignored with vmap_runs='off'")
            return
        at_least("max_vmapped_runs", self.max_vmapped_runs, 2)
        if self.engine != "local":
            reason = f"would be ignored with engine={self.engine!r}"
            raise ConfigError(field="vmap_runs", reason=reason, hint="it belongs to local")
        if self.resources.devices_per_process > 1:
            raise ConfigError(
                field="resources.devices_per_process",
                value=self.resources.devices_per_process,
                reason=f"must be at most 1 with vmap_runs={self.vmap_runs!r}, as vmapped runs train on one device",
            )

    @property
    def sizes(self) -> tuple[float, ...]:
        """Rungs in ascending order; with ``models``, the indices into that list."""
        return tuple(range(len(self.models))) if self.models else tuple(sorted(self.rungs))
