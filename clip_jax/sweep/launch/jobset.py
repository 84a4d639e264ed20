"""The Kubernetes engine: one JobSet per run, queued by Kueue, on TPU slices, GPU pods or CPU pods.

Disruptions (a preempted, drained or lost node) restart the JobSet and do not count as an attempt; any other failure
ends it, and the reconciler decides. Only ``kubectl`` is used. The fields are those of JobSet v1alpha2 and of GKE's node
labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clip_jax.config.sweep import Resources
from clip_jax.distributed.cluster import compile_cache_of, device_variables
from clip_jax.errors import UserError, parse_json
from clip_jax.storage.paths import is_remote
from clip_jax.sweep.launch.base import Job, run_command
from clip_jax.sweep.launch.submission import read_submission
from clip_jax.train.run_directory import SUBMISSION
from clip_jax.types import JsonObject

PROGRAM = ("clip-jax",)
PORT = 8476  # of the coordinator, process 0
KEEP_S = 3600  # seconds for which a finished JobSet and its logs are kept
LABEL = "app.kubernetes.io/name"
DOWN = (
    "unable to connect to the server", "connection refused", "i/o timeout", "tls handshake timeout", "was refused",
    "service unavailable", "serviceunavailable", "etcdserver", "too many requests", "no such host", "timed out",
)  # fmt: skip


class JobSets:
    """Engine of JobSets. ``slots`` is the number of JobSets in the cluster at once, including queued ones."""

    name, max_jobs_per_submit = "jobset", 1

    def __init__(self, sweep_dir: Path, slots: int, resources: Resources, program: tuple[str, ...] = PROGRAM) -> None:
        """Check that pods will see the sweep's directory; raise UserError if they will not."""
        self.sweep_dir, self.resources, self.program = sweep_dir, resources, program
        self.max_in_flight: int | None = slots
        self.poll_s = resources.poll_s
        if is_remote(sweep_dir):
            if resources.mount_path:
                raise UserError(
                    field="resources.mount_path, resources.pvc_name",
                    reason=f"would be ignored, {sweep_dir} is in a bucket",
                )
            return
        if not resources.mount_path:
            raise UserError(
                field="resources.mount_path, resources.pvc_name",
                reason=f"missing, and engine='jobset' needs them for {sweep_dir}",
                hint="a sweep in a bucket (gs://…) needs none",
            )
        if Path(resources.mount_path) not in (sweep_dir, *sweep_dir.parents):
            raise UserError(
                field="resources.mount_path",
                value=resources.mount_path,
                reason=f"must hold the sweep's directory {sweep_dir}, which pods find under the same name",
            )

    def submit(self, name: str, jobs: Sequence[Job]) -> None:
        """Submit with ``kubectl apply``, which does nothing if the JobSet exists already."""
        run_command(("kubectl", "apply", "-f", "-"), DOWN, self.render(name, jobs))

    def poll(self, run_dirs: Sequence[Path]) -> dict[str, str]:
        """Return the JobSets that are neither completed nor failed; a suspended one is waiting for Kueue."""
        out = run_command((*self._kubectl("get"), "-l", f"{LABEL}=clip-jax", "-o", "json"), DOWN)
        states = {item["metadata"]["name"]: _state(item) for item in parse_json(out, "kubectl")["items"]}
        return {d.name: state for d in run_dirs if (state := states.get(_name(d), ""))}

    def cancel(self, run_dirs: Sequence[Path]) -> None:
        """Cancel with ``kubectl delete``; the pods have ``grace_period_s`` seconds to save."""
        if names := list(dict.fromkeys(name for run_dir in run_dirs if (name := _name(run_dir)))):
            run_command((*self._kubectl("delete"), "--ignore-not-found", "--wait=false", *names), DOWN)

    def log(self, run_dir: Path) -> str:
        """Return the last lines of the pods' logs."""
        pods = f"jobset.sigs.k8s.io/jobset-name={_name(run_dir)}"
        return run_command(
            ("kubectl", "logs", f"--namespace={self.resources.namespace}", "-l", pods, "--prefix", "--tail=100"), DOWN
        )

    def detach(self) -> None:
        """Do nothing: the JobSets continue without a driver."""

    def _kubectl(self, verb: str) -> tuple[str, ...]:
        return ("kubectl", verb, "jobsets.jobset.x-k8s.io", f"--namespace={self.resources.namespace}")

    def render(self, name: str, jobs: Sequence[Job]) -> str:
        """Return the YAML that ``kubectl apply`` reads."""
        import yaml

        documents = [self._jobset(name, job) for job in jobs]
        return yaml.safe_dump_all(documents, explicit_start=True, sort_keys=False, width=120)

    def _jobset(self, name: str, job: Job) -> JsonObject:
        r = self.resources
        labels = {LABEL: "clip-jax", "clip-jax/run": f"run-{job.key}"}  # digits alone would be parsed as a number
        labels |= {"kueue.x-k8s.io/queue-name": r.queue} if r.queue else {}
        labels |= {"kueue.x-k8s.io/priority-class": r.priority} if r.priority else {}
        metadata: JsonObject = {"name": name, "namespace": r.namespace, "labels": labels}
        if r.topology:  # a slice is a node pool, and a pool holds one job
            metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": metadata,
            "spec": {
                "ttlSecondsAfterFinished": KEEP_S,
                "failurePolicy": {
                    "maxRestarts": 0,
                    "rules": [
                        {
                            "action": "RestartJobSetAndIgnoreMaxRestarts",
                            "onJobFailureReasons": ["PodFailurePolicy"],
                        }
                    ],
                },
                "replicatedJobs": [
                    {"name": "train", "replicas": r.slices, "template": {"spec": self._inner_job(name, job)}}
                ],
            },
        }

    def _inner_job(self, name: str, job: Job) -> JsonObject:
        hosts = self.resources.hosts
        return {
            "parallelism": hosts,
            "completions": hosts,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": {"spec": self._pod(name, job)},
        }

    def _pod(self, name: str, job: Job) -> JsonObject:
        r = self.resources
        environment = {SUBMISSION: name}
        if not r.topology and r.nodes > 1:  # on a TPU slice JAX finds the processes itself
            environment |= {
                "CLIP_JAX_COORDINATOR": f"{name}-train-0-0.{name}:{PORT}",
                "CLIP_JAX_PROCESSES": str(r.nodes),
            }
        environment |= device_variables("tpu" if r.topology else "gpu", r.devices_per_process, r.devices)
        environment |= compile_cache_of(self.sweep_dir) | r.variables
        limits: JsonObject = {}
        if r.accelerator:
            limits["google.com/tpu" if r.topology else "nvidia.com/gpu"] = r.devices_per_process
        limits |= {"cpu": r.cpus_per_process} if r.cpus_per_process else {}
        limits |= {"memory": r.memory} if r.memory else {}
        container: JsonObject = {
            "name": "train",
            "image": r.container_image,
            "command": [*self.program, *job.arguments],
            "env": [{"name": k, "value": v} for k, v in environment.items()],
            "volumeMounts": [{"name": "shared", "mountPath": r.mount_path}] if r.mount_path else [],
        }
        claim = {"name": "shared", "persistentVolumeClaim": {"claimName": r.pvc_name}}
        volumes: list[JsonObject] = [claim] if r.pvc_name else []
        if limits:
            container["resources"] = {"requests": dict(limits), "limits": limits}
        pod: JsonObject = {"restartPolicy": "Never", "terminationGracePeriodSeconds": r.grace_period_s}
        if r.topology:
            pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
            pod["nodeSelector"] = {
                "cloud.google.com/gke-tpu-accelerator": r.accelerator,
                "cloud.google.com/gke-tpu-topology": r.topology,
            }
        elif r.accelerator:
            pod["nodeSelector"] = {"cloud.google.com/gke-accelerator": r.accelerator}
            pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
            container["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
            volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        if not volumes:  # the sweep is in a bucket
            del container["volumeMounts"]
        return pod | {"containers": [container]} | ({"volumes": volumes} if volumes else {})


def _name(run_dir: Path) -> str:
    last = read_submission(run_dir)
    return last["name"] if last else ""


def _state(item: JsonObject) -> str:
    over = {c["type"] for c in item.get("status", {}).get("conditions", []) if c["status"] == "True"}
    if over & {"Completed", "Failed"} or item["metadata"].get("deletionTimestamp"):
        return ""
    return "queued" if item["spec"].get("suspend") else "running"
