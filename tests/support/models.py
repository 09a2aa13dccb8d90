"""A small CLIP model with random weights, for runs in which the model is not what is tested.

Two blocks of 64 channels instead of the twelve of 384 of open_clip's smallest: it is built in a hundredth of a second, and runs
as fast. It sees images as that one does, and its embeddings have as many numbers. open_clip knows it in this process alone: a
process that a test starts needs a model of open_clip's own.
"""

import copy
import json
import pathlib
import tempfile

import open_clip

SMALL = "small-vit-of-the-tests"
MODEL = [f"--clip_model={SMALL}", "--pretrained=random", "--aesthetic_head=random", "--nsfw_head=random"]
"""The options of curate that name it, with heads for it."""

_CONFIG = {
    "embed_dim": 256,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}

SECOND_SMALL = "second-small-vit-of-the-tests"
"""Another, which sees the same pixels; its embeddings are 384 numbers."""
LARGER_SMALL = "larger-vit-of-the-tests"
"""Another, which sees 256 x 256 pixels; its embeddings are 512 numbers."""

_OTHERS = {SECOND_SMALL: (384, 224), LARGER_SMALL: (512, 256)}


def _configs():
    yield SMALL, _CONFIG
    for name, (width, size) in _OTHERS.items():
        config = copy.deepcopy(_CONFIG)
        config["embed_dim"], config["vision_cfg"]["image_size"] = width, size
        yield name, config


with tempfile.TemporaryDirectory() as _folder:
    for _name, _config in _configs():
        (pathlib.Path(_folder) / f"{_name}.json").write_text(json.dumps(_config))
    open_clip.add_model_config(pathlib.Path(_folder))
