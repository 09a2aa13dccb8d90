"""The long tests of storage that fails: `make test-faults`."""
