"""What several rooms of tests share: stubs, made files, whole jobs."""
