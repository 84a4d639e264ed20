"""Real photographs with human captions: Flickr8k, RSICD (aerial) and Openclipart, 17,015 pictures, 54,420 captions.

Command:  CLIP_JAX_DATA=FOLDER clip-jax sweep run --config=sweeps/photos.py
          FOLDER holds pairs/{flickr8k,rsicd,openclipart} and eval/*: shards as in docs/tutorials/own-pictures.md.
Hardware: 2 CPU cores, about 20 minutes. Expect: see experiments/results/photos/.

The law is fitted to the mean zero-shot error of the three sets near the training pictures. The other sets are
negative controls: at this scale they stand near chance, and they enter no mean.
"""

import os

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    root = os.environ.get("CLIP_JAX_DATA", "data")
    return ConfigDict(
        {
            "name": "photos",
            "base": {
                "model": {
                    "scan_layers": False,
                    "image": {"image_size": 32, "patch_size": 8},
                    "text": {"context_length": 24, "vocab_size": 4096},
                },
                "data": {
                    "source": "webdataset",
                    "paths": tuple(f"{root}/pairs/{name}" for name in ("flickr8k", "rsicd", "openclipart")),
                    "augment": "square_crop",
                    "cache_decoded": True,
                    "tokenizer_train_captions": 60_000,
                    "num_threads": 1,
                },
                "evals": {
                    "zero_shot": tuple(f"{root}/eval/{name}" for name in ("rsicd_scene30", "ucm21", "sports100")),
                    "unscored_tasks": tuple(
                        f"{root}/eval/{name}" for name in ("cifar10", "food10", "birds525", "minerals7", "brain_mri4")
                    ),
                    "max_examples": 0,
                    "val_pairs": 1024,
                    "val_partitions": 2,
                    "retrieval_images": 0,
                    "at_fractions": (0.5,),
                },
                "optim": {"weight_decay": 0.2},
                "batch_size": 256,
                "checkpoint_every": 1000,
                "wandb": "disabled",
            },
            "rungs": (1, 1.5, 2, 3, 4, 6),
            "budgets": (1e11, 2.2e11, 4.7e11, 1e12, 2.2e12),
            "sizes_per_budget": 3,
            "optimum_samples_per_param": 1.0,
            "extra_seeds_at_optimum": (1,),
            "base_lr": 3e-3,
            "lr_multipliers": (0.5, 2.0),
            "min_steps": 40,
            "max_epochs": 60,
            "max_concurrent_runs": 2,
            "gflops_per_second": 20,
        }
    )
