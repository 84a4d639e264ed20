"""A published CLIP, trained further on pictures of your own.

Command:  clip-jax train --config=finetune.py --dir=runs/finetune
Edit:     PICTURES and SOURCE. The weights are downloaded from the Hugging Face hub when the run begins.
Hardware: one GPU.
Then:     clip-jax classify PICTURE.jpg --labels "a dog" "a cat" --model=runs/finetune
"""

from ml_collections import ConfigDict

# A folder of pictures with captions.csv, whose columns filename and caption name a picture and its text; a picture may
# have several rows. The path is relative to where the command is run.
PICTURES = "pictures"
SOURCE = "openai/ViT-B-32"  # or open_clip:MODEL/TAG, hf:OWNER/NAME, a weights file or folder, a run directory


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "model": "from source",  # or {"preset": "from source", "image": {"image_size": 288}}
            "init_from": {
                "source": SOURCE,
                "towers": "both",  # image: take the image tower alone, and begin the text tower at random
                "freeze_tower": "none",  # image: train the text tower alone, as in LiT
            },
            "data": {
                "source": "folder",  # or webdataset, for shards of .jpg and .txt
                "paths": (PICTURES,),
                "val_fraction": 0.1,  # held out by a hash of the name; drop it if PICTURES has train/ and val/
                "augment": "random_resized_crop",  # of training pictures, at random
            },
            "evals": {"zero_shot": ()},  # folders of labeled pictures, to measure classification
            # the published weights are a good start: a small rate, smaller still in the first layers
            "optim": {"peak_lr": 1e-5, "layer_decay": 0.75},
            "batch_size": 128,
            "steps": 1000,  # or "epochs": 10, passes over the training pairs
            "wandb": "disabled",  # offline or online: mirror the metrics to Weights & Biases
        }
    )
