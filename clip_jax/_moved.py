"""Old import paths, for one release: each warns and gives what took its place."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import MappingProxyType, ModuleType

MOVED = {
    "checks": "errors",
    "cluster": "distributed.cluster",
    "config_io": "config.io",
    "data.class_names": "data.labeled.class_names",
    "data.classification": "data.labeled.classification",
    "data.decoded": "data.pipeline.decode_cache",
    "data.fast_jpeg": "data.images.fast_jpeg",
    "data.folder": "data.sources.folder",
    "data.hf_tokenizer": "data.tokenizers.huggingface",
    "data.icons": "datasets.icons",
    "data.icons.build": "datasets.icons.build",
    "data.icons.captions": "datasets.icons.captions",
    "data.icons.families": "datasets.icons.design_groups",
    "data.icons.names": "datasets.icons.names",
    "data.icons.package": "datasets.icons.package",
    "data.icons.pool": "datasets.icons.pool",
    "data.icons.render": "datasets.icons.render",
    "data.icons.sheet": "datasets.icons.contact_sheet",
    "data.icons.table": "datasets.icons.table",
    "data.icons.tasks": "datasets.icons.tasks",
    "data.icons.write": "datasets.icons.write",
    "data.labelled": "data.labeled.open",
    "data.loader": "data.pipeline.loader",
    "data.mixing": "data.pipeline.sampling",
    "data.overlap": "data.labeled.perceptual_hash",
    "data.preprocess": "data.images.eval_preprocess",
    "data.published_tokenizer": "data.tokenizers.clip_bpe",
    "data.remote": "storage.range_reads",
    "data.scene_tasks": "data.scenes.tasks",
    "data.scene_text": "data.scenes.captions",
    "data.shards": "data.sources.shard_list",
    "data.tar_index": "data.sources.tar_index",
    "data.tfds": "data.sources.tfds",
    "data.transforms": "data.images.train_transforms",
    "data.webdataset": "data.sources.webdataset",
    "data.workers": "data.pipeline.prefetch",
    "delimited": "storage.delimited",
    "devices": "flops.devices",
    "evals.leakage": "evals.contamination",
    "evals.suite": "evals.in_training",
    "evals.transfer": "evals.benchmark",
    "loading": "inference",
    "model_config": "config.model",
    "parallel": "distributed.mesh",
    "parametrisation": "config.mup",
    "places": "storage.paths",
    "presets": "config.presets",
    "processes": "distributed.processes",
    "rounding": "optim.stochastic_rounding",
    "scaling.allocation": "scaling.frontier.allocation",
    "scaling.approaches": "scaling.frontier.approaches",
    "scaling.averaging": "scaling.analysis.averaging",
    "scaling.chance": "scaling.data.chance",
    "scaling.checklist": "scaling.report.checklist",
    "scaling.clusters": "scaling.uncertainty.clusters",
    "scaling.compare": "scaling.planning.compare",
    "scaling.constrained": "scaling.profile.constrained",
    "scaling.design": "scaling.planning.experimental_design",
    "scaling.diagnostics": "scaling.uncertainty.diagnostics",
    "scaling.evidence": "scaling.analysis.frontier_fit",
    "scaling.figures": "scaling.report.figures",
    "scaling.figures.arms": "scaling.report.figures.ablations",
    "scaling.figures.cloud": "scaling.report.figures.cloud",
    "scaling.figures.curves": "scaling.report.figures.curves",
    "scaling.figures.drawn": "scaling.report.figures.drawn",
    "scaling.figures.files": "scaling.report.figures.files",
    "scaling.figures.forecast": "scaling.report.figures.forecast",
    "scaling.figures.headline": "scaling.report.figures.headline",
    "scaling.figures.learning": "scaling.report.figures.learning",
    "scaling.figures.same_curves": "scaling.report.figures.same_curves",
    "scaling.figures.seeds": "scaling.report.figures.seeds",
    "scaling.figures.style": "plotting.style",
    "scaling.figures.surface": "scaling.report.figures.parametric",
    "scaling.figures.ticks": "plotting.ticks",
    "scaling.figures.transfer": "evals.figures",
    "scaling.figures.trust": "scaling.report.figures.residuals",
    "scaling.figures.valley_errors": "scaling.report.figures.valley_errors",
    "scaling.figures.valleys": "scaling.report.figures.isoflop",
    "scaling.figures.whisker": "scaling.report.figures.whisker",
    "scaling.forecast": "scaling.analysis.extrapolation",
    "scaling.held_out": "scaling.any_table.held_out",
    "scaling.interval_format": "scaling.uncertainty.interval_format",
    "scaling.isoflop": "scaling.frontier.isoflop",
    "scaling.loss": "scaling.fit.loss",
    "scaling.noise": "scaling.profile.noise",
    "scaling.page": "scaling.report.page",
    "scaling.page.data": "scaling.report.page.data",
    "scaling.page.tables": "scaling.report.page.tables",
    "scaling.points": "scaling.data.observations",
    "scaling.pooled": "scaling.analysis.pooled",
    "scaling.prediction": "scaling.profile.prediction",
    "scaling.provenance": "scaling.data.provenance",
    "scaling.published": "scaling.literature.published",
    "scaling.registration": "scaling.planning.preregistration",
    "scaling.replicate": "scaling.literature.replicate",
    "scaling.selection": "scaling.frontier.selection",
    "scaling.solver": "scaling.fit.solver",
    "scaling.statistic": "scaling.profile.statistic",
    "scaling.summary": "scaling.report.summary",
    "scaling.surface": "scaling.frontier.parametric",
    "scaling.synthetic": "scaling.data.synthetic",
    "scaling.table": "scaling.data.runs_table",
    "scaling.table_allocation": "scaling.any_table.allocation",
    "scaling.table_approaches": "scaling.any_table.approaches",
    "scaling.table_average": "scaling.any_table.average",
    "scaling.table_files": "scaling.data.table_files",
    "scaling.table_intervals": "scaling.any_table.intervals",
    "scaling.table_options": "scaling.any_table.options",
    "scaling.table_rows": "scaling.any_table.rows",
    "scaling.table_tasks": "scaling.any_table.tasks",
    "scaling.table_two_step": "scaling.any_table.two_step",
    "scaling.tablecompare": "scaling.any_table.compare",
    "scaling.tablefit": "scaling.any_table.fit",
    "scaling.two_step": "scaling.analysis.two_step",
    "scaling.valleys": "scaling.frontier.valleys",
    "scaling.verbs": "cli.scaling",
    "sweep.claim": "sweep.directory",
    "sweep.families": "sweep.batching",
    "sweep.forecast": "sweep.analysis.forecast",
    "sweep.launch.engine": "sweep.launch.base",
    "sweep.next_runs": "sweep.analysis.next_runs",
    "sweep.propose": "sweep.search.samplers",
    "sweep.reconcile": "sweep.launch.reconcile",
    "sweep.roofline": "sweep.preflight.roofline",
    "sweep.rules": "sweep.analysis.hyperparameter_scaling",
    "sweep.run": "sweep.driver",
    "sweep.search_config": "sweep.search.config",
    "sweep.search_figure": "sweep.search.figure",
    "sweep.space": "sweep.search.space",
    "sweep.steer": "sweep.control",
    "sweep.submission": "sweep.launch.submission",
    "sweep.verbs": "cli.sweep",
    "sweep_config": "config.sweep",
    "sweep_rules": "config.hyperparameter_rules",
    "train.accumulate": "train.grad_cache",
    "train.coordinates": "train.coord_check",
    "train.family": "train.vmapped.trainer",
    "train.family_gain": "train.vmapped.benchmark",
    "train.faults": "train.anomalies",
    "train.kinship": "train.vmapped.compatibility",
    "train.lease": "storage.lease",
    "train.lines": "storage.jsonl",
    "train.lock": "storage.lock",
    "train.meter": "train.metrics",
    "train.mirror": "train.trackers",
    "train.record": "train.run_directory",
    "train.seal": "train.checksum",
    "train.shapes": "storage.record_fields",
    "train.stopping": "train.preemption",
    "train.timing": "train.timer",
}  # below clip_jax


class MovedModules(MetaPathFinder, Loader):
    """Finder of a module under its old path, after all other finders failed: the same module object as under the new
    one."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old path; None for any other."""
        room, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if room == "clip_jax" and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that took the old one's place, with a warning that names it."""
        new = f"clip_jax.{MOVED[spec.name.partition('.')[2]]}"
        _warn(spec.name, new)
        module = import_module(new)
        self._specs[new] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back, which the import system has replaced."""
        module.__spec__ = self._specs[module.__name__]


def names_of(package: str, *modules: str, renamed: Mapping[str, str] = MappingProxyType({})) -> Callable[[str], object]:
    """Return a ``__getattr__`` for a package that took the name of a module, or for names that were changed or moved.

    Args:
      package: its ``__name__``.
      modules: where the names of the old module are now, below ``clip_jax``.
      renamed: old name -> new name, in the package itself.
    """

    def is_submodule(name: str) -> bool:
        return hasattr(sys.modules[package], "__path__") and find_spec(f"{package}.{name}") is not None

    def get(name: str) -> object:
        if name in renamed:
            _warn(f"{package}.{name}", f"{package}.{renamed[name]}")
            return getattr(import_module(package), renamed[name])
        if modules and not name.startswith("__") and not is_submodule(name):
            for module in modules:
                value = getattr(import_module(f"clip_jax.{module}"), name, None)
                if value is not None:
                    _warn(f"{package}.{name}", f"clip_jax.{module}.{name}")
                    return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get


def renamed(module: str, names: dict[str, str]) -> Callable[[str], object]:
    """Return a ``__getattr__`` for a module whose names were changed.

    Args:
      module: its ``__name__``.
      names: old name -> new name.
    """

    return names_of(module, renamed=names)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is {new} now; the old path goes with the next release", DeprecationWarning, stacklevel=3)
