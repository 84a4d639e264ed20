"""One arm of a comparison on named icons: everything at its default but what the command line says.

Command:  clip-jax sweep run --config=sweeps/icons_arms.py --dir=runs/arms/NAME FIELDS
            transformer   (no fields)
            bag           --base.model.text.encoder=bag_of_words
            predict_bag   --base.model.objective=bag_of_words
            caption       --base.model.objective=caption
            resnet        --base.model.image.patch_size=32 --base.model.image.depth=4
                          --base.model.image.stages='[1,1,1,1]'
            unique_N      --base.data.unique_samples=N --budgets='[1e12]'
          The records of all are in experiments/results/icons_arms.
Hardware: 2 CPU cores, about 4 minutes an arm.

One size, so that the arms share their image tower; the budget is what is matched, and an arm that spends less on a pair
sees more of them.
"""

import os

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    root = os.environ.get("CLIP_JAX_DATA", "data/icons")
    return ConfigDict(
        {
            "name": "icons_arms",
            "base": {
                "model": {
                    "scan_layers": False,
                    "image": {"image_size": 32, "patch_size": 8},
                    "text": {"context_length": 16, "vocab_size": 4096},
                },
                "data": {
                    "source": "webdataset",
                    "paths": (root,),
                    "cache_decoded": True,
                    "tokenizer_train_captions": 60_000,
                    "num_threads": 1,
                },
                "evals": {
                    "zero_shot": (f"{root}/eval/icons-basic",),
                    "unscored_tasks": tuple(f"{root}/eval/{name}" for name in ("emoji-groups", "styles")),
                    "max_examples": 0,
                    "val_pairs": 1024,
                    "val_partitions": 2,
                },
                "optim": {"weight_decay": 0.2},
                "batch_size": 256,
                "checkpoint_every": 1000,
                "wandb": "disabled",
            },
            "rungs": (1.5,),
            "budgets": (1e11, 3.3e11, 1e12),
            "seeds": (0, 1),
            "extra_seeds_at_optimum": (),
            "base_lr": 3e-3,
            "lr_multipliers": (),
            "min_steps": 20,
            "max_concurrent_runs": 2,
            "gflops_per_second": 10,
        }
    )
