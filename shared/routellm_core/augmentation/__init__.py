"""More labels: golden ones from benchmarks with answers, and those of a judge model."""
