"""The whole story in a quarter of an hour: six budgets over 100× of FLOPs, on rendered scenes.

Command:  clip-jax sweep run --config=sweeps/quickstart.py
Hardware: 2 CPU cores.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "name": "quickstart",
            "base": {
                "model": {
                    "scan_layers": False,  # unrolled layers are faster on a CPU
                    "image": {"image_size": 32, "patch_size": 16},
                    # patches of 16 hold one object each
                    "text": {"context_length": 20, "vocab_size": 1024},
                },
                "data": {"source": "scenes", "num_threads": 1},
                "evals": {
                    "zero_shot": ("scenes",),
                    "max_examples": 480,
                    "at_fractions": (0.25, 0.5),
                    "val_pairs": 1024,
                    "val_partitions": 2,
                },
                "batch_size": 64,
                "checkpoint_every": 4000,
                "wandb": "disabled",
            },
            "rungs": (0.5, 1, 1.5, 2, 3),
            "budgets": (1e10, 2.5e10, 6.3e10, 1.6e11, 4e11, 1e12),
            "sizes_per_budget": 4,
            "optimum_samples_per_param": 2.0,
            "seeds": (0,),
            "extra_seeds_at_optimum": (1, 2),
            "base_lr": 4e-3,
            "base_width": 32,
            "lr_multipliers": (0.5, 2.0),
            "min_steps": 30,
            "max_concurrent_runs": 2,  # one core each
            "gflops_per_second": 14,
        }
    )
