"""The commands: each module has its options, `build` and `main`; `starting` begins them."""
