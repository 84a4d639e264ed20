"""The four objectives of the CLIP paper's efficiency figure on rendered scenes, one field apart.

Command:  clip-jax train --config=experiments/objectives_debug.py                                        transformer
          clip-jax train --config=experiments/objectives_debug.py --model.text.encoder=bag_of_words      the figure's
          clip-jax train --config=experiments/objectives_debug.py --model.objective=bag_of_words         predictive
          clip-jax train --config=experiments/objectives_debug.py --model.objective=caption              language model
Hardware: 2 CPU cores. Time: 46, 18, 10 and 58 s of CPU, the last with --evals.max_examples=48 --evals.prior_images=24:
a language model scores every prompt for every picture, which costs more than its training.
Expect:   mean zero-shot error 0.63, 0.57, 0.72 and 0.79 (chance 0.87) for 706, 71, 79 and 1190 GFLOPs of training.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            # the text side keeps its default shape, which the arms without a transformer do not have
            "model": {
                "scan_layers": False,
                "embed_dim": 32,
                "image": {"width": 32, "depth": 2, "heads": 4, "image_size": 32, "patch_size": 16},
                "text": {"context_length": 20, "vocab_size": 1024},
            },
            "optim": {"peak_lr": 3e-3, "warmup_steps": 40},
            "evals": {"max_examples": 200},
            "batch_size": 128,
            "steps": 400,
            "wandb": "disabled",
        }
    )
