"""The commands: each file is a script with its options, `build` and `main`."""
