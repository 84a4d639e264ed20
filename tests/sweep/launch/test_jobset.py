"""JobSets: what is written, against files that were read and validated; and `kubectl`, pretended."""

import json
import os
import stat
from pathlib import Path

import pytest
import yaml

from clip_jax.config.sweep import Resources
from clip_jax.sweep.launch.base import EngineDown, Job
from clip_jax.sweep.launch.jobset import JobSets
from clip_jax.sweep.launch.reconcile import reconcile

from ...user_errors import raises_user_error
from ...whole_result import WHOLE_TEXT

GOLDEN = Path(__file__).parent / "golden"
POD = {"container_image": "example.org/clip-jax:1", "pvc_name": "sweeps", "mount_path": "/sweeps", "queue": "research"}
V5P = {"accelerator": "tpu-v5p-slice", "devices_per_process": 4}
KINDS = {
    "tpu_slice": V5P | {"topology": "4x4x4", "priority": "low"},
    "tpu_two_slices": V5P | {"topology": "2x2x2", "slices": 2},
    "gpu_pods": {
        "accelerator": "nvidia-h100-80gb", "devices_per_process": 8, "nodes": 4, "cpus_per_process": 96,
        "memory": "900Gi", "namespace": "vision", "env": ("NCCL_SOCKET_IFNAME=eth0",),
    },
    "cpu_pod": {"cpus_per_process": 4, "memory": "8Gi", "grace_period_s": 30},
}  # fmt: skip


def rendered(kind):
    job = Job((Path("/sweeps/s/runs/0123456789ab"),), ("train", "--config=/sweeps/s/c.json", "--quiet"))
    return JobSets(Path("/sweeps/s"), 1, Resources(**POD, **KINDS[kind])).render("clip-0a1b2c3d4e", [job])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_was_read_and_validated(kind):
    # After a change that is meant, look at what `render` gives and put it in the file.
    assert rendered(kind) == (GOLDEN / f"{kind}.yaml").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_inner_job_is_a_job_of_kubernetes(kind):
    validate = pytest.importorskip("kubernetes_validate", reason="the extra k8s is not installed")
    (jobset,) = yaml.safe_load_all(rendered(kind))
    inner = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}, "spec": inner}
    validate.validate(job, "1.29", strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(job | {"spec": inner | {"paralelism": 1}}, "1.29", strict=True)


def test_hosts_follow_from_the_topology():
    assert Resources(**POD, **KINDS["tpu_slice"]).hosts == 16
    assert "parallelism: 2" in rendered("tpu_two_slices")
    assert "replicas: 2" in rendered("tpu_two_slices")


def test_pods_must_see_the_sweep():
    with raises_user_error(field="resources.mount_path", value="/sweeps", reason="/home/s"):
        JobSets(Path("/home/s"), 1, Resources(**POD))


KUBECTL = """#!/usr/bin/env python3
import json, sys, pathlib, yaml
root = pathlib.Path({root!r})
down = root / "down"
if down.exists():
    sys.exit("Unable to connect to the server: dial tcp: i/o timeout")
there = root / "there.json"
items = json.loads(there.read_text()) if there.exists() else {{}}
verb = sys.argv[1]
if verb == "apply":
    for item in yaml.safe_load_all(sys.stdin):
        items[item["metadata"]["name"]] = item
elif verb == "delete":
    for name in sys.argv[5:]:
        items.pop(name, None)
elif verb == "get":
    print(json.dumps({{"items": list(items.values())}}))
there.write_text(json.dumps(items))
with (root / "calls").open("a") as calls:
    calls.write(verb + chr(10))
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Put a `kubectl` on the path that stores its input; return the engine and a function that changes an item."""
    import sys

    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL.format(root=str(tmp_path)).replace("/usr/bin/env python3", sys.executable))
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{kubectl.parent}:{os.environ['PATH']}")
    engine = JobSets(tmp_path, 1, Resources(**POD | {"mount_path": str(tmp_path)}, poll_s=0.05))
    return engine, tmp_path


def change(root, **fields):
    manifest = root / "there.json"
    items = json.loads(manifest.read_text())
    for item in items.values():
        item |= fields
    manifest.write_text(json.dumps(items))


def test_states_by_conditions(cluster):
    from clip_jax.sweep.launch.reconcile import submit

    engine, root = cluster
    job = Job((root / "runs" / "a",), ("train",))
    assert engine.poll(job.run_dirs) == {}
    submit(engine, [job])
    assert engine.poll(job.run_dirs) == {"a": "running"}
    change(root, spec={"suspend": True})
    assert engine.poll(job.run_dirs) == {"a": "queued"}
    change(
        root, status={"conditions": [{"type": "Failed", "status": "False"}, {"type": "Suspended", "status": "True"}]}
    )
    assert engine.poll(job.run_dirs) == {"a": "queued"}
    for end in ("Completed", "Failed"):
        change(root, status={"conditions": [{"type": end, "status": "True"}]})
        assert engine.poll(job.run_dirs) == {}
    engine.cancel(job.run_dirs)
    assert json.loads((root / "there.json").read_text()) == {}


def test_a_cluster_that_is_away_takes_no_attempt(cluster, monkeypatch):
    engine, root = cluster
    job = Job((root / "runs" / "a",), ("train",))
    (root / "down").touch()
    with raises_user_error(EngineDown, field="kubectl", reason="Unable to connect"):
        reconcile(engine, [job], 1)
    (root / "down").unlink()
    polls, lines, seen = [], [], []
    poll = engine.poll

    def and_then(jobs):
        polls.append(1)
        if len(polls) == 2:
            (root / "down").touch()
        if len(polls) == 4:
            (root / "down").unlink()
            (root / "runs" / "a" / "result.json").write_text(WHOLE_TEXT)
            change(root, status={"conditions": [{"type": "Completed", "status": "True"}]})
        return poll(jobs)

    monkeypatch.setattr(engine, "poll", and_then)
    reconcile(engine, [job], 1, seen.append, lines.append)
    assert [o.reason for o in seen] == [""]
    assert len(lines) == 2
    assert "asking again until it answers" in lines[0]
    assert (root / "calls").read_text().split().count("apply") == 1
