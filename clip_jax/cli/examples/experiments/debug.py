"""One tiny model on rendered scenes: to see that everything works.

Command:  clip-jax train --config=experiments/debug.py
Hardware: 1 CPU core. Time: under a minute. Expect: mean zero-shot error about 0.7 (chance 0.85).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    tower = {"width": 24, "depth": 1, "heads": 3}
    return ConfigDict(
        {
            "model": {
                "scan_layers": False,
                "embed_dim": 24,
                "image": {**tower, "image_size": 32, "patch_size": 16},
                "text": {**tower, "context_length": 20, "vocab_size": 1024},
            },
            "optim": {"peak_lr": 4.6e-3, "warmup_steps": 40},
            "batch_size": 128,
            "steps": 400,
            "wandb": "disabled",
        }
    )
