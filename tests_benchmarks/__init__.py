"""The benchmarks on tiny input; `make test-benchmarks` runs these tests."""
