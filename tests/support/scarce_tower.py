"""The towers of the small models as `curate` loads them, also in the process of a copy, which learns of these models here.

With little memory a call with more than `MOST` places does not fit, as on a GPU that is too small for the batch.
"""

import functools

import torch

from beam_curate.clip import caption_handler, handler
from tests.support import models

MOST = 2
"""Images or texts in the largest call that fits."""

_load_visual, _load_text = handler._load_tower, caption_handler._load_tower
assert models.SMALL


def visual(*given, **how):
    """The visual tower."""
    return _load_visual(*given, **how)


def scarce_visual(*given, **how):
    """The visual tower, with little memory."""
    return _limited(_load_visual(*given, **how))


def text(*given, **how):
    """The text tower."""
    return _load_text(*given, **how)


def scarce_text(*given, **how):
    """The text tower, with little memory."""
    return _limited(_load_text(*given, **how))


def _limited(tower):
    embed = tower.embed

    @functools.wraps(embed)
    def limited(items, places):
        if places > MOST:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return embed(items, places)

    tower.embed = limited
    return tower


def put_in(patch, *, scarce=False):
    """Has `curate` load these."""
    patch.setattr(handler, "_load_tower", scarce_visual if scarce else visual)
    patch.setattr(caption_handler, "_load_tower", scarce_text if scarce else text)
