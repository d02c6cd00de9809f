"""The command line: `predict`, `attention`, `heads`, `sweep`, `search`; `serve` for the page."""
