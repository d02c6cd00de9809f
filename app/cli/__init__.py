"""The command line: `predict`, `attention`, `sweep`, `search`, and `serve` for the page."""
