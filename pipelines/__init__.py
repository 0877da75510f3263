"""The systems under test. They know nothing of the harness but `pipelines.contract`."""
