"""The commands as scripts, for a checkout and for Flex Templates; `beam_curate.commands` is what they run."""
