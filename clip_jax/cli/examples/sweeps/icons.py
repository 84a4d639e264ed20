"""Named icons by hundreds of designers: real drawings with real names, and whole families of sets held out.

Command:  clip-jax data icons data/icons   (once; 15 minutes of CPU time, shared by the cores)
          CLIP_JAX_DATA=data/icons clip-jax sweep run --config=sweeps/icons.py
Hardware: 2 CPU cores; see experiments/results/icons for what it took and gave.

The law is fitted to the zero-shot error on the 39 names that most designers drew (home, user, arrow left …), by hands
that training never shows. The 471 names of icons-common, groups of emoji, styles, flags and single emoji
stand beside it: at the smallest budgets some are near chance.
"""

import os

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    root = os.environ.get("CLIP_JAX_DATA", "data/icons")
    return ConfigDict(
        {
            "name": "icons",
            "base": {
                "model": {
                    "scan_layers": False,
                    "image": {"image_size": 32, "patch_size": 8},
                    "text": {"context_length": 16, "vocab_size": 4096},
                },
                "data": {
                    "source": "webdataset",
                    "paths": (root,),
                    "cache_decoded": True,  # 3 kB a picture at this size, 1 GB for all of them
                    "tokenizer_train_captions": 60_000,
                    "num_threads": 1,
                },
                "evals": {
                    "zero_shot": (f"{root}/eval/icons-basic",),
                    "unscored_tasks": tuple(
                        f"{root}/eval/{name}" for name in ("icons-common", "emoji-groups", "styles", "flags", "emoji")
                    ),
                    "max_examples": 0,
                    "val_pairs": 1024,
                    "val_partitions": 2,
                    "retrieval_images": 1000,
                },
                "optim": {"weight_decay": 0.2},
                "batch_size": 256,
                "checkpoint_every": 1000,
                "wandb": "disabled",
            },
            "rungs": (0.5, 1, 1.5, 2, 3, 4, 5, 6, 8),
            "budgets": (4.6e10, 1e11, 2.2e11, 4.6e11, 1e12, 2.2e12, 4.6e12, 1e13),
            "sizes_per_budget": 4,
            "optimum_samples_per_param": 4.0,
            "extra_seeds_at_optimum": (1, 2),
            "base_lr": 3e-3,
            "lr_multipliers": (0.5, 2.0),
            "lr_multipliers_at": "rungs",
            "min_steps": 40,
            "max_epochs": 20,
            "max_concurrent_runs": 2,
            "gflops_per_second": 15,
        }
    )
