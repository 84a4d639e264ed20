"""One small CLIP on pictures of your own.

Command:  clip-jax train --config=photos.py --dir=runs/photos
Edit:     PICTURES, and whatever else you like; `clip-jax config` prints every field with its meaning.
Hardware: 2 CPU cores, a few minutes; on a GPU use a larger model, as "model": {"preset": "ViT-S/32"}.
Then:     clip-jax classify PICTURE.jpg --labels "a dog" "a cat" --model=runs/photos
"""

from ml_collections import ConfigDict

# A folder of pictures with captions.csv, whose columns filename and caption name a picture and its text; a picture may
# have several rows. The path is relative to where the command is run.
PICTURES = "pictures"


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": {
                "scan_layers": False,  # unrolled layers are faster on a CPU
                "embed_dim": 64,
                "image": {"width": 64, "depth": 2, "heads": 4, "image_size": 64, "patch_size": 16},
                "text": {"width": 64, "depth": 2, "heads": 4, "context_length": 32, "vocab_size": 4096},
            },
            "data": {
                "source": "folder",  # or webdataset, for shards of .jpg and .txt
                "paths": (PICTURES,),
                "val_fraction": 0.1,  # held out by a hash of the name; drop it if PICTURES has train/ and val/
                "augment": "square_crop",  # of training pictures, at random
                "cache_decoded": True,  # decode each picture once
            },
            "evals": {"zero_shot": ()},  # folders of labeled pictures, to measure classification
            "optim": {"peak_lr": 2e-3, "weight_decay": 0.2},
            "batch_size": 128,
            "steps": 1000,  # or "epochs": 10, passes over the training pairs
            "wandb": "disabled",  # offline or online: mirror the metrics to Weights & Biases
        }
    )
