"""What changes how `curate` runs the model, where, or the graph about it: for tests that go through all, and through pairs."""

import itertools

from tests.support.models import LARGER_SMALL

CHANGES = {
    "copies": ["--model_copies=2"],
    "captions": ["--caption_score"],
    "a second model": [f"--second_model={LARGER_SMALL}=random"],
    "the device": ["--device=cpu"],
    "DALI": ["--decoder=dali"],
    "DALI on the host": ["--decoder=dali", "--dali_device=cpu"],
    "decoding threads": ["--decode_threads=2"],
    "batches": ["--batch_size=3"],
    "precision": ["--precision=bf16"],
    "scores of images": ["--quality=sharpness,brightness"],
    "a screen": ["--screen=side >= 45"],
    "a scorer of images": ["--scorer=red_scorer:Redness"],
    "words": ["--prompt=cat=a photo of a cat"],
    "duplicates": ["--dedup=exact", "--keep_by=first"],
    "the best": ["--top=width=5"],
    "a table alone": ["--table_only"],
    "shuffled": ["--shuffle_seed=3"],
    "layouts": ["--layout=laion"],
    "resumed": ["--resume"],
    "failed samples again": ["--retry_failed=too_many_pixels"],
    "little memory": [],
}
"""The options of each change. The last one has none: it is the machine's."""

GPUS = {
    "a GPU": ["--accelerator=l4"],
    "a GPU for scoring": ["--accelerator=l4", "--gpu_placement=scoring"],
}
"""The same, on Dataflow alone."""

REFUSED_WITH_A_GPU = {"the device": "with --device cpu would leave the GPU idle; leave one of them out"}
COPIES_WITH_DALI = (
    "--model_copies 2 with --decoder dali: each worker process, one a core, would have a DALI of its own on the GPU"
)
"""What `curate` says there of a change, and of these two."""

NO_CHANGE = {
    "input and output": ["input", "output", "overwrite", "samples_per_shard"],
    "which model, and how it sees": ["model_dir", "clip_model", "pretrained", "quick_gelu", "preprocess", "exif_orientation"],
    "scores from embeddings, one by one": ["aesthetic_head", "nsfw_head", "nsfw_chain", "head"],
    "rules on a row alone; a share as a number of the best": ["min_aesthetic", "max_nsfw", "min_side", "keep", "top_fraction"],
    "limits of what is read": ["max_pixels", "max_member_bytes", "max_shard_bytes", "image_extension"],
    "how duplicates are found": ["max_comparisons", "eps", "n_clusters", "border", "max_distance", "mirrored"],
}  # fmt: skip
"""All other options: they change neither the graph nor how the model runs."""

HIDES = {
    "DALI": {"a second model", "scores of images", "a screen", "a scorer of images", "copies", "the device"},
    "DALI on the host": {"the device"},
    "shuffled": {"a table alone"},
}
"""With which others a change comes to a way of its own through the code, on which a third would see another one."""

REFUSED = {
    (
        "a table alone",
        "layouts",
    ): "--layout laion needs shards, which --table_only does not write; leave one of them out",
}
"""The pairs that `curate` refuses, and what it says."""


def options_of(words):
    """The names of the options among the words of a command line."""
    return {word[2:].partition("=")[0] for word in words if word.startswith("--")}


def pairs():
    """All pairs of changes that are not two values of one option."""
    both = itertools.combinations(CHANGES, 2)
    return [(a, b) for a, b in both if not options_of(CHANGES[a]) & options_of(CHANGES[b])]


def together(most):
    """Sets of at most so many changes, in which each pair that is not refused occurs, and no third change hides it."""
    left = [pair for pair in pairs() if pair not in REFUSED]
    allowed = set(left)
    found = []
    while left:
        made = list(left[0])
        while len(made) < most:
            more = [each for each in CHANGES if each not in made and _fits(each, made, allowed)]
            gain = {each: sum(_pair(each, other) in left for other in made) for each in more}
            best = max(gain, key=gain.__getitem__, default=None)
            if best is None or not gain[best]:
                break
            made.append(best)
        made.sort(key=[*CHANGES].index)
        left = [pair for pair in left if not set(pair) <= set(made)]
        found.append(tuple(made))
    return found


def _pair(a, b):
    return (a, b) if [*CHANGES].index(a) < [*CHANGES].index(b) else (b, a)


def _fits(each, made, allowed):
    if not all(_pair(each, other) in allowed for other in made):
        return False
    return not any({*made, each} & HIDES.get(other, set()) for other in (*made, each))
