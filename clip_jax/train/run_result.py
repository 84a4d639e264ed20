"""The record ``result.json`` of a run as a type. Imports no jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field

from clip_jax.storage.record_fields import require_fields
from clip_jax.storage.records import BranchRecord, Event, ExtensionRecord, Inputs, Measurement, Split
from clip_jax.types import JsonObject

INPUTS = tuple(Inputs.__annotations__)


class _Record(Mapping[str, object]):
    """Dataclass whose fields can also be read as items."""

    def __getitem__(self, name: str) -> object:
        if name not in self.__dataclass_fields__:  # type: ignore[attr-defined]
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dataclass_fields__)  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.__dataclass_fields__)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True, eq=False)
class UnfinishedRun(_Record):
    """End of an attempt that did not do all steps; ``state`` is stopped or failed."""

    run_id: str
    state: str
    step: int
    exit_reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult(_Record):
    """Everything that the fits need from a finished run. Files of earlier versions lack the fields with a default."""

    run_id: str | None = None
    family_id: str | None = None
    state: str
    exit_reason: str
    final: bool
    config: JsonObject = field(default_factory=dict)  # as JSON
    flops: float
    flops_logits: float
    flops_per_sample: float
    params: int
    params_image: int
    params_text: int
    params_no_embed: int
    samples_seen: int
    unique_samples: int
    drawn_by_path: list[int] | None = None
    batch_size: int
    seed: int
    steps: int
    peak_lr: float
    wall_s: float
    eval_s: float
    eval_flops: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # by part of the program
    goodput: float | None = None
    samples_per_s: float | None
    mfu: float | None
    device: JsonObject  # kind, platform, count
    mesh: dict[str, int] = field(default_factory=dict)
    attempts: int
    events: list[Event] = field(default_factory=list)
    versions: dict[str, str]  # by package
    broken_records: int
    store: dict[str, int] = field(default_factory=dict)  # asked of remote stores: `range_reads.COUNTED`
    data: dict[str, Split] | None = None
    tokenizer_sha256: str | None = None
    extensions: ExtensionRecord | None = None
    missing_shards: list[str] | None = None
    branched_from: BranchRecord | None = None
    error_mean: float | None
    val_loss: float | None
    val_loss_refit: float | None
    evals: list[Measurement]

    @classmethod
    def from_json(cls, values: JsonObject, source: object) -> RunResult:
        """Return the result from a parsed ``result.json``, whose fields' types `storage.json_files.read_json` checked.

        Args:
          values: the JSON object; fields that this version does not know are left out.
          source: the file, for messages.

        Raises:
          UserError: a field of every version is missing.
        """
        require_fields(values, REQUIRED, source)
        for group, name in (("device", "kind"), ("versions", "jax")):
            require_fields(values[group], (name,), source, f"{group}.")
        for index, row in enumerate(values["evals"]):
            require_fields(row, ("task", "metric", "value"), source, f"evals[{index}].")
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})

    def to_json(self) -> JsonObject:
        """Return the content of ``result.json``, without inputs that the run has not."""
        return {name: value for name, value in self.items() if value is not None or name not in INPUTS}


REQUIRED = tuple(f.name for f in dataclasses.fields(RunResult) if f.default is MISSING and f.default_factory is MISSING)
