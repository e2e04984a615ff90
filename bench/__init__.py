"""Speed and memory of this proxy beside others; see `docs/bench.md`."""
