"""The published vision transformers on a pod: ViT-B/32, B/16 and L/14 at batch 32,768.

Command:  clip-jax sweep preflight --config=sweeps/pod.py --target=v5e:16x16
          clip-jax sweep run --config=sweeps/pod.py --engine=jobset …
Edit:     CLIP_JAX_DATA, the folder or bucket with the shards; the environment variable, or its default below.
Hardware: 256 TPU v5e, or what --target names. Expect: the tables of benchmarks/RESULTS.md; no run of it was paid for.
"""

import os

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    root = os.environ.get("CLIP_JAX_DATA", "gs://BUCKET/DATA")
    return ConfigDict(
        {
            "name": "pod",
            "base": {
                "model": {"compute_dtype": "bfloat16"},  # keeps the dense layers' products; preflight says where less
                "data": {
                    "source": "webdataset",
                    "paths": (f"{root}/train-{{00000..09999}}.tar",),
                    "val_paths": (f"{root}/val-{{00000..00009}}.tar",),
                    "augment": "random_resized_crop",
                    "num_workers": 16,  # 700 pictures per second per core; four v5e chips want 7,000 for B/32
                },
                "evals": {"zero_shot": (f"{root}/imagenet",), "max_examples": 0},
                "optim": {"weight_decay": 0.2},
                "loss": {"implementation": "ring"},
                "batch_size": 32768,
                "checkpoint_every": 1000,
                "wandb": "offline",
            },
            "models": ("ViT-B/32", "ViT-B/16", "ViT-L/14"),
            "budgets": (1e20, 1e21),
            "sizes_per_budget": 0,
            "lr_rule": "width_power",
            "base_lr": 1e-3,
            "base_width": 768,
            "min_steps": 1000,
            "gflops_per_second": 2e7,
        }
    )
