"""`beam-curate export` as a script: what a checkout and a Flex Template start."""

import sys

if __name__ == "__main__":
    if not __package__:
        del sys.path[0]  # the scripts' folder, where `select` is not the standard library's
    from beam_curate.commands.starting import run

    run("export")
