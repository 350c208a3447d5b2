"""The journal's own files on a user's behalf: backups, repairs, accepted losses, heads and receipts as witnesses."""
