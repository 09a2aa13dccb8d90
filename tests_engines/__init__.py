"""The commands on other engines than the local one; `make test-engines` runs these tests."""
