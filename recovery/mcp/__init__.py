"""The file of the MCP memory server: its lines, taking them in, and writing them."""
