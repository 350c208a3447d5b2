"""Agent configs beyond bytes and files: their states, valid versions from elsewhere, hot reload, edits by hand."""
