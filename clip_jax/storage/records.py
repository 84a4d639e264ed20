"""Types of the records of runs and sweeps, as `record_fields` checks them when they are read."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class Measurement(TypedDict):
    """One row of an evaluation; ``low`` and ``high`` are its 95 % interval."""

    task: str
    metric: str
    value: float
    low: NotRequired[float | None]
    high: NotRequired[float | None]
    examples: int | None
    chance: float | None


class EvaluationRow(Measurement):
    """Row of ``evals.jsonl``: a measurement after ``step`` updates that took ``flops``."""

    step: int
    flops: float


class MetricsRow(TypedDict):
    """Row of ``metrics.jsonl``; further columns are metrics of the training step."""

    step: int
    loss: float | None
    samples_seen: NotRequired[int]
    samples_per_s: NotRequired[float]
    mfu: NotRequired[float | None]
    wall_s: NotRequired[float]
    step_s: NotRequired[float]
    goodput: NotRequired[float]


class Event(TypedDict):
    """Row of ``events.jsonl``; which further fields it has depends on the event."""

    event: str
    attempt: NotRequired[int]
    time: NotRequired[float]
    step: NotRequired[int]
    reason: NotRequired[str]
    devices: NotRequired[int]
    to: NotRequired[int]  # of a rollback: the step gone back to, and how many batches are skipped from there on
    data_offset: NotRequired[int]
    repeats: NotRequired[int]  # of an attempt: steps that it trains again, as far as the one before recorded them


class Split(TypedDict):
    """Number of records of a split, and a digest of their names; rendered scenes have none."""

    records: int
    digest: str | None


class ExtensionRecord(TypedDict):
    """Names of the loss and the evaluators that a caller added to a run."""

    loss: str | None
    evaluators: list[str]


class BranchRecord(TypedDict):
    """Branch point of a run: the id of its trunk, and the step up to which the trunk was trained in its place."""

    trunk: str
    step: int


class Inputs(TypedDict, total=False):
    """Inputs of a run besides its config, as it began: fields of ``status.json`` and ``result.json``."""

    data: dict[str, Split]
    tokenizer_sha256: str
    extensions: ExtensionRecord
    missing_shards: list[str]  # read from others since; added to when the run resumes
    branched_from: BranchRecord


class Status(Inputs, total=False):
    """Content of ``status.json``: how the last attempt at a run stands."""

    run_id: str
    state: str  # running, stopped, failed or finished
    step: int
    steps: int
    attempt: int
    family_id: str | None
    engine_job: str | None
    pid: int | None
    host: str | None
    first_started: float  # this and the next two: seconds since 1970
    started: float
    heartbeat: float
    reason: str | None
    wall_s: float  # of all attempts
    seconds: dict[str, float]
    store: dict[str, int]  # `range_reads.COUNTED` of all processes and attempts; none where nothing remote was read
    last_event: str | None


class Submission(TypedDict):
    """Content of ``submission.json``: what was last submitted for a run, and to which engine."""

    engine: str
    name: str
    index: int
    attempt: int
    tries: int  # attempts since the last progress
    step: int  # of the newest checkpoint then
    job: NotRequired[str]
    accepted: bool
    time: NotRequired[float]


class Owner(TypedDict, total=False):
    """Holder of a lock or a lease; a lock has no heartbeat."""

    pid: int
    host: str
    machine: str | None
    began: str | None  # start time of the process
    heartbeat: float
    released: bool
    token: str


class Failure(TypedDict):
    """Content of ``failure.json``: why a run is not tried again."""

    reason: str
    code: NotRequired[int | None]
    log: NotRequired[str | None]


class PlannedRun(TypedDict):
    """Row of ``plan.json``: one run of a sweep, or why it was dropped from the plan."""

    run_id: str
    kind: str
    rung: float
    budget: float
    seed: int
    width: int
    depth: int
    params: int
    batch_size: int
    samples_seen: int
    flops: float
    peak_lr: float
    steps: int
    dropped: str | None
    branch_at: NotRequired[int]  # steps that a trunk is to train in its place
