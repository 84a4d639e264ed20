"""Learning rate and weight decay of the smallest model, by TPE with successive halving: how a search is written.

Command:  clip-jax sweep search --config=sweeps/search_debug.py
Hardware: 2 CPU cores, a few minutes. Expect: best.json with a rate inside the range.
"""

from ml_collections import ConfigDict

from clip_jax.config.io import to_dict
from clip_jax.config.presets import ladder


def get_config() -> ConfigDict:
    model = to_dict(ladder(0.5))
    model["image"] |= {"image_size": 32, "patch_size": 16}
    model["text"] |= {"context_length": 20, "vocab_size": 1024}
    return ConfigDict(
        {
            "name": "search_debug",
            "base": {
                "model": model | {"scan_layers": False},
                "data": {"source": "scenes", "num_threads": 1},
                "evals": {"zero_shot": ("scenes",), "max_examples": 240, "at_fractions": (0.25, 0.5)},
                "batch_size": 64,
                "steps": 400,
                "optim": {"warmup_steps": 40},
                "wandb": "disabled",
            },
            "space": ("optim.peak_lr = log(5e-4, 5e-2)", "optim.weight_decay = choice(0, 0.1, 0.3)"),
            "method": "tpe",
            "trials": 16,
            "survivor_fraction": 0.5,
            "metric": "val_loss_refit",
            "max_concurrent_runs": 2,
        }
    )
